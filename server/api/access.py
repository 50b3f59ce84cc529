"""What one who asks may do: keys, rights, and how much at once."""

import base64
import contextlib
import hashlib
import hmac
import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from starlette.datastructures import Headers
from starlette.types import Scope

from server.config import Key, LimitSettings, Right
from server.domain.chat import RunOptions
from server.domain.errors import NotAllowed

MIB = 2**20

_OPEN = frozenset({"/", "/health", "/health/live", "/health/ready", "/dashboard", "/chat"})
"""What tells whether a server is there, and pages without what they show, which ask for a key themselves."""

_FILES_OF_PAGES = "/pages/"

_ADMINISTRATION = (
    *("/api/pull", "/api/create", "/api/copy", "/api/delete", "/api/blobs"),
    *("/api/router/original", "/api/captures", "/api/config"),
)
"""What changes the models there are, or shows what others have asked; and everything below each."""

_EVERYTHING = frozenset(Right)
_MOST_CREDENTIALS = 4


@dataclass(frozen=True, slots=True)
class Caller:
    """One who asks, by the name of a key or of an address, and what it may do and take."""

    name: str
    rights: frozenset[Right]
    body_bytes: int
    requests: int
    answer_tokens: int | None


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request goes no further, as a status and a text."""

    status: int
    text: str


class Access:
    """Knows the keys and the limits. Belongs to the event loop."""

    def __init__(self, limits: LimitSettings, keys: Sequence[Key]) -> None:
        self._limits = limits
        self._keys = tuple(keys)
        self._under_way: Counter[str] = Counter()

    def replace(self, limits: LimitSettings, keys: Sequence[Key]) -> None:
        """Go by other limits and keys from the next request on; they have been checked already."""
        self._limits = limits
        self._keys = tuple(keys)

    @property
    def has_keys(self) -> bool:
        """Whether one needs a key."""
        return bool(self._keys)

    def judged(self, scope: Scope) -> Caller | Denied | None:
        """Who asks, or why it may not; None for what is open to everybody."""
        right = needed_right(scope["path"])
        if right is None:
            return None
        headers = Headers(scope=scope)
        caller = self._caller(headers, scope.get("client"))
        if caller is None:
            return Denied(401, _unknown(_credentials(headers)))
        if right not in caller.rights:
            return Denied(403, self._lacking(right, caller))
        return caller

    @contextlib.contextmanager
    def passing(self, caller: Caller) -> Iterator[Denied | None]:
        """A request is under way for as long as the block lasts, unless there are too many."""
        if self._under_way[caller.name] >= caller.requests:
            yield Denied(429, f"{caller.requests} requests of {caller.name} are under way; try again soon")
            return
        self._under_way[caller.name] += 1
        try:
            yield None
        finally:
            self._under_way[caller.name] -= 1
            if not self._under_way[caller.name]:
                del self._under_way[caller.name]

    def _caller(self, headers: Headers, client: tuple[str, int] | None) -> Caller | None:
        if not self._keys:
            address = client[0] if client else "an unknown address"
            rights = _EVERYTHING if is_this_machine(address) else frozenset({Right.USE})
            return self._limited(address, rights, None)
        key = known_key(self._keys, _credentials(headers))
        return None if key is None else self._limited(f'the key "{key.name}"', key.rights, key)

    def _limited(self, name: str, rights: frozenset[Right], key: Key | None) -> Caller:
        limits = self._limits
        body_mib = (key and key.body_mib) or limits.body_mib
        requests = (key and key.requests) or limits.requests
        answer_tokens = (key and key.answer_tokens) or limits.answer_tokens or None
        return Caller(name, rights, body_mib * MIB, requests, answer_tokens)

    def _lacking(self, right: Right, caller: Caller) -> str:
        if self._keys:
            held = ", ".join(sorted(caller.rights))
            return f'this needs a key with the right "{right}", and {caller.name} has {held}; see keys_file'
        return (
            "while no keys are set, only this machine may change models or see what was asked; "
            f'give {caller.name} a key with the right "{right}", see the setting keys_file'
        )


def needed_right(path: str) -> Right | None:
    """What a request of this path takes; None: it is for everybody."""
    if path in _OPEN or path.startswith(_FILES_OF_PAGES):
        return None
    administers = any(path == place or path.startswith(f"{place}/") for place in _ADMINISTRATION)
    return Right.ADMIN if administers else Right.USE


def known_key(keys: Sequence[Key], credentials: Sequence[str]) -> Key | None:
    """The key that one of ``credentials`` is. How long it takes says nothing about how near a guess was."""
    found = None
    for credential in credentials[:_MOST_CREDENTIALS]:
        digest = hashlib.sha256(credential.encode()).digest()
        for key in keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
    return found


def is_this_machine(address: str) -> bool:
    """Whether it can only be a client on this machine."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    # A socket for both kinds of addresses shows the older ones within the newer.
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def caller_of(scope: Scope) -> Caller:
    """Who the guard found to ask."""
    caller: Caller = scope["state"]["caller"]
    return caller


def check_may(right: Right, scope: Scope, purpose: str) -> None:
    """Raise NotAllowed if whoever asks lacks ``right``, which it takes to ``purpose``."""
    caller = caller_of(scope)
    if right not in caller.rights:
        raise NotAllowed(f'to {purpose} takes the right "{right}", which {caller.name} lacks; see keys_file')


def as_allowed(options: RunOptions, caller: Caller) -> RunOptions:
    """What a request wants, as far as its sender may have it; what it may not is named as ignored."""
    ignored = list(options.ignored)
    keep_alive_s, most = options.keep_alive_s, caller.answer_tokens
    if keep_alive_s == 0 and Right.ADMIN not in caller.rights:
        keep_alive_s = None
        ignored.append("keep_alive")
    if most is not None and options.max_tokens is not None and options.max_tokens > most:
        ignored.append(f"num_predict above {most}")
    return replace(options, keep_alive_s=keep_alive_s, most_tokens=most, ignored=tuple(ignored))


def challenge(headers: Mapping[str, str]) -> str:
    """What a client that sent no right key is asked for; a browser asks its user for a password."""
    return f'{"Basic" if "text/html" in headers.get("accept", "") else "Bearer"} realm="llm-optimizer"'


def _credentials(headers: Headers) -> list[str]:
    """All keys that a request brings: OpenAI's and Ollama's clients send the one, Anthropic's the other
    header, and browsers a password."""
    found = headers.getlist("x-api-key")
    for value in headers.getlist("authorization"):
        scheme, _, rest = value.strip().partition(" ")
        if scheme.casefold() == "bearer":
            found.append(rest.strip())
        elif scheme.casefold() == "basic":
            found.append(_password(rest.strip()))
    return [credential for credential in found if credential]


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode("latin-1").partition(":")[2]
    except ValueError:
        return ""


def _unknown(credentials: Sequence[str]) -> str:
    known = "the API key is none of this server's" if credentials else "this server wants an API key"
    return f"{known}: send it as Authorization: Bearer KEY, or as x-api-key"
