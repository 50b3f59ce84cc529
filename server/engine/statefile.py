"""One state of the KV cache as a file: what is in it, and how it is checked.

Magic, version, length and checksum of the header; the header as JSON; the token ids as little-endian
int32; the state. The files hold the tokens of prompts, so they are for their owner's eyes only.
"""

import json
import os
import struct
import zlib
from array import array
from dataclasses import asdict, dataclass
from io import BufferedIOBase
from typing import TypeAlias

import numpy as np

from server.engine.ownmemory import own_memory
from server.engine.prefix import Tokens

State: TypeAlias = bytes | bytearray | memoryview
"""A state as bytes that nobody changes any more."""

_MAGIC = b"LLMOPTKV"
_VERSION = 1
_PREAMBLE = struct.Struct("<8sIII")
_TOKEN = np.dtype("<i4")


class Damaged(Exception):
    """The file is not what was written; says in which part."""


class OtherVersion(Exception):
    """The file was written by a version of the program with another format."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its contents. ``scope`` names everything that the state depends on."""

    scope: str
    tokens: int
    tokens_crc32: int
    state_bytes: int
    state_crc32: int


def encode_head(scope: str, tokens: Tokens, state: State) -> bytes:
    """All of a file up to its state. Reads the whole state once for its checksum."""
    ids = np.frombuffer(tokens, np.int32).astype(_TOKEN).tobytes()
    state_bytes = memoryview(state).nbytes
    header = Header(scope, len(tokens), zlib.crc32(ids), state_bytes, zlib.crc32(state))
    text = json.dumps(asdict(header)).encode()
    return _PREAMBLE.pack(_MAGIC, _VERSION, len(text), zlib.crc32(text)) + text + ids


def read_header(file: BufferedIOBase) -> Header:
    """The header of a file that is open at its start; checks the file's length, too.

    Raises:
        Damaged: it is no such file, or not all of it.
        OtherVersion: its format is another one.
    """
    file_bytes = os.fstat(file.fileno()).st_size
    preamble = file.read(_PREAMBLE.size)
    if len(preamble) < _PREAMBLE.size:
        raise Damaged("its header is cut off")
    magic, version, text_bytes, text_crc32 = _PREAMBLE.unpack(preamble)
    if magic != _MAGIC:
        raise Damaged("it does not begin like a state file")
    if version != _VERSION:
        raise OtherVersion
    if _PREAMBLE.size + text_bytes > file_bytes:
        raise Damaged("its header is cut off")
    text = file.read(text_bytes)
    if zlib.crc32(text) != text_crc32:
        raise Damaged("its header's checksum is wrong")
    header = _parse(text)
    expected_bytes = _PREAMBLE.size + text_bytes + header.tokens * _TOKEN.itemsize + header.state_bytes
    if file_bytes != expected_bytes:
        raise Damaged(f"it has {file_bytes} bytes where its header says {expected_bytes}")
    return header


def read_tokens(file: BufferedIOBase, header: Header) -> Tokens:
    """The tokens, of a file that is open right behind its header.

    Raises:
        Damaged: they are not the ones that were written.
    """
    ids = file.read(header.tokens * _TOKEN.itemsize)
    if zlib.crc32(ids) != header.tokens_crc32:
        raise Damaged("its tokens' checksum is wrong")
    return array("i", np.frombuffer(ids, _TOKEN).astype(np.int32).tobytes())


def read_state(file: BufferedIOBase, header: Header) -> memoryview:
    """The state, of a file that is open right behind its tokens.

    Raises:
        Damaged: it is not the one that was written.
    """
    state = own_memory(header.state_bytes)
    read_bytes = file.readinto(state)
    if read_bytes != header.state_bytes or zlib.crc32(state) != header.state_crc32:
        raise Damaged("its state's checksum is wrong")
    return state


def _parse(text: bytes) -> Header:
    try:
        return Header(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise Damaged("its header cannot be read") from error
