"""Who may ask: the Host and Origin of a request, then its key, checked before anything else.

The rules are Ollama's: a web page of a foreign origin must not reach a server on the user's machine, neither
by a cross-origin request nor by a name that points to the loopback address (DNS rebinding).
"""

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.access import Access, Denied, challenge
from server.api.accounting import account_of

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104  # origins of pages, nothing is bound to them
LOCAL_ORIGINS = (
    *(
        f"{scheme}://{host}{port}"
        for host in _LOCAL_HOSTS
        for scheme in ("http", "https")
        for port in ("", ":*")
    ),
    *(f"{scheme}://*" for scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file")),
)
"""Origins that are always allowed; ``*`` stands for any text."""

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_METHODS = "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"
_STAINLESS = (
    *("arch", "async", "custom-poll-interval", "helper-method", "lang", "os", "package-version"),
    *("poll-helper", "retry-count", "runtime", "runtime-version", "timeout"),
)
_HEADERS = ", ".join(
    (
        *("Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "OpenAI-Beta"),
        *("X-Api-Key", "Anthropic-Version", "Anthropic-Beta", "X-Request-Id"),
        "X-LLM-Optimizer-Policy",
        *(f"x-stainless-{name}" for name in _STAINLESS),
    )
)
RETRY_AFTER_S = "2"
"""A short answer's time: there is room again as soon as one is done."""


Refusal = Callable[[Scope, int, str], Response]
"""An error in the dialect that a request's path belongs to, from the status and the text."""


def request_id(scope: Scope) -> str:
    """What a request is called in the log, and in its answer's headers."""
    return account_of(scope).visit.id


def origin_allowed(origin: str, allowed: Iterable[str]) -> bool:
    """Whether a page of ``origin`` may ask; ``allowed`` are patterns."""
    folded = origin.casefold()
    return any(fnmatchcase(folded, pattern.casefold()) for pattern in allowed)


def host_allowed(host: str, own_name: str) -> bool:
    """Whether a request for ``host`` can only mean this machine. ``host`` is the header's value."""
    name = _without_port(host).casefold().rstrip(".")
    if name in ("", "localhost", own_name.casefold()) or name.endswith(_LOCAL_SUFFIXES):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified or address.is_link_local


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


class Guard:
    """Middleware: lets in only whom the rules allow, and marks each answer with its request's id.

    ``check_host`` is for a server that only this machine reaches: others have names that nobody here knows.
    """

    def __init__(
        self, app: ASGIApp, *, origins: Sequence[str], check_host: bool, access: Access, refusal: Refusal
    ) -> None:
        self._app = app
        self._access = access
        self._origins = (*origins, *LOCAL_ORIGINS)
        self._check_host = check_host
        self._refusal = refusal
        self._own_name = socket.gethostname()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer here what must not go further, and mark the answers of all else."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        marks = {"x-request-id": request_id(scope), "request-id": request_id(scope)}
        origin = headers.get("origin", "")
        foreign = bool(origin) and not _same_host(origin, headers.get("host", ""))
        refused = self._refused(scope, headers.get("host", ""), origin if foreign else "")
        if foreign and not refused:
            marks |= {"access-control-allow-origin": origin, "vary": "Origin"}
            marks |= {"access-control-expose-headers": "*"}
        marking = _Marking(send, marks)
        try:
            with self._admitted(scope, refused or self._preflight(scope)) as answer:
                await (answer or self._app)(scope, receive, marking)
        except Exception:
            # Starlette's own answer to a bug would lack the marks; it still logs what is raised here.
            if not marking.started:
                trouble = self._refusal(scope, 500, "internal error; the server's log has the details")
                await trouble(scope, receive, marking)
            raise

    def _refused(self, scope: Scope, host: str, origin: str) -> Response | None:
        if self._check_host and not host_allowed(host, self._own_name):
            return self._refusal(
                scope,
                403,
                f'the Host header names "{host}", which is not this machine; let the proxy in front send '
                "Host: localhost, or listen on an address that others reach",
            )
        if origin and not origin_allowed(origin, self._origins):
            return self._refusal(
                scope, 403, f'pages of the origin "{origin}" may not ask this server; see the setting origins'
            )
        return None

    @contextlib.contextmanager
    def _admitted(self, scope: Scope, answered: Response | None) -> Iterator[Response | None]:
        """What must be answered in the application's place; None for what goes on to it."""
        if answered is not None:
            yield answered
            return
        caller = self._access.judged(scope)
        if caller is None or isinstance(caller, Denied):
            yield None if caller is None else self._denial(scope, caller)
            return
        scope["state"]["caller"] = caller
        with self._access.passing(caller) as denied:
            yield None if denied is None else self._denial(scope, denied)

    def _denial(self, scope: Scope, denied: Denied) -> Response:
        answer = self._refusal(scope, denied.status, denied.text)
        if denied.status == HTTPStatus.UNAUTHORIZED:
            answer.headers["www-authenticate"] = challenge(Headers(scope=scope))
        if denied.status == HTTPStatus.TOO_MANY_REQUESTS:
            answer.headers["retry-after"] = RETRY_AFTER_S
        return answer

    def _preflight(self, scope: Scope) -> Response | None:
        if scope["method"] != "OPTIONS":
            return None
        allowed = {"access-control-allow-methods": _METHODS, "access-control-allow-headers": _HEADERS}
        return Response(status_code=204, headers={**allowed, "access-control-max-age": "43200"})


def _same_host(origin: str, host: str) -> bool:
    return origin.partition("://")[2].casefold() == host.casefold()


class _Marking:
    """Sends a response with more headers. ``started`` says whether any of it has gone out."""

    def __init__(self, send: Send, marks: Mapping[str, str]) -> None:
        self._send = send
        self._marks = marks
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in self._marks.items():
                headers[name] = value
        await self._send(message)
