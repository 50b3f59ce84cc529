"""A server with canned answers, for what a real service does not do on demand."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OURS = {"X-LLM-Optimizer-Version": "0.1.0"}


@dataclass(frozen=True)
class Canned:
    """``body`` is an object, a list of lines, or text; ``promised_bytes`` more are promised."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    promised_bytes: int = 0
    is_held: bool = False
    """The answer does not come to its end while the service is there."""

    @property
    def content(self) -> bytes:
        if isinstance(self.body, list):
            return b"".join(json.dumps(line).encode() + b"\n" for line in self.body)
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeService:
    url: str
    answers: dict[str, Canned]
    asked: list[Asked]


@contextlib.contextmanager
def fake_service(answers: Mapping[str, Canned] | None = None) -> Iterator[FakeService]:
    """Answers by path; it says that it is an llm-optimizer unless it is told otherwise."""
    told = {"/api/version": Canned({"version": "0.32.15"}, headers=OURS), **(answers or {})}
    asked: list[Asked] = []
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(Asked(self.command, self.path, dict(self.headers), body))
            canned = told.get(self.path, Canned("404 page not found", 404))
            self.send_response(canned.status)
            for name, value in canned.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(canned.content) + canned.promised_bytes))
            self.end_headers()
            self.wfile.write(canned.content)
            if canned.is_held:
                closing.wait()

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield FakeService(f"http://127.0.0.1:{server.server_port}", told, asked)
    finally:
        closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
