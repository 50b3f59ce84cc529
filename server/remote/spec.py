"""How a model is reached that another server runs."""

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit


class Api(StrEnum):
    """What the other server speaks."""

    OPENAI = "openai"
    OLLAMA = "ollama"


@dataclass(frozen=True, slots=True)
class RemoteSpec:
    """``url`` is the API's base, without a slash at its end; ``model`` the name there. ``first_token_s`` is
    how long a prompt may take to be read, ``silence_s`` how long an answer may stand still after that.

    ``slots`` answers run at once and ``queue`` more requests wait here, ahead of whatever queue is there.
    ``exact``: whether the server is asked to count tokens, where it can.
    """

    url: str
    model: str
    api: Api = Api.OPENAI
    key: str = field(default="", repr=False)
    context_tokens: int = 4096
    abilities: frozenset[str] = frozenset({"completion"})
    connect_s: float = 5.0
    first_token_s: float = 300.0
    silence_s: float = 60.0
    retries: int = 2
    slots: int = 8
    queue: int = 64
    exact: bool = True

    @property
    def root(self) -> str:
        """Where the server's other routes are: the URL without ``/v1``."""
        return self.url.removesuffix("/v1")

    @property
    def host(self) -> str:
        """Scheme, host and port, as they may be told to anyone."""
        parts = urlsplit(self.url)
        port = "" if parts.port is None else f":{parts.port}"
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}{port}"
