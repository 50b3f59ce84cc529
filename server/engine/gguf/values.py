"""The values in a GGUF's metadata: the types they are written as, and long arrays of them."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

U64 = struct.Struct("<Q")
STRING = 8
ARRAY = 9
SCALARS: Mapping[int, str] = MappingProxyType(
    {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
)
"""GGUF's value types that have a fixed size, as ``struct`` writes them."""


@dataclass(frozen=True, slots=True)
class LazyArray:
    """A long array of the metadata, kept as the file's bytes until somebody asks for its elements."""

    element_type: int
    count: int
    raw: bytes

    def __len__(self) -> int:
        return self.count

    def decode(self) -> tuple[Any, ...]:
        """All elements. Bytes that are not UTF-8 become U+FFFD."""
        if self.element_type != STRING:
            return struct.unpack(f"<{self.count}{SCALARS[self.element_type]}", self.raw)
        texts = []
        position = 0
        for _ in range(self.count):
            start = position + U64.size
            position = start + U64.unpack_from(self.raw, position)[0]
            texts.append(self.raw[start:position].decode(errors="replace"))
        return tuple(texts)


def whole_number(value: object) -> int | None:
    """``value`` where it can be a number of things; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
