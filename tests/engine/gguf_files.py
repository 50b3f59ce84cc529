"""Small GGUF files, whole ones and broken ones, and real ones that are changed."""

import re
import struct
from pathlib import Path

from bench.gguf_writer import (
    ALIGNMENT,
    SCALARS,
    STRING,
    TENSOR_COUNT_OFFSET,
    TENSOR_TYPES,
    Tensor,
    Typed,
    gguf_bytes,
    gguf_head,
    preamble,
    text,
    value_bytes,
    with_chat_template,
    write_gguf,
)
from server.engine.gguf.reader import read_header

__all__ = [
    "ALIGNMENT",
    "SCALARS",
    "STRING",
    "TENSOR_COUNT_OFFSET",
    "TENSOR_TYPES",
    "Tensor",
    "Typed",
    "gguf_bytes",
    "gguf_head",
    "preamble",
    "text",
    "value_bytes",
    "with_chat_template",
    "with_context_length",
    "with_layers",
    "write_gguf",
]


def with_context_length(model: Path, target: Path, tokens: int) -> Path:
    """Write a copy of ``model``, of the architecture llama, that claims to be trained for so many tokens."""
    content = bytearray(model.read_bytes())
    _set_number(content, "llama.context_length", tokens)
    target.write_bytes(content)
    return target


def with_layers(model: Path, target: Path, layers: int) -> Path:
    """Write a copy of ``model``, of the architecture llama, that has only its first layers, and return its
    path. It babbles, and is as much faster; its vocabulary and its template are the real ones."""
    header = read_header(model)
    content = bytearray(model.read_bytes())
    _set_number(content, "llama.block_count", layers)
    infos, data, place = b"", b"", header.data_offset
    kept = 0
    for tensor in header.tensors:
        size = -(-tensor.size_bytes // ALIGNMENT) * ALIGNMENT
        if int(next(iter(re.findall(r"^blk\.(\d+)\.", tensor.name)), -1)) < layers:
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            kind = struct.pack("<IQ", TENSOR_TYPES[tensor.type_name][0], len(data))
            infos += text(tensor.name) + shape + kind
            data += content[place : place + size].ljust(size, b"\0")
            kept += 1
        place += size
    struct.pack_into("<Q", content, TENSOR_COUNT_OFFSET, kept)
    head = content[: content.index(text(header.tensors[0].name))] + infos
    target.write_bytes(head + bytes(-len(head) % ALIGNMENT) + data)
    return target


def _set_number(content: bytearray, key: str, value: int) -> None:
    number, packing = SCALARS["u32"]
    start = text(key) + struct.pack("<I", number)
    struct.pack_into(packing, content, content.index(start) + len(start), value)
