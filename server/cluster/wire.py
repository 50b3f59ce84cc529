"""What travels between the ingress and a machine's service."""

from dataclasses import dataclass, field, replace

from server.cluster.beginnings import Beginnings


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with its whole body, so that it can be sent again. ``headers`` have lower-case names."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    client: tuple[str, int] | None
    scheme: str
    body: bytes
    begins: Beginnings = field(default_factory=Beginnings)

    def header(self, name: bytes) -> str:
        """The first header of this name; empty where there is none."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")

    def with_plain_body(self, body: bytes) -> "Asked":
        """The same request with another body, which is JSON as it stands."""
        kept = tuple(
            (name, value)
            for name, value in self.headers
            if name not in (b"content-length", b"content-encoding", b"transfer-encoding")
        )
        return replace(self, body=body, headers=(*kept, (b"content-length", str(len(body)).encode())))

    def with_header(self, name: bytes, value: bytes) -> "Asked":
        """The same request with this header in place of any of that name."""
        kept = tuple((key, held) for key, held in self.headers if key != name)
        return replace(self, headers=(*kept, (name, value)))


@dataclass(frozen=True, slots=True)
class Taken:
    """The first word of an answer: ``replica`` has the request and works on it."""

    replica: str


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """More of an answer's body."""

    body: bytes


Said = Taken | Head | Piece


@dataclass(frozen=True, slots=True)
class Whole:
    """A complete answer of one replica."""

    replica: str
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters."""
        held = next((value for name, value in self.headers if name.lower() == b"content-type"), b"")
        return held.decode("latin-1").partition(";")[0].strip()


class ReplicaLost(Exception):
    """The replica that had the request is gone; its answer ends here."""


class NobodyThere(Exception):
    """No replica at all can be asked."""
