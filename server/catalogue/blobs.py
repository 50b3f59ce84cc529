"""Files on their way in: uploaded under their digest, until a model is created of them."""

import hashlib
import re
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from server.catalogue.records import CannotWrite
from server.domain.errors import InvalidRequest

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


def sha256_in(digest: str) -> str:
    """The 64 hexadecimal digits of ``sha256:...``.

    Raises:
        InvalidRequest: it is no such digest.
    """
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise InvalidRequest(f'invalid digest format: "{digest}" must be sha256: and 64 hexadecimal digits')
    return found[1]


class Blobs:
    """The folder of the uploads."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._folder = models_dir / "blobs"

    def find(self, sha256: str) -> Path | None:
        """The upload with that digest, if it is there."""
        path = self._path(sha256)
        return path if path.is_file() else None

    def receive(self, sha256: str) -> "Upload":
        """A place for an upload.

        Raises:
            CannotWrite: naming the setting.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return Upload(self._path(sha256), sha256)
        except OSError as error:
            raise CannotWrite(self._models_dir, error) from error

    def _path(self, sha256: str) -> Path:
        return self._folder / f"sha256-{sha256}"


class Upload:
    """An upload under way; leaves nothing behind unless it was finished."""

    def __init__(self, target: Path, sha256: str) -> None:
        self._target = target
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115  # closed in __exit__
            prefix=f"{target.name}.", suffix=".part", dir=target.parent, delete=False
        )

    def write(self, piece: bytes) -> None:
        """Add some bytes. Blocks.

        Raises:
            CannotWrite: naming the setting.
        """
        self._digest.update(piece)
        try:
            self._file.write(piece)
        except OSError as error:
            raise CannotWrite(self._target.parent.parent, error) from error

    def finish(self) -> None:
        """Give it its name.

        Raises:
            InvalidRequest: it is another file than its digest says.
        """
        digest = self._digest.hexdigest()
        if digest != self._sha256:
            raise InvalidRequest(f"digest mismatch, expected sha256:{self._sha256}, got sha256:{digest}")
        self._file.close()
        Path(self._file.name).replace(self._target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)
