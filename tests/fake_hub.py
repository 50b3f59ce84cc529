"""A model hub on the loopback interface: what the hub's own client library asks for, with faults and lies."""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"
PIECE_BYTES = 2**16
WAIT_S = 60
POLL_S = 0.02
"""How often it looks whether it is to end."""
SMALLEST_BREAK = 1000
PAGE = b"<html>Please sign in to this network.</html>"


class Lie(Enum):
    """How one download is answered wrongly."""

    WHOLE_FILE = auto()
    """200 and all of it, whatever part was asked for."""
    OTHER_PART = auto()
    """206 and all of it, and its headers say so."""
    SILENT_PART = auto()
    """206 without a word on which part it is."""
    WRONG_BYTES = auto()
    """The right headers, and other bytes."""
    OTHER_TOTAL = auto()
    """The right part of a file that is said to be longer."""
    PAGE = auto()
    """200 and a web page, as a network sends that wants a sign-in."""
    TOO_MANY = auto()
    """No length, and more bytes than there are."""
    TOO_FEW = auto()
    """No length, and half of what is left."""
    NOTHING = auto()
    """No length, and no bytes."""
    NO_SUCH_PART = auto()
    """416."""
    SILENCE = auto()
    """No answer at all, until ``go_on``."""


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

    ``faults`` has one for each coming download: a status to refuse it with, from 1000 on the bytes after
    which its connection ends, or a lie. Downloads wait for ``go_on`` after ``hold_after_bytes``.
    ``refusals`` are of whole repositories: a status and the hub's code for it. ``page``, where there is
    one, answers every question for what a repository has. ``tokens`` are those that were sent along.
    With ``has_store`` the files come from another address, as those of the real hub do.
    """

    repositories: dict[str, Mapping[str, HubFileOnDemand]] = field(default_factory=dict)
    faults: list[int | Lie] = field(default_factory=list)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    page: bytes | None = None
    has_store: bool = False
    tokens: list[str | None] = field(default_factory=list)
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
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if found := re.fullmatch("/api/models/([^/]+/[^/]+)", path):
            self._tell(found[1])
        elif found := re.fullmatch(f"/([^/]+/[^/]+)/resolve/{REVISION}/(.+)", path):
            if self.hub.has_store:
                self._begin(302, {"Location": f"/store/{found[1]}/{found[2]}", "Content-Length": 0})
            else:
                self._send(found[1], found[2])
        elif found := re.fullmatch("/store/([^/]+/[^/]+)/(.+)", path):
            self._send(found[1], found[2])
        else:
            self._refuse(404, "EntryNotFound")

    def log_message(self, *_: Any) -> None:
        pass

    def _tell(self, repository: str) -> None:
        self.hub.tokens.append(self.headers.get("Authorization"))
        if self.hub.page is not None:
            self._begin(200, {"Content-Type": "text/html", "Content-Length": len(self.hub.page)})
            self.wfile.write(self.hub.page)
            return
        if repository in self.hub.refusals:
            self._refuse(*self.hub.refusals[repository])
            return
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
        file = hub.repositories[repository][name]
        if isinstance(fault, Lie):
            self._lie(fault, file)
        elif fault is not None and fault < SMALLEST_BREAK:
            self._refuse(fault, "")
        else:
            self._begin_part(file, self._asked_from(), len(file.content))
            self._send_pieces(file.content[self._asked_from() :], fault)

    def _asked_from(self) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")
        return int(found[1]) if found else 0

    def _begin_part(self, file: HubFileOnDemand, start: int, size: int) -> None:
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

    def _lie(self, lie: Lie, file: HubFileOnDemand) -> None:
        start, content = self._asked_from(), file.content
        match lie:
            case Lie.WHOLE_FILE:
                self._begin_part(file, 0, len(content))
                self._send_pieces(content, None)
            case Lie.OTHER_PART:
                range_ = f"bytes 0-{len(content) - 1}/{len(content)}"
                self._begin(206, {"Content-Length": len(content), "Content-Range": range_})
                self._send_pieces(content, None)
            case Lie.SILENT_PART:
                self._begin(206, {"Content-Length": len(content) - start})
                self._send_pieces(content[start:], None)
            case Lie.WRONG_BYTES:
                self._begin_part(file, start, len(content))
                self._send_pieces(bytes(byte ^ 1 for byte in content[start:]), None)
            case Lie.OTHER_TOTAL:
                self._begin_part(file, start, len(content) + 5)
                self.close_connection = True
            case Lie.PAGE:
                self._begin(200, {"Content-Type": "text/html", "Content-Length": len(PAGE)})
                self.wfile.write(PAGE)
            case Lie.TOO_MANY | Lie.TOO_FEW | Lie.NOTHING:
                self._send_without_length(lie, content, start)
            case Lie.NO_SUCH_PART:
                self._refuse(416, "")
            case Lie.SILENCE:
                self.hub.held.set()
                self.hub.go_on.wait(WAIT_S)
                self.close_connection = True

    def _send_without_length(self, lie: Lie, content: bytes, start: int) -> None:
        end = {Lie.TOO_MANY: len(content), Lie.TOO_FEW: (start + len(content)) // 2, Lie.NOTHING: start}[lie]
        part = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self._begin(206 if start else 200, {"Connection": "close", **part})
        surplus = b"more" if lie is Lie.TOO_MANY else b""
        self._send_pieces(content[start:end] + surplus, None)
        self.close_connection = True

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
