"""The sources that the check builds: what the binding is made from, without all that is not needed."""

import shutil
import tempfile
from pathlib import Path

from bench.build_llama_server import LOCK, downloaded, locked_requirement, unpacked

LLAMA_CPP = Path("vendor") / "llama.cpp"
VOCABULARY = LLAMA_CPP / "models" / "ggml-vocab-qwen2.gguf"
NEEDED = (
    Path("llama_cpp"),
    VOCABULARY,
    *(LLAMA_CPP / name for name in ("CMakeLists.txt", "LICENSE", "cmake", "vendor")),
    *(LLAMA_CPP / name for name in ("common", "include", "src", "ggml")),
    LLAMA_CPP / "tools" / "llama-bench",
)
BACKENDS = {"ggml-cpu", "ggml-cuda"}


def fetch(target: Path) -> Path:
    """Download the locked version with pip and keep the needed tenth of it, unless it is there already.

    Raises BuildFailed.
    """
    if (target / VOCABULARY).exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        requirement = locked_requirement(LOCK.read_text(encoding="utf-8"))
        prune(unpacked(downloaded(requirement, Path(scratch)), Path(scratch)), target)
    return target


def prune(whole: Path, target: Path) -> None:
    """Move what is needed out of the unpacked sdist; the vocabulary, by which it is known, last."""
    for backend in (whole / LLAMA_CPP / "ggml" / "src").glob("ggml-*/"):
        if backend.name not in BACKENDS:
            shutil.rmtree(backend)
    for needed in sorted(NEEDED, key=VOCABULARY.__eq__):
        (target / needed).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(whole / needed, target / needed)
