"""A model hub on the loopback interface: what the hub's own client library asks for, and faults on demand."""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"
PIECE_BYTES = 2**16
WAIT_S = 60
SMALLEST_BREAK = 1000


@dataclass
class HubFileOnDemand:
    """A file of a repository. ``sha256`` and ``size_bytes`` may be lies."""

    content: bytes
    sha256: str = ""
    size_bytes: int = 0

    def __post_init__(self) -> None:
        self.sha256 = self.sha256 or hashlib.sha256(self.content).hexdigest()
        self.size_bytes = self.size_bytes or len(self.content)


@dataclass
class FakeHub:
    """Start it with ``with``.

    ``faults`` has one for each coming download: a status to refuse it with, or from 1000 on the bytes after
    which its connection ends. Downloads wait for ``go_on`` after ``hold_after_bytes``.
    """

    repositories: dict[str, Mapping[str, HubFileOnDemand]] = field(default_factory=dict)
    faults: list[int] = field(default_factory=list)
    hold_after_bytes: int | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    ranges: list[str | None] = field(default_factory=list)

    def add(self, repository: str, **files: HubFileOnDemand | bytes) -> None:
        """A repository; ``_gguf`` at the end of a key stands for ``.gguf``."""
        self.repositories[repository] = {
            re.sub("_gguf$", ".gguf", name): HubFileOnDemand(file) if isinstance(file, bytes) else file
            for name, file in files.items()
        }

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> "FakeHub":
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if found := re.fullmatch("/api/models/([^/]+/[^/]+)", path):
            self._tell(found[1])
        elif found := re.fullmatch(f"/([^/]+/[^/]+)/resolve/{REVISION}/(.+)", path):
            self._send(found[1], found[2])
        else:
            self._refuse(404, "EntryNotFound")

    def log_message(self, *_: Any) -> None:
        pass

    def _tell(self, repository: str) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            self._refuse(404, "RepoNotFound")
            return
        siblings = [
            {
                "rfilename": name,
                "size": file.size_bytes,
                "blobId": "0" * 40,
                "lfs": {"size": file.size_bytes, "sha256": file.sha256, "pointerSize": 134},
            }
            for name, file in files.items()
        ]
        body = json.dumps({"id": repository, "sha": REVISION, "siblings": siblings}).encode()
        self._begin(200, {"Content-Type": "application/json", "Content-Length": len(body)})
        self.wfile.write(body)

    def _send(self, repository: str, name: str) -> None:
        hub = self.hub
        hub.ranges.append(self.headers.get("Range"))
        fault = hub.faults.pop(0) if hub.faults else None
        if fault is not None and fault < SMALLEST_BREAK:
            self._refuse(fault, "")
            return
        file = hub.repositories[repository][name]
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")
        start = int(found[1]) if found else 0
        size = len(file.content)
        headers: dict[str, Any] = {
            "Content-Length": size - start,
            "Accept-Ranges": "bytes",
            "ETag": f'"{file.sha256}"',
            "X-Repo-Commit": REVISION,
            "X-Linked-Etag": f'"{file.sha256}"',
            "X-Linked-Size": file.size_bytes,
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self._begin(206 if start else 200, headers)
        self._send_pieces(file.content[start:], fault)

    def _send_pieces(self, content: bytes, end: int | None) -> None:
        hub = self.hub
        for place in range(0, len(content), PIECE_BYTES):
            if end is not None and place >= end:
                self.close_connection = True
                return
            if hub.hold_after_bytes is not None and place >= hub.hold_after_bytes:
                hub.held.set()
                hub.go_on.wait(WAIT_S)
            try:
                self.wfile.write(content[place : place + PIECE_BYTES])
            except OSError:
                self.close_connection = True
                return

    def _refuse(self, status: int, code: str) -> None:
        self._begin(status, {"X-Error-Code": code, "X-Error-Message": "planted", "Content-Length": 0})

    def _begin(self, status: int, headers: Mapping[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
