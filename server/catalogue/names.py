"""Names of models as Ollama writes them, and the names that files get and give."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePath

from server.domain.errors import InvalidRequest

DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_LONGEST_PART, _LONGEST_STEM = 80, 200

_SLASH, _COLON = "+", "@"
"""What stands for them in file names; neither may stand in a model's name."""

QUANTISATION = r"(?:UD-)?(?:I?Q[1-8]_[A-Z0-9_]+|TQ[12]_0|BF16|FP?16|FP?32|MXFP4(?:_MOE)?)"
"""How the number format of most weights stands in file names, in a pattern that is for any case."""

_FILE_WITH_QUANTISATION = re.compile(rf"(.+?)[._-]({QUANTISATION})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelName:
    """``[scheme://][host/][namespace/]model[:tag]`` with its defaults filled in."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Read a name as clients write it.

        Raises:
            InvalidRequest: ``invalid model name``.
        """
        plain = text.strip().partition("://")[2] or text.strip()
        # ":local" asks for what every model here is: one on this machine.
        local = plain.removesuffix(":local")
        *path, last = local.rsplit("/", 2)
        model, colon, tag = last.partition(":")
        namespace = path.pop() if path else DEFAULT_NAMESPACE
        host = path.pop() if path else DEFAULT_HOST
        name = cls(host, namespace, model, tag if colon else DEFAULT_TAG)
        if not name._is_well_formed():
            raise InvalidRequest("invalid model name")
        if name.is_remote and local != plain:
            raise InvalidRequest("invalid model name: use either :local or :cloud, not both")
        return name

    @property
    def display(self) -> str:
        """The form for lists: defaults left out, the tag always shown."""
        host = "" if self.host.casefold() == DEFAULT_HOST else f"{self.host}/"
        namespace = (
            "" if not host and self.namespace.casefold() == DEFAULT_NAMESPACE else f"{self.namespace}/"
        )
        return f"{host}{namespace}{self.model}:{self.tag}"

    @property
    def full(self) -> str:
        """The form with everything."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def is_remote(self) -> bool:
        """Whether it means a model that runs at Ollama's: no such model is ever here."""
        return self.tag.casefold() == "cloud" or self.tag.casefold().endswith("-cloud")

    @property
    def file_stem(self) -> str:
        """A name for files that no other model has, on file systems that fold case as well."""
        stem = self.display.casefold().replace("/", _SLASH).replace(":", _COLON)
        if len(stem) <= _LONGEST_STEM:
            return stem
        return f"{stem[:_LONGEST_PART]}~{hashlib.sha256(stem.encode()).hexdigest()}"

    def is_same_as(self, other: "ModelName") -> bool:
        """Names differ in nothing but the case of their letters."""
        return self.full.casefold() == other.full.casefold()

    def _is_well_formed(self) -> bool:
        return bool(
            _HOST.fullmatch(self.host)
            and _NAMESPACE.fullmatch(self.namespace)
            and _PART.fullmatch(self.model)
            and _PART.fullmatch(self.tag)
        )


def name_of_file(file_name: str) -> ModelName | None:
    """The name under which a GGUF is served that nobody has named; None where there is none in it.

    The quantisation at the end becomes the tag, and all is in lower case:
    ``nomic-embed-text-v1.5.Q8_0.gguf`` is ``nomic-embed-text-v1.5:q8_0``, ``Tiny.gguf`` is ``tiny:latest``.
    A file that this service once named gets its old name back.
    """
    stem = PurePath(file_name).stem
    if _COLON in stem:
        return _parsed(stem.replace(_SLASH, "/").replace(_COLON, ":"))
    found = _FILE_WITH_QUANTISATION.fullmatch(stem)
    model, tag = found.groups() if found else (stem, DEFAULT_TAG)
    return _parsed(f"{_as_part(model)}:{_as_part(tag)}")


def _as_part(text: str) -> str:
    plain = re.sub(r"[^a-z0-9_.-]+", "-", text.casefold())
    return plain.strip("-.")[:_LONGEST_PART]


def _parsed(text: str) -> ModelName | None:
    try:
        return ModelName.parse(text)
    except InvalidRequest:
        return None
