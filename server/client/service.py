"""A running service, asked over HTTP."""

import contextlib
import json
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Self

import httpx2

from server.client.address import is_this_machine
from server.client.errors import ClientError, NoSuchModel, NotThere, Refused
from server.client.near import no_such_model
from server.client.wire import KEY_VARIABLE, VERSION_HEADER

CONNECT_S = 5.0
SILENCE_S = 600.0
"""Loading a large model from a slow disk takes minutes; streams are never silent for more than 10 s."""

_START = (
    'start it with "llm-optimizer serve" (or systemctl start llm-optimizer), or name another address by --url'
)
_LONGEST_QUOTE = 200

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_WANTS_KEY = f"put an API key of the service into the environment variable {KEY_VARIABLE}"


class Service:
    """The service at ``url``. ``key`` is sent with each request; ``timeout_s`` holds for connecting, and for
    how long it may be silent.

    All methods raise NotThere and Refused.
    """

    def __init__(self, url: str, key: str = "", timeout_s: float | None = None) -> None:
        if not (key.isascii() and key.isprintable()):
            raise ClientError(f"{KEY_VARIABLE} holds signs that no key has")
        self.url = url
        self._http = httpx2.Client(
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
            timeout=httpx2.Timeout(timeout_s or SILENCE_S, connect=timeout_s or CONNECT_S),
            # Certificates are loaded with each client, which takes as long as all else.
            verify=url.startswith("https:"),
            trust_env=not is_this_machine(url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def version(self) -> str:
        """The version of the llm-optimizer that answers.

        Raises:
            NotThere: also where it is another program that answers.
        """
        with self._answer("GET", "/api/version") as response:
            version = response.headers.get(VERSION_HEADER)
            body = response.read()
        if version:
            return str(version)
        if response.status_code in (_UNAUTHORIZED, _FORBIDDEN):
            raise Refused(_refusal(response, body))
        told = _json_of(body)
        who = "an Ollama" if isinstance(told, dict) and "version" in told else "another program"
        raise NotThere(f"{who} answers at {self.url}, and no llm-optimizer; name another address by --url")

    def names(self) -> list[str]:
        """The models that are here, the newest first."""
        return [str(model["name"]) for model in self.get("/api/tags")["models"]]

    def get(self, path: str) -> dict[str, Any]:
        """The object that a path answers with."""
        return self._ask("GET", path, None, {})

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The object that a path answers a body with; an empty one where it has nothing to say."""
        return self._ask("POST", path, body, headers or {})

    def delete(self, path: str, body: Mapping[str, Any]) -> None:
        """Send a body with the method DELETE."""
        self._ask("DELETE", path, body, {})

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The objects of a stream of JSON lines. Closing it hangs up, which frees everything there."""
        ended = False
        with self._answer("POST", path, body) as response:
            self._check(response, body)
            for line in _lines(response):
                told = _object_of(line)
                if "error" in told:
                    raise Refused(str(told["error"]))
                ended = bool(told.get("done"))
                yield told
        if not ended:
            raise Refused("the connection broke before the end of the answer")

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        with self._answer(method, path, body, headers) as response:
            self._check(response, body)
            told = response.read()
        return _object_of(told) if told.strip() else {}

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx2.Response]:
        content = None if body is None else _encoded(body)
        try:
            with self._http.stream(method, self.url + path, content=content, headers=headers) as response:
                yield response
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise NotThere(f"no llm-optimizer answers at {self.url}: {_in_words(error)}; {_START}") from error
        except httpx2.TimeoutException as error:
            raise Refused(f"{self.url} has been silent for too long; is it overloaded?") from error
        except httpx2.InvalidURL as error:
            raise ClientError(f'"{self.url}" is no address: {error}') from error
        except httpx2.HTTPError as error:
            raise Refused(f"the connection to {self.url} broke: {_in_words(error)}") from error

    def _check(self, response: httpx2.Response, body: Mapping[str, Any] | None) -> None:
        if response.is_success:
            return
        text = _refusal(response, response.read())
        name = (body or {}).get("model") or (body or {}).get("source")
        if response.status_code == _NOT_FOUND and isinstance(name, str):
            raise NoSuchModel(no_such_model(text, name, self.names()))
        raise Refused(text)


def _encoded(body: Mapping[str, Any]) -> bytes:
    """Halves of characters, and bytes that were no text, become U+FFFD: terminals and files have such."""
    text = json.dumps(body, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()


def _refusal(response: httpx2.Response, body: bytes) -> str:
    text = _error_text(body) or f"{response.status_code} {response.reason_phrase}"
    return f"{text}; {_WANTS_KEY}" if response.status_code == _UNAUTHORIZED else text


def _lines(response: httpx2.Response) -> Iterator[bytes]:
    """httpx's own lines would end at signs that JSON may hold, too."""
    held = b""
    for piece in response.iter_bytes():
        *whole, held = (held + piece).split(b"\n")
        yield from filter(bytes.strip, whole)
    if held.strip():
        yield held


def _object_of(text: bytes) -> dict[str, Any]:
    told = _json_of(text)
    if isinstance(told, dict):
        return told
    raise Refused(
        f"an answer that is no JSON object came back: {text[:_LONGEST_QUOTE].decode(errors='replace')}"
    )


def _json_of(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _error_text(body: bytes) -> str:
    """Ollama's ``{"error": text}``, or the text under ``error.message`` that the other dialects have."""
    told = _json_of(body)
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return str(error) if error else ""


def _in_words(error: httpx2.HTTPError) -> str:
    """The system's own words, which httpx hides behind its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
