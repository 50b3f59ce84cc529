"""A server of OpenAI's or Ollama's API that does what a test tells it: the faults that no real one makes on
demand."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Call(BaseHTTPRequestHandler):
    """A request, with the words that a script answers it in."""

    server: "Scripted"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The models."""
        self._run(self.server.looks)

    def do_POST(self) -> None:
        """Everything else."""
        length = int(self.headers.get("content-length", 0))
        self.body: dict[str, Any] = json.loads(self.rfile.read(length) or b"{}")
        if self.path.endswith(("tokenize", "apply-template")):
            self.server.counted.append((self.path, self.body))
            self._run(self.server.counts)
            return
        self.server.asked.append((self.path, self.body))
        self.server.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
        script = self.server.scripts.pop(0) if len(self.server.scripts) > 1 else self.server.scripts[0]
        self._run(script)

    def _run(self, script: Callable[["Call"], None]) -> None:
        with contextlib.suppress(ConnectionError):
            script(self)

    def status(self, status: int, body: Any = None, **headers: str) -> None:
        """A whole answer."""
        data = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin(self) -> None:
        """The head of a stream that ends with the connection."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, data: Any) -> None:
        """An event of OpenAI's stream."""
        text = data if isinstance(data, str) else json.dumps(data)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def words(self, text: str, **more: Any) -> None:
        """A piece of OpenAI's answer."""
        self.event({"choices": [{"index": 0, "delta": {"content": text}, **more}]})

    def end(self, reason: str = "stop", usage: dict[str, Any] | None = None) -> None:
        """The end of OpenAI's answer."""
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if usage is not None:
            self.event({"choices": [], "usage": usage})
        self.event("[DONE]")

    def hang_up(self) -> None:
        """Break the connection."""
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the tests' output clean."""


class Scripted(ThreadingHTTPServer):
    """``scripts`` are run one a request, the last for all that follow."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Call)
        self.scripts: list[Callable[[Call], None]] = [hello]
        self.looks: Callable[[Call], None] = lambda call: call.status(200, {"data": [{"id": "far"}]})
        self.counts: Callable[[Call], None] = lambda call: call.status(404, {"error": "not found"})
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.counted: list[tuple[str, dict[str, Any]]] = []
        self.headers_seen: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        """Its base."""
        return f"http://127.0.0.1:{self.server_address[1]}"


def hello(call: Call) -> None:
    """A short answer, well made."""
    call.begin()
    call.words("Hello")
    call.words(" there")
    call.end(
        usage={"prompt_tokens": 11, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    )


@contextlib.contextmanager
def scripted() -> Iterator[Scripted]:
    """A server for as long as the block lasts."""
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
