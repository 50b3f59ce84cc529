"""The two models under test: files of the real ones' shapes, and how the service is set to them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.gpu_check.cards import GENERATOR, HELPER, Place
from bench.real_shapes import CODER_7B, QWEN3_1_7B, scaled_down, write_real_shape
from server.config import Settings

GIB = 2**30
SHAPES = {GENERATOR: CODER_7B, HELPER: QWEN3_1_7B}
ROOM_BYTES = {GENERATOR: 8 * GIB, HELPER: 2 * GIB}
"""The memory of the cards that this is all made for."""

BOTH_BYTES = 17 * GIB // 2
"""What both take of one card, with what CUDA takes."""

FILES_BYTES = {True: 7 * GIB, False: GIB}
"""Room on the disk for the files, on a card and without."""

CPU_CONTEXT_TOKENS = 4096
HUGE_CONTEXT_TOKENS = 1_048_576
HUGE_BYTES = 64 * GIB
"""What the 7B would take with so large a window."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model: the file that is served, and one of its exact real shape for dry loads."""

    role: str
    name: str
    path: Path
    exact: Path
    place: Place
    kv_type: str

    def keys(self, **more: Any) -> dict[str, Any]:
        """Of its part of the settings; on a card all else is as by default."""
        here = {"path": str(self.path), "device": self.place.device, **more}
        return here if self.place.card else {"context": CPU_CONTEXT_TOKENS, **here}


def write_subjects(folder: Path, places: Mapping[str, Place], texts: Mapping[str, Any]) -> dict[str, Subject]:
    """Write the files: the exact shapes full of random blocks where there is a card; without one, small
    models to run, and the exact shapes as holes."""
    folder.mkdir(parents=True, exist_ok=True)
    subjects = {}
    for role, place in places.items():
        shape, settings = SHAPES[role], getattr(Settings(), role)
        exact = write_real_shape(folder / f"{role}.gguf", shape, filled=place.card is not None, texts=texts)
        path = exact
        if place.card is None:
            small = scaled_down(shape)
            path = write_real_shape(folder / f"{role}-small.gguf", small, filled=True, texts=texts)
        subjects[role] = Subject(role, settings.name, path, exact, place, settings.kv_type)
    return subjects


def write_huge(folder: Path) -> Path:
    """The 7B as holes, but with a window that hardly any computer has the memory for."""
    shape = replace(CODER_7B, trained_tokens=HUGE_CONTEXT_TOKENS)
    return write_real_shape(folder / "huge.gguf", shape)
