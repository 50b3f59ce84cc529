"""Reads the header of a GGUF file: what a model is and what it will cost, without loading it.

The file may come from anywhere. Whatever its bytes are, reading ends within seconds and within
some 150 MB of memory, with a header or with a ``GgufError``.
"""

import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NoReturn

from server.domain.errors import ModelLoadFailed

KV_TYPES = ("f16", "q8_0", "q4_0")
"""The types that a KV cache may have."""

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32

# Real models stay far below these: some 50 keys, a few thousand tensors, headers of 2 to 20 MB.
_MAX_KEYS = 4096
_MAX_TENSORS = 65_536
_MAX_DIMENSIONS = 4
_MAX_DIMENSION = 2**63 - 1
_MAX_HEADER_BYTES = 64 * 2**20
_MAX_TEXT_BYTES = 16 * 2**20
_MAX_EAGER_ELEMENTS = 512
_FIRST_READ_BYTES = 2**20
_SHOWN_CHARACTERS = 64

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_STRING = 8
_ARRAY = 9
_SCALARS: Mapping[int, str] = MappingProxyType(
    {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
)
"""GGUF's value types that have a fixed size, as ``struct`` writes them."""

_TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = MappingProxyType(
    {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        9: ("Q8_1", 32, 36),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        15: ("Q8_K", 256, 292),
        16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74),
        18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82),
        23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1),
        25: ("I16", 1, 2),
        26: ("I32", 1, 4),
        27: ("I64", 1, 8),
        28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2),
        34: ("TQ1_0", 256, 54),
        35: ("TQ2_0", 256, 66),
        39: ("MXFP4", 32, 17),
        40: ("NVFP4", 64, 36),
        41: ("Q1_0", 128, 18),
        42: ("Q2_0", 64, 18),
    }
)
"""ggml's tensor types: name, elements of a block, bytes of a block."""

_BLOCKS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {name: (elements, size) for name, elements, size in _TENSOR_TYPES.values()}
)

_FILE_TYPES: Mapping[int, str] = MappingProxyType(
    {
        0: "F32",
        1: "F16",
        2: "Q4_0",
        3: "Q4_1",
        7: "Q8_0",
        8: "Q5_0",
        9: "Q5_1",
        10: "Q2_K",
        11: "Q3_K_S",
        12: "Q3_K_M",
        13: "Q3_K_L",
        14: "Q4_K_S",
        15: "Q4_K_M",
        16: "Q5_K_S",
        17: "Q5_K_M",
        18: "Q6_K",
        19: "IQ2_XXS",
        20: "IQ2_XS",
        21: "Q2_K_S",
        22: "IQ3_XS",
        23: "IQ3_XXS",
        24: "IQ1_S",
        25: "IQ4_NL",
        26: "IQ3_S",
        27: "IQ3_M",
        28: "IQ2_S",
        29: "IQ2_M",
        30: "IQ4_XS",
        31: "IQ1_M",
        32: "BF16",
        36: "TQ1_0",
        37: "TQ2_0",
        38: "MXFP4_MOE",
        39: "NVFP4",
        40: "Q1_0",
        41: "Q2_0",
    }
)
_FILE_TYPE_GUESSED = 1024
"""A bit that llama.cpp adds where the file type was not written but derived."""


