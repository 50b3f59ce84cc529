"""The model hub: which file is meant, and bringing it here, over several attempts if need be."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from server.catalogue.files import sha256_of
from server.catalogue.known import Known
from server.catalogue.names import DEFAULT_TAG, QUANTISATION, ModelName
from server.domain.errors import InvalidRequest, ServiceError
from server.engine.gguf.reader import GgufError, read_header

# The hub's library reads this when it is imported. What machine asks is nobody's business, and finding out
# what to say of it would cost a request of its own.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

HOSTS = ("hf.co", "huggingface.co")
HUB_TIMEOUT_S = 20.0

_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "F16", "BF16")
"""Without a wish, the first of these that there is."""

_CLIENT_LIBRARIES = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2")


class PullFailed(ServiceError):
    """A model could not be brought here; the text says why, and what to do."""


class HubUnreachable(PullFailed):
    """The hub did not answer at all."""


class Abandoned(Exception):
    """Nobody wants the file any more. What is here of it stays for the next time."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is meant: a repository of the hub, and in it a file, or a quantisation; None: the usual one.

    ``sha256`` is the digest that the file must have, where somebody has written it down.
    """

    repository: str
    file: str | None = None
    quant: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of the hub at one revision."""

    repository: str
    path: str
    revision: str
    size_bytes: int
    sha256: str

    def __str__(self) -> str:
        return f"hf.co/{self.repository}/{self.path}@{self.revision}"


def source_of(name: ModelName, known: Known | None) -> Source | None:
    """Where a model of that name comes from; None: nobody knows."""
    if known is not None:
        return Source(known.repository, known.file, known.quant, known.sha256)
    if name.host.casefold() not in HOSTS:
        return None
    return Source(f"{name.namespace}/{name.model}", quant=None if name.tag == DEFAULT_TAG else name.tag)


def choose(paths: Sequence[str], quant: str | None) -> str:
    """The model file of a repository that is meant by ``quant``, in which case does not matter.

    Raises:
        InvalidRequest: there is none, or it is split into parts.
    """
    models = sorted((path for path in paths if _is_model(path)), key=lambda path: (len(path), path))
    whole = [path for path in models if not _SPLIT.search(_stem(path))]
    for wanted in (quant,) if quant else _PREFERRED:
        for found in (whole, models):
            fitting = [path for path in found if _fits(path, wanted)]
            if fitting:
                return _unsplit(fitting[0], whole)
    if quant is None and models:
        return _unsplit((whole or models)[0], whole)
    there = (
        f"there are: {', '.join(map(_file_name, whole))}" if whole else "there is no GGUF that can be served"
    )
    raise InvalidRequest(f'no file of the repository fits "{quant or DEFAULT_TAG}"; {there}')


def find_file(source: Source) -> HubFile:
    """Ask the hub for the file. Blocks.

    Raises:
        PullFailed: the hub cannot be reached, or does not have it.
        InvalidRequest: no file fits, or only one in parts.
    """
    # Imported late: it takes half a second, which only a download is worth.
    from huggingface_hub import HfApi  # noqa: PLC0415

    with _in_words(source.repository):
        info = HfApi(endpoint=_endpoint()).model_info(
            source.repository, files_metadata=True, timeout=HUB_TIMEOUT_S
        )
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    path = source.file or choose(tuple(siblings), source.quant)
    found = siblings.get(path)
    if found is None:
        raise PullFailed(f"{source.repository} has no file {path} (any more)")
    if found.lfs is None or info.sha is None:
        raise PullFailed(f"{source.repository}: the hub does not tell the sha256 of {path}")
    file = HubFile(source.repository, path, info.sha, found.lfs.size, found.lfs.sha256)
    if source.sha256 not in (None, file.sha256):
        raise PullFailed(
            f"{file} has the sha256 {file.sha256}, but models/catalogue.toml wants {source.sha256}"
        )
    return file


def fetch(file: HubFile, target: Path, tell: Callable[[int], None]) -> None:
    """Download ``file`` to ``target``, or the rest of it if an earlier attempt broke off. Blocks.

    The target appears when the file is whole, and has been checked: until then there is a ``.part`` beside.
    ``tell`` is called with the bytes that are there, now and then; it may raise Abandoned.

    Raises:
        PullFailed: no room, no connection, another content than promised.
        Abandoned: as ``tell`` said.
    """
    partial = target.with_name(f"{target.name}.{file.sha256[:12]}.part")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        _download(file, partial, tell)
    except OSError as error:
        where = target.parent if error.errno else file
        raise PullFailed(f"{where} could not be downloaded: {error.strerror or error}") from error
    except ValueError as error:
        raise PullFailed(f"{file} could not be downloaded: {error}") from error


