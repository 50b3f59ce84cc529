"""Writes GGUF files by hand."""

import struct
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from server.engine.gguf.values import LazyArray

ALIGNMENT = 32
TENSOR_COUNT_OFFSET = 8

SCALARS = {
    "u8": (0, "<B"),
    "i8": (1, "<b"),
    "u16": (2, "<H"),
    "i16": (3, "<h"),
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<?"),
    "u64": (10, "<Q"),
    "i64": (11, "<q"),
    "f64": (12, "<d"),
}
STRING = 8
ARRAY = 9

TENSOR_TYPES = {  # number, elements of a block, bytes of a block
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q6_K": (14, 256, 210),
}


class Typed(NamedTuple):
    """A value whose type is not the one that its Python type suggests: ``Typed("u64", 1)``."""

    type_name: str
    value: Any


class Tensor(NamedTuple):
    """A tensor; zeros where no ``values`` are given. ``shape`` has the fastest running dimension first.

    ``values`` are for F32 alone and have ``shape`` the other way round, as numpy counts.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str = "F32"
    values: np.ndarray[Any, np.dtype[np.float32]] | None = None

    @property
    def size_bytes(self) -> int:
        """Of what it holds."""
        _, block_elements, block_bytes = TENSOR_TYPES[self.type_name]
        return prod(self.shape) // block_elements * block_bytes

    @property
    def content(self) -> bytes:
        """What it holds, filled up to the alignment."""
        data = bytes(self.size_bytes) if self.values is None else self.values.astype("<f4").tobytes()
        return data + bytes(-len(data) % ALIGNMENT)


def text(value: str) -> bytes:
    """A string as GGUF writes it."""
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def value_bytes(value: Any) -> bytes:
    """Type and value. int is u32 (i32 if negative, u64 if large), float is f32, list and tuple are arrays;
    an array that was read is written as it was."""
    if isinstance(value, LazyArray):
        return struct.pack("<IIQ", ARRAY, value.element_type, value.count) + value.raw
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    if isinstance(value, list | tuple) and not isinstance(value, Typed):
        return struct.pack("<I", ARRAY) + _array_bytes(value)
    type_name, plain = _typed(value)
    number, code = SCALARS[type_name]
    return struct.pack("<I", number) + struct.pack(code, plain)


def _array_bytes(values: list[Any] | tuple[Any, ...]) -> bytes:
    """Element type, count and elements; all are taken to be of the first one's type."""
    if values and isinstance(values[0], str):
        return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))
    number, code = SCALARS[_typed(values[0])[0] if values else "u32"]
    elements = b"".join(struct.pack(code, _typed(value)[1]) for value in values)
    return struct.pack("<IQ", number, len(values)) + elements


def _typed(value: Any) -> Typed:
    if isinstance(value, Typed):
        return value
    if isinstance(value, bool):
        return Typed("bool", value)
    if isinstance(value, float):
        return Typed("f32", value)
    if value < 0:
        return Typed("i32", value)
    return Typed("u32" if value < 2**32 else "u64", value)


def preamble(*, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    """Magic, version and the two counts, which may be lies."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def gguf_bytes(metadata: Mapping[str, Any], tensors: Iterable[Tensor] = (), *, version: int = 3) -> bytes:
    """A whole GGUF."""
    tensors = tuple(tensors)
    head = gguf_head(metadata, tensors, version=version)
    return head + b"".join(tensor.content for tensor in tensors)


def gguf_head(metadata: Mapping[str, Any], tensors: tuple[Tensor, ...], *, version: int = 3) -> bytes:
    """All of a GGUF that stands before the tensors' contents."""
    infos = _tensor_infos(tensors)
    pairs = b"".join(text(key) + value_bytes(value) for key, value in metadata.items())
    head = preamble(version=version, tensors=len(tensors), keys=len(metadata)) + pairs + infos
    return head + bytes(-len(head) % ALIGNMENT)


def _tensor_infos(tensors: tuple[Tensor, ...]) -> bytes:
    infos = b""
    offset = 0
    for tensor in tensors:
        dimensions = len(tensor.shape)
        infos += text(tensor.name) + struct.pack(f"<I{dimensions}Q", dimensions, *tensor.shape)
        infos += struct.pack("<IQ", TENSOR_TYPES[tensor.type_name][0], offset)
        offset += -(-tensor.size_bytes // ALIGNMENT) * ALIGNMENT
    return infos


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Iterable[Tensor] = ()) -> Path:
    """Write a whole GGUF (version 3) and return its path."""
    path.write_bytes(gguf_bytes(metadata, tensors))
    return path


def with_chat_template(model: Path, target: Path, template: str) -> Path:
    """Write a copy of ``model`` with another chat template and return its path."""
    content = model.read_bytes()
    key = text("tokenizer.chat_template") + struct.pack("<I", STRING)
    start = content.index(key) + len(key)
    (length,) = struct.unpack_from("<Q", content, start)
    # A comment in front of it fills it up, so that the tensors keep their places.
    comment = "{#" + " " * ((length - len(template.encode()) - 4) % ALIGNMENT) + "#}"
    with target.open("wb") as file:
        file.write(content[:start] + text(comment + template))
        file.write(memoryview(content)[start + 8 + length :])
    return target