class GgufError(ModelLoadFailed):
    """The file is not a GGUF that can be loaded; the text names the file, the reason and the remedy."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the header lists it. ``shape`` has the fastest running dimension first."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    size_bytes: int


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
        if self.element_type != _STRING:
            return struct.unpack(f"<{self.count}{_SCALARS[self.element_type]}", self.raw)
        texts = []
        position = 0
        for _ in range(self.count):
            start = position + _U64.size
            position = start + _U64.unpack_from(self.raw, position)[0]
            texts.append(self.raw[start:position].decode(errors="replace"))
        return tuple(texts)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF says about its model.

    ``metadata`` holds every key as it is written; arrays are tuples, those of more than 512
    elements ``LazyArray``. Of a key that occurs twice the first counts. Where the file does not
    say something, or says it in a wrong type, the property is None.
    """

    path: Path
    size_bytes: int
    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    data_offset: int

    @property
    def architecture(self) -> str | None:
        """llama.cpp's name of the architecture, like ``qwen2``."""
        return self._text("general.architecture")

    @property
    def name(self) -> str | None:
        """The model's own name."""
        return self._text("general.name")

    @property
    def license(self) -> str | None:
        """Name or text of the licence."""
        return self._text("general.license")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the chat template."""
        return self._text("tokenizer.chat_template")

    @property
    def file_type_name(self) -> str:
        """The quantisation of most weights, like ``Q4_K_M``; ``unknown`` if the file does not say."""
        file_type = _whole(self.metadata.get("general.file_type"))
        if file_type is None:
            return "unknown"
        return _FILE_TYPES.get(file_type & ~_FILE_TYPE_GUESSED, "unknown")

    @property
    def parameter_count(self) -> int:
        """Elements of all tensors."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors, without padding."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def context_length(self) -> int | None:
        """Tokens of context that the model was trained for."""
        return self._number("context_length")

    @property
    def embedding_length(self) -> int | None:
        """Width of a layer."""
        return self._number("embedding_length")

    @property
    def feed_forward_length(self) -> int | None:
        """Width of the widest layer's feed-forward part."""
        return _widest(self._count("feed_forward_length"))

    @property
    def block_count(self) -> int | None:
        """Number of layers."""
        return self._number("block_count")

    @property
    def head_count(self) -> int | None:
        """Attention heads of the layer that has most."""
        return _widest(self._count("attention.head_count"))

    @property
    def head_count_kv(self) -> int | tuple[int, ...] | None:
        """KV heads of a layer: one number for all layers, or one for each."""
        own = self._count("attention.head_count_kv")
        return self._count("attention.head_count") if own is None else own

    @property
    def key_length(self) -> int | None:
        """Width of one head's key."""
        return self._number("attention.key_length") or self._head_length()

    @property
    def value_length(self) -> int | None:
        """Width of one head's value."""
        return self._number("attention.value_length") or self._head_length()

    @property
    def vocabulary_size(self) -> int | None:
        """Number of tokens, which is the width of the logits."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, tuple | LazyArray):
            return len(tokens)
        return self._number("vocab_size")

    @property
    def pooling_type(self) -> int | None:
        """How an embedding model pools its tokens, in llama.cpp's numbers; None for other models."""
        return self._number("pooling_type")

    def kv_bytes_per_token(self, kv_type: str) -> int | None:
        """Bytes that a token takes in the KV cache of all layers; None where the header lacks a fact.

        ``kv_type`` is one of ``KV_TYPES``; anything else is a ValueError.
        """
        if kv_type not in KV_TYPES:
            raise ValueError(f"KV type '{kv_type}' is not one of {', '.join(KV_TYPES)}")
        heads, layers, key, value = self.head_count_kv, self.block_count, self.key_length, self.value_length
        if heads is None or layers is None or key is None or value is None:
            return None

        def layer_bytes(head_count: int) -> int:
            return _row_bytes(kv_type, head_count * key) + _row_bytes(kv_type, head_count * value)

        if isinstance(heads, int):
            return layers * layer_bytes(heads)
        return sum(layer_bytes(head_count) for head_count in heads[:layers])

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _number(self, key: str) -> int | None:
        return _whole(self.metadata.get(f"{self.architecture}.{key}"))

    def _count(self, key: str) -> int | tuple[int, ...] | None:
        value = self.metadata.get(f"{self.architecture}.{key}")
        if not isinstance(value, tuple | LazyArray):
            return _whole(value)
        elements = value.decode() if isinstance(value, LazyArray) else value
        numbers = tuple(number for number in map(_whole, elements) if number is not None)
        return numbers if len(numbers) == len(elements) else None

    def _head_length(self) -> int | None:
        width, heads = self.embedding_length, self.head_count
        return width // heads if width is not None and heads else None


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF (versions 2 and 3, little-endian).

    Raises GgufError for whatever is not a whole, unsplit GGUF of known tensor types.
    """
    try:
        _check_is_file(path)
        with path.open("rb") as file:
            return _read(_Reader(file, path))
    except FileNotFoundError:
        raise GgufError(path, "does not exist") from None
    except (OSError, ValueError) as error:
        # pathlib raises ValueError for a path with a NUL byte in it
        reason = getattr(error, "strerror", None) or error
        raise GgufError(path, f"cannot be read: {reason}") from error


def _check_is_file(path: Path) -> None:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise GgufError(path, "is a directory; give the path of a .gguf file")
    if not stat.S_ISREG(mode):
        # a pipe would be waited on for ever
        raise GgufError(path, "is not a regular file; give the path of a .gguf file")


class _Reader:
    """Walks through the header, reading ahead so that most values need no system call.

    It reads rather than maps: a mapped file that somebody cuts short kills the process.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self.path = path
        self.size_bytes = file.seek(0, 2)
        file.seek(0)
        self._buffer = bytearray()
        self.position = 0
        self._text_bytes = 0

    def fail(self, reason: str) -> NoReturn:
        raise GgufError(self.path, reason)

    def damaged(self, what: str) -> NoReturn:
        self.fail(f"is damaged: {what}; download it again")

    def start(self) -> bytes:
        """The first bytes, for a look at what the file is; the position stays."""
        self._fill(min(16, self.size_bytes))
        return bytes(self._buffer[:16])

    def take(self, count: int) -> bytes:
        self._fill(self.position + count)
        self.position += count
        return bytes(self._buffer[self.position - count : self.position])

    def u32(self) -> int:
        return int(_U32.unpack(self.take(_U32.size))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(_U64.size))[0])

    def text(self) -> str:
        length = self.u64()
        self._text_bytes += length
        # the end of the file comes first: it is the likelier cause
        self._fill(self.position + length)
        if self._text_bytes > _MAX_TEXT_BYTES:
            self.damaged(f"its header holds more than {_MAX_TEXT_BYTES} bytes of text")
        return self.take(length).decode(errors="replace")

    def strings(self, count: int) -> bytes:
        """The bytes of that many strings, lengths included."""
        self._check(self.position + count * _U64.size)
        start = position = self.position
        buffer, filled = self._buffer, len(self._buffer)
        unpack_length, prefix = _U64.unpack_from, _U64.size
        for _ in range(count):
            if position + prefix > filled:
                self._fill(position + prefix)
                filled = len(buffer)
            position += prefix + unpack_length(buffer, position)[0]
        self.position = start
        return self.take(position - start)

    def _fill(self, end: int) -> None:
        if end <= len(self._buffer):
            return
        self._check(end)
        wanted = min(max(end, 2 * len(self._buffer), _FIRST_READ_BYTES), _MAX_HEADER_BYTES, self.size_bytes)
        self._buffer += self._file.read(wanted - len(self._buffer))
        if len(self._buffer) < end:
            self.fail("became shorter while it was read; download it again")

    def _check(self, end: int) -> None:
        if end > self.size_bytes:
            self.fail(
                f"is truncated or damaged: {self.size_bytes} bytes, but its header promises "
                f"at least {end}; download it again"
            )
        if end > _MAX_HEADER_BYTES:
            self.damaged(f"its header is longer than {_MAX_HEADER_BYTES} bytes")


