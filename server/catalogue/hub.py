"""The model hub: which file is meant, and what the hub says of it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from server.catalogue.faults import PullFailed, endpoint, in_words, missing, no_hub
from server.catalogue.known import Known
from server.catalogue.names import DEFAULT_TAG, QUANTISATION, ModelName
from server.domain.errors import InvalidRequest

# The hub's library reads this when it is imported. What machine asks is nobody's business, and finding out
# what to say of it would cost a request of its own.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

HOSTS = ("hf.co", "huggingface.co")
HUB_TIMEOUT_S = 20.0

_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "F16", "BF16")
"""Without a wish, the first of these that there is."""


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

    try:
        with in_words(source.repository):
            info = HfApi(endpoint=endpoint()).model_info(
                source.repository, files_metadata=True, timeout=HUB_TIMEOUT_S
            )
    except (ValueError, TypeError, KeyError) as error:
        # That is how the library takes an answer that is no JSON, or not the hub's.
        raise no_hub(error) from error
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    path = source.file or choose(tuple(siblings), source.quant)
    found = siblings.get(path)
    if found is None:
        raise missing(source.repository, path)
    if found.lfs is None or info.sha is None:
        raise PullFailed(f"{source.repository}: the hub does not tell the sha256 of {path}")
    file = HubFile(source.repository, path, info.sha, found.lfs.size, found.lfs.sha256)
    if source.sha256 not in (None, file.sha256):
        raise PullFailed(
            f"{file} has the sha256 {file.sha256}, but models/catalogue.toml wants {source.sha256}"
        )
    return file


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
