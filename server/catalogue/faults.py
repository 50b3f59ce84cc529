"""What can go wrong with the hub, in words that say what to do about it."""

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import urlsplit

from server.domain.errors import ServiceError

_CLIENT_LIBRARIES = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2")
_NETWORK = "check the network, HTTPS_PROXY and HF_HUB_OFFLINE, or name a mirror with HF_ENDPOINT"


class PullFailed(ServiceError):
    """A model could not be brought here; the text says why, and what to do."""


class Passing(PullFailed):
    """The same, and another try may do better."""


class HubUnreachable(Passing):
    """The hub did not answer at all, or fell silent."""


class Spoiled(PullFailed):
    """What is here of the file is worth nothing: the next pull has to begin anew."""


def endpoint() -> str:
    """The hub or its mirror, as it is set now: the hub's library looks only once."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


@contextlib.contextmanager
def in_words(repository: str, path: str | None = None) -> Iterator[None]:
    """Errors of the hub's library as ours; ``path`` is the file of the repository that is asked for."""
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        # Its HTTP library has exceptions of its own, and has been another one before.
        if type(error).__module__.partition(".")[0] not in _CLIENT_LIBRARIES:
            raise
        raise fault_of(error, repository, path) from error


def fault_of(error: Exception, repository: str, path: str | None = None) -> PullFailed:
    """What went wrong with the hub, and what to do about it."""
    from huggingface_hub import errors  # noqa: PLC0415  # half a second, which only a download is worth

    match error:
        case errors.EntryNotFoundError() | errors.RevisionNotFoundError():
            return missing(repository, path)
        case errors.HfHubHTTPError():
            return _refusal(error, error.response.status_code, repository, path)
        case errors.HFValidationError():
            return PullFailed(f"{repository} is no repository of the hub: {error}")
        case errors.OfflineModeIsEnabled():
            return HubUnreachable("HF_HUB_OFFLINE is set, so the hub is not asked: unset it to download")
        case _:
            return HubUnreachable(f"the hub cannot be reached: {_reason(error)}; {_NETWORK}")


def missing(repository: str, path: str | None) -> PullFailed:
    """The repository is there, and the file is not."""
    return PullFailed(
        f"{repository} has no file {path or 'of that name'} (any more): "
        f"{endpoint()}/{repository}/tree/main lists those that it has"
    )


def no_hub(error: Exception) -> HubUnreachable:
    """Somebody answered who is no hub: a sign-in page of the network, or a wrong HF_ENDPOINT."""
    return HubUnreachable(
        f"{endpoint()} answered with something that no hub says ({type(error).__name__}): "
        f"does the network want a sign-in first? Otherwise {_NETWORK}"
    )


def _refusal(error: Exception, status: int, repository: str, path: str | None) -> PullFailed:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Passing("the hub has had too many requests from here (429): wait a while, or set HF_TOKEN")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
        return Passing(f"the hub has trouble of its own ({status}): try again later")
    return PullFailed(_words_of_refusal(error, status, repository, path))


def _words_of_refusal(error: Exception, status: int, repository: str, path: str | None) -> str:
    from huggingface_hub import errors  # noqa: PLC0415

    what = f"{repository}/{path}" if path else repository
    tokens = f"{endpoint()}/settings/tokens"
    # For repositories that are not there the hub says 401 to strangers, and its library "not found".
    match error, status:
        case errors.GatedRepoError(), _:
            return (
                f"{repository} is gated: accept its terms at {endpoint()}/{repository}, "
                f"and set HF_TOKEN to a token of that account ({tokens})"
            )
        case (errors.RepositoryNotFoundError(), _) | (_, HTTPStatus.NOT_FOUND):
            return (
                f"the hub does not have {what}, or does not show it to you: check the name; "
                "if it is private or gated, set HF_TOKEN to a token of an account that may read it"
            )
        case _, HTTPStatus.UNAUTHORIZED:
            fault = "does not accept your HF_TOKEN" if os.environ.get("HF_TOKEN") else "wants an account"
            return (
                f"the hub {fault} for {what} (401), which it also says of what is not there: "
                f"check the name, and set HF_TOKEN to a token from {tokens}"
            )
        case _, HTTPStatus.FORBIDDEN:
            return (
                f"the hub refuses {what} (403): accept its terms at {endpoint()}/{repository} if it has any, "
                "and set HF_TOKEN to a token that may read it"
            )
        case _:
            return f"the hub answered with an error ({status}): {' '.join(str(error).split())}"


def _reason(error: BaseException) -> str:
    """Why nobody answered, by what lies under the HTTP library's exceptions."""
    host = urlsplit(endpoint()).netloc or endpoint()
    for cause in _chain(error):
        match cause:
            case socket.gaierror():
                return f"the name {host} is not known here (no network, or no DNS)"
            case ConnectionRefusedError():
                return f"{host} refuses the connection"
            case ssl.SSLCertVerificationError():
                return f"the certificate of {host} is not trusted (a proxy's? SSL_CERT_FILE names roots)"
            case TimeoutError():
                return f"{host} did not answer in time"
            case _:
                pass
    return f"the connection to {host} broke ({error or type(error).__name__})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