def _read(reader: _Reader) -> GgufHeader:
    version = _read_version(reader)
    tensor_count = _read_count(reader, "tensors", _MAX_TENSORS)
    key_count = _read_count(reader, "keys", _MAX_KEYS)
    metadata = _read_metadata(reader, key_count)
    _check_not_split(reader, metadata)
    alignment = _alignment(reader, metadata)
    tensors, data_bytes = _read_tensors(reader, tensor_count)
    data_offset = -(-reader.position // alignment) * alignment
    if tensors:
        _check_whole(reader, data_offset + data_bytes)
    return GgufHeader(
        path=reader.path,
        size_bytes=reader.size_bytes,
        version=version,
        metadata=MappingProxyType(metadata),
        tensors=tensors,
        data_offset=data_offset,
    )


def _read_version(reader: _Reader) -> int:
    start = reader.start()
    if not start:
        reader.fail("is empty; download it again")
    if start[:4] != _MAGIC[: len(start)]:
        reader.fail(f"is not a GGUF file: it starts with {start!r}")
    reader.take(len(_MAGIC))
    version = reader.u32()
    if version not in _VERSIONS:
        if version and not version & 0xFFFF:
            reader.fail("is a big-endian GGUF; choose a little-endian one")
        reader.fail(f"is a GGUF of version {version}; versions 2 and 3 can be read")
    return version


def _read_count(reader: _Reader, what: str, limit: int) -> int:
    count = reader.u64()
    if count > limit:
        reader.damaged(f"its header promises {count} {what}")
    return count


def _read_metadata(reader: _Reader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = reader.text()
        value = _read_value(reader, reader.u32(), key)
        metadata.setdefault(key, value)
    return metadata


def _read_value(reader: _Reader, value_type: int, key: str) -> Any:
    if value_type == _STRING:
        return reader.text()
    if value_type == _ARRAY:
        return _read_array(reader, key)
    return struct.unpack(*_packed(reader, value_type, 1, key))[0]


def _read_array(reader: _Reader, key: str) -> tuple[Any, ...] | LazyArray:
    element_type = reader.u32()
    count = reader.u64()
    if element_type == _STRING:
        raw = reader.strings(count)
    else:
        _, raw = _packed(reader, element_type, count, key)
    array = LazyArray(element_type, count, raw)
    return array if count > _MAX_EAGER_ELEMENTS else array.decode()


def _packed(reader: _Reader, value_type: int, count: int, key: str) -> tuple[str, bytes]:
    code = _SCALARS.get(value_type)
    if code is None:
        reader.damaged(f"key '{_short(key)}' has the unknown type {value_type}")
    return f"<{count}{code}", reader.take(count * struct.calcsize(f"<{code}"))


def _check_not_split(reader: _Reader, metadata: Mapping[str, Any]) -> None:
    parts = _whole(metadata.get("split.count"))
    if parts is not None and parts > 1:
        reader.fail(
            f"is one of {parts} parts of a split GGUF; merge them into one file first "
            "(llama-gguf-split --merge)"
        )


def _alignment(reader: _Reader, metadata: Mapping[str, Any]) -> int:
    alignment = _whole(metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
    if not alignment or alignment & (alignment - 1):
        reader.damaged("its alignment is not a power of two")
    return alignment


def _read_tensors(reader: _Reader, count: int) -> tuple[tuple[TensorInfo, ...], int]:
    """The tensors, and how many bytes of data they reach to."""
    tensors = []
    data_bytes = 0
    for _ in range(count):
        tensor = _read_tensor(reader)
        data_bytes = max(data_bytes, reader.u64() + tensor.size_bytes)
        tensors.append(tensor)
    return tuple(tensors), data_bytes


def _read_tensor(reader: _Reader) -> TensorInfo:
    name = reader.text()
    dimensions = reader.u32()
    if dimensions > _MAX_DIMENSIONS:
        reader.damaged(f"tensor '{_short(name)}' has {dimensions} dimensions")
    shape = tuple(reader.u64() for _ in range(dimensions))
    if max(shape, default=0) > _MAX_DIMENSION:
        reader.damaged(f"tensor '{_short(name)}' has the shape {shape}")
    type_number = reader.u32()
    if type_number not in _TENSOR_TYPES:
        reader.fail(
            f"has a tensor '{_short(name)}' of the unknown type {type_number}; "
            "choose a GGUF of another quantisation"
        )
    type_name, block_elements, block_bytes = _TENSOR_TYPES[type_number]
    row_elements = shape[0] if shape else 1
    if row_elements % block_elements:
        reader.damaged(f"tensor '{_short(name)}' of type {type_name} has the shape {shape}")
    return TensorInfo(name, shape, type_name, prod(shape) // block_elements * block_bytes)


def _check_whole(reader: _Reader, promised_bytes: int) -> None:
    if promised_bytes > reader.size_bytes:
        reader.fail(
            f"is truncated: {reader.size_bytes} bytes, but its header promises {promised_bytes}; "
            "download it again"
        )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _widest(count: int | tuple[int, ...] | None) -> int | None:
    return max(count, default=None) if isinstance(count, tuple) else count


def _row_bytes(kv_type: str, elements: int) -> int:
    block_elements, block_bytes = _BLOCKS[kv_type.upper()]
    return -(-elements // block_elements) * block_bytes


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."