def verify(file: HubFile, target: Path, tell: Callable[[int], None]) -> None:
    """Check what :func:`fetch` brought, and give it its name. Blocks; parameters and errors as there."""
    partial = target.with_name(f"{target.name}.{file.sha256[:12]}.part")
    fault = _fault_in(partial, file, tell)
    if fault is not None:
        partial.unlink()
        raise PullFailed(f"{file} {fault}")
    partial.replace(target)


def _fault_in(partial: Path, file: HubFile, tell: Callable[[int], None]) -> str | None:
    digest = sha256_of(partial, tell)
    if digest != file.sha256:
        return f"arrived damaged: its sha256 is {digest}, not {file.sha256}; pull it again"
    try:
        read_header(partial)
    except GgufError as error:
        return error.reason
    return None


def _download(file: HubFile, partial: Path, tell: Callable[[int], None]) -> None:
    from huggingface_hub import hf_hub_url  # noqa: PLC0415
    from huggingface_hub.file_download import http_get  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

    here_bytes = partial.stat().st_size if partial.exists() else 0
    if here_bytes > file.size_bytes:
        partial.unlink()
        here_bytes = 0
    _check_room(partial.parent, file.size_bytes - here_bytes)
    url = hf_hub_url(file.repository, file.path, revision=file.revision, endpoint=_endpoint())
    with partial.open("ab") as out, _in_words(file.repository):
        tell(here_bytes)
        http_get(
            url,
            out,
            resume_size=here_bytes,
            headers=build_hf_headers(),
            expected_size=file.size_bytes,
            tqdm_class=_bar(tell),
        )
        out.flush()
        os.fsync(out.fileno())


def _bar(tell: Callable[[int], None]) -> Any:
    """What the hub's library takes for a progress bar: it says how far the download is."""

    class Bar:
        def __init__(self, *, initial: int = 0, **_: Any) -> None:
            self._here_bytes = initial

        def update(self, more_bytes: int) -> None:
            self._here_bytes += more_bytes
            tell(self._here_bytes)

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            pass

    return Bar


def _check_room(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise PullFailed(
            f"{folder} has {free_bytes / 1e9:.1f} GB free, and {needed_bytes / 1e9:.1f} GB are to come; "
            "delete a model, or let models_dir name a folder with more room"
        )


@contextlib.contextmanager
def _in_words(repository: str) -> Iterator[None]:
    """Errors of the hub's library as ours."""
    try:
        yield
    except (Abandoned, ServiceError):
        raise
    except Exception as error:
        # Its HTTP library has exceptions of its own, and has been another one before.
        if type(error).__module__.partition(".")[0] not in _CLIENT_LIBRARIES:
            raise
        raise fault_of(error, repository) from error


def fault_of(error: Exception, repository: str) -> PullFailed:
    """What went wrong with the hub, and what to do about it."""
    from huggingface_hub import errors  # noqa: PLC0415

    match error:
        case errors.GatedRepoError():
            return PullFailed(f"{repository} wants its terms accepted: do so on the hub, and set HF_TOKEN")
        case errors.RepositoryNotFoundError() | errors.EntryNotFoundError() | errors.RevisionNotFoundError():
            return PullFailed(f"the hub does not have {repository}, or not for this HF_TOKEN")
        case errors.HfHubHTTPError():
            return PullFailed(f"the hub answered with an error: {error}")
        case errors.HFValidationError():
            return PullFailed(f"{repository} is no repository of the hub: {error}")
        case _:
            return HubUnreachable(
                f"the hub cannot be reached ({error or type(error).__name__}): "
                "check the network, HTTPS_PROXY and HF_HUB_OFFLINE, or name a mirror with HF_ENDPOINT"
            )


def _endpoint() -> str | None:
    """The hub or its mirror, as it is set now: the library looks only once."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _is_model(path: str) -> bool:
    name = _file_name(path).casefold()
    return name.endswith(".gguf") and "mmproj" not in name and "imatrix" not in name


def _fits(path: str, wanted: str) -> bool:
    """Whether the file's name has the quantisation as a word of its own, or is the wanted name itself."""
    if wanted.casefold() in (_file_name(path).casefold(), _stem(path).casefold()):
        return True
    if not re.fullmatch(QUANTISATION, wanted, re.IGNORECASE):
        return False
    word = rf"(?<![a-z0-9]){re.escape(wanted.casefold())}(?![a-z0-9_])"
    return re.search(word, _SPLIT.sub("", _stem(path)).casefold()) is not None


def _unsplit(path: str, whole: Sequence[str]) -> str:
    if path in whole:
        return path
    others = f"; in one piece there are: {', '.join(map(_file_name, whole))}" if whole else ""
    raise InvalidRequest(f"{_file_name(path)} is one of several parts, which cannot be served{others}")


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]


def _stem(path: str) -> str:
    return _file_name(path).rpartition(".")[0]
