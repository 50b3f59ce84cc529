import os
import stat
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.engine.gguf.header import GgufHeader, TensorInfo
from server.engine.gguf.reader import GgufError, read_header
from server.engine.gguf.values import LazyArray
from tests.engine.gguf_files import Tensor, Typed, gguf_bytes, preamble, text, value_bytes, write_gguf

QWEN_7B = {
    "general.architecture": "qwen2",
    "general.name": "Qwen2.5 Coder 7B Instruct",
    "general.license": "apache-2.0",
    "general.file_type": 15,
    "qwen2.context_length": 32768,
    "qwen2.embedding_length": 3584,
    "qwen2.feed_forward_length": 18944,
    "qwen2.block_count": 28,
    "qwen2.attention.head_count": 28,
    "qwen2.attention.head_count_kv": 4,
    "tokenizer.ggml.tokens": [f"t{i}" for i in range(600)],
    "tokenizer.chat_template": "{{ messages }}",
}
QWEN3_1_7B = {
    "general.architecture": "qwen3",
    "qwen3.embedding_length": 2048,
    "qwen3.block_count": 28,
    "qwen3.attention.head_count": 16,
    "qwen3.attention.head_count_kv": 8,
    "qwen3.attention.key_length": 128,
    "qwen3.attention.value_length": 128,
}
TENSORS = (Tensor("token_embd.weight", (256, 3), "Q4_K"), Tensor("output_norm.weight", (5,)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def header_of(file: Path, metadata: dict[str, Any], tensors: tuple[Tensor, ...] = ()) -> GgufHeader:
    return read_header(write_gguf(file, metadata, tensors))


def refusal_of(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    with pytest.raises(GgufError) as error:
        read_header(file)
    assert str(error.value).startswith(str(file))
    return error.value.reason


def test_reads_what_a_model_is(file: Path) -> None:
    header = header_of(file, QWEN_7B, TENSORS)

    assert header.path == file
    assert header.size_bytes == file.stat().st_size
    assert header.version == 3
    assert header.architecture == "qwen2"
    assert header.name == "Qwen2.5 Coder 7B Instruct"
    assert header.license == "apache-2.0"
    assert header.file_type_name == "Q4_K_M"
    assert header.context_length == 32768
    assert header.embedding_length == 3584
    assert header.feed_forward_length == 18944
    assert header.block_count == 28
    assert (header.head_count, header.head_count_kv) == (28, 4)
    assert (header.key_length, header.value_length) == (128, 128)
    assert header.vocabulary_size == 600
    assert header.chat_template == "{{ messages }}"
    assert header.pooling_type is None


def test_reads_the_tensors(file: Path) -> None:
    header = header_of(file, QWEN_7B, TENSORS)

    assert header.tensors == (
        TensorInfo("token_embd.weight", (256, 3), "Q4_K", 432),
        TensorInfo("output_norm.weight", (5,), "F32", 20),
    )
    assert header.parameter_count == 256 * 3 + 5
    assert header.weights_bytes == 452
    assert header.data_offset % 32 == 0
    assert header.data_offset + 448 + 32 == header.size_bytes


def test_reads_version_2(file: Path) -> None:
    file.write_bytes(gguf_bytes(QWEN_7B, TENSORS, version=2))

    assert read_header(file).version == 2


def test_every_type_of_value_is_kept_verbatim(file: Path) -> None:
    values = {
        "u8": Typed("u8", 255),
        "i8": Typed("i8", -128),
        "u16": Typed("u16", 65535),
        "i16": Typed("i16", -3),
        "u32": 7,
        "i32": -7,
        "f32": 0.5,
        "bool": True,
        "u64": 2**63,
        "i64": Typed("i64", -(2**40)),
        "f64": Typed("f64", 0.1),
        "text": "h\u00e9llo",
        "numbers": [1, 2, 3],
        "texts": ["a", "", "\U0001f999"],
        "none": [],
    }
    plain = {
        key: value.value if isinstance(value, Typed) else tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
    }

    assert header_of(file, values).metadata == plain


def test_long_arrays_are_decoded_when_asked_for(file: Path) -> None:
    tokens = [f"token {i}" for i in range(1000)]
    header = header_of(file, {"texts": tokens, "numbers": list(range(1000))})

    texts, numbers = header.metadata["texts"], header.metadata["numbers"]
    assert isinstance(texts, LazyArray)
    assert isinstance(numbers, LazyArray)
    assert len(texts) == len(numbers) == 1000
    assert texts.decode() == tuple(tokens)
    assert numbers.decode() == tuple(range(1000))


def test_what_the_file_does_not_say_is_none(file: Path) -> None:
    header = header_of(file, {})

    assert header.architecture is header.name is header.license is header.chat_template is None
    assert header.context_length is header.embedding_length is header.block_count is None
    assert header.head_count is header.head_count_kv is header.key_length is header.value_length is None
    assert header.vocabulary_size is header.kv_bytes_per_token("f16") is None
    assert header.file_type_name == "unknown"
    assert header.parameter_count == header.weights_bytes == 0


def test_what_the_file_says_in_a_wrong_type_is_none(file: Path) -> None:
    wrong: dict[str, Any] = {key: ["wrong"] for key in QWEN_7B}
    header = header_of(file, wrong | {"general.architecture": "qwen2", "general.file_type": -1})

    assert header.name is None
    assert header.context_length is header.head_count is header.head_count_kv is None
    assert header.file_type_name == "unknown"
    assert header.kv_bytes_per_token("f16") is None


def test_no_heads_is_no_division_by_zero(file: Path) -> None:
    header = header_of(file, QWEN_7B | {"qwen2.attention.head_count": 0})

    assert header.key_length is None


def test_without_kv_heads_every_head_has_its_own(file: Path) -> None:
    metadata = dict(QWEN_7B)
    del metadata["qwen2.attention.head_count_kv"]

    assert header_of(file, metadata).head_count_kv == 28


@pytest.mark.parametrize(
    ("metadata", "kv_type", "expected_bytes"),
    [
        (QWEN_7B, "f16", 57_344),
        (QWEN_7B, "q8_0", 30_464),
        (QWEN_7B, "q4_0", 16_128),
        (QWEN3_1_7B, "f16", 114_688),
        (QWEN3_1_7B, "q8_0", 60_928),
        (QWEN3_1_7B, "q4_0", 32_256),
        (QWEN_7B | {"qwen2.attention.head_count_kv": [4] * 14 + [0] * 14}, "f16", 28_672),
    ],
)
def test_kv_bytes_per_token(file: Path, metadata: dict[str, Any], kv_type: str, expected_bytes: int) -> None:
    assert header_of(file, metadata).kv_bytes_per_token(kv_type) == expected_bytes


def test_an_unknown_kv_type_is_a_mistake_of_the_caller(file: Path) -> None:
    with pytest.raises(ValueError, match="'q5' is not one of f16, q8_0, q4_0"):
        header_of(file, QWEN_7B).kv_bytes_per_token("q5")


def test_heads_may_differ_from_layer_to_layer(file: Path) -> None:
    varied = {"qwen2.attention.head_count": [28, 14], "qwen2.attention.head_count_kv": [4, 2]}
    header = header_of(file, QWEN_7B | varied)

    assert header.head_count == 28
    assert header.head_count_kv == (4, 2)


def test_the_first_of_two_equal_keys_counts(file: Path) -> None:
    pair = text("general.name") + value_bytes("first") + text("general.name") + value_bytes("second")
    file.write_bytes(preamble(keys=2) + pair)

    assert read_header(file).name == "first"


def test_a_guessed_file_type_is_named(file: Path) -> None:
    assert header_of(file, {"general.file_type": 1024 + 15}).file_type_name == "Q4_K_M"
    assert header_of(file, {"general.file_type": 5}).file_type_name == "unknown"


def test_a_pooling_type_tells_an_embedding_model(file: Path) -> None:
    header = header_of(file, {"general.architecture": "bert", "bert.pooling_type": 1})

    assert header.pooling_type == 1


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=r"absent\.gguf does not exist"):
        read_header(tmp_path / "absent.gguf")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="is a directory"):
        read_header(tmp_path)


def test_a_pipe_is_not_waited_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(GgufError, match="is not a regular file"):
        read_header(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_an_impossible_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(GgufError, match="cannot be read"):
        read_header(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(file: Path) -> None:
    write_gguf(file, {})
    file.chmod(stat.S_IWUSR)

    with pytest.raises(GgufError, match="cannot be read: Permission denied"):
        read_header(file)


def first_bytes(version: int) -> bytes:
    return b"GGUF" + struct.pack("<I", version) + bytes(16)


def one_key(value: bytes) -> bytes:
    return preamble(keys=1) + text("key") + value


def one_tensor(shape: tuple[int, ...], type_number: int, offset: int = 0) -> bytes:
    info = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_number, offset)
    return preamble(tensors=1) + text("w") + info


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty; download it again"),
        (b"GG", "is truncated or damaged: 2 bytes, but its header promises at least 4; download it again"),
        (b"<!DOCTYPE html><html>", "is not a GGUF file: it starts with b'<!DOCTYPE html><'"),
        (b"\x7fELF\x02\x01", "is not a GGUF file: it starts with b'\\x7fELF\\x02\\x01'"),
        (first_bytes(1), "is a GGUF of version 1; versions 2 and 3 can be read"),
        (first_bytes(4), "is a GGUF of version 4; versions 2 and 3 can be read"),
        (first_bytes(0), "is a GGUF of version 0; versions 2 and 3 can be read"),
        (first_bytes(0x03000000), "is a big-endian GGUF; choose a little-endian one"),
        (preamble(keys=2**63), f"is damaged: its header promises {2**63} keys; download it again"),
        (preamble(tensors=10**9), "is damaged: its header promises 1000000000 tensors; download it again"),
        (preamble(keys=1) + struct.pack("<Q", 2**64 - 1), "promises at least 18446744073709551647"),
        (one_key(struct.pack("<I", 13)), "is damaged: key 'key' has the unknown type 13"),
        (one_key(struct.pack("<IIQ", 9, 9, 1)), "is damaged: key 'key' has the unknown type 9"),
        (one_key(struct.pack("<IIQ", 9, 8, 2**60)), "is truncated or damaged"),
        (one_key(struct.pack("<IIQ", 9, 10, 2**62)), "is truncated or damaged"),
        (gguf_bytes({"general.alignment": 33}), "is damaged: its alignment is not a power of two"),
        (gguf_bytes({"general.alignment": 0}), "is damaged: its alignment is not a power of two"),
        (gguf_bytes({"general.alignment": "32"}), "is damaged: its alignment is not a power of two"),
        (gguf_bytes({"split.count": Typed("u16", 3)}), "is one of 3 parts of a split GGUF; merge them"),
        (one_tensor((1,), 4), "has a tensor 'w' of the unknown type 4; choose a GGUF of another"),
        (one_tensor((1,) * 5, 0), "is damaged: tensor 'w' has 5 dimensions"),
        (one_tensor((2**63,), 0), "is damaged: tensor 'w' has the shape"),
        (one_tensor((255, 256), 12), "is damaged: tensor 'w' of type Q4_K has the shape (255, 256)"),
        (one_tensor((), 12), "is damaged: tensor 'w' of type Q4_K has the shape ()"),
        (one_tensor((2**63 - 1,) * 4, 0), "is truncated: "),
        (one_tensor((1,), 0, offset=2**64 - 1), "is truncated: "),
    ],
)
def test_what_cannot_be_a_model_is_refused_with_the_reason(file: Path, content: bytes, expected: str) -> None:
    assert expected in refusal_of(file, content)


def test_missing_tensor_data_is_counted(file: Path) -> None:
    whole = gguf_bytes(QWEN_7B, TENSORS)
    promised = len(whole) - 12  # the last tensor's padding may be missing

    assert refusal_of(file, whole[: promised - 1]) == (
        f"is truncated: {promised - 1} bytes, but its header promises {promised}; download it again"
    )
    file.write_bytes(whole[:promised])
    assert read_header(file).tensors


def test_a_header_may_be_cut_anywhere(file: Path) -> None:
    whole = gguf_bytes({"a": 1, "b": "text", "c": ["x", "y"], "d": [0.5, 1.5]}, TENSORS)

    for length in range(len(whole) - 12):
        refusal_of(file, whole[:length])


def test_a_hostile_header_takes_neither_memory_nor_time(file: Path) -> None:
    with file.open("wb") as out:
        # a hole that takes no room on the disk: lengths of zero, as far as one can count
        out.write(one_key(struct.pack("<IIQ", 9, 8, 2**33)))
        out.truncate(2**37)

    started = time.monotonic()
    tracemalloc.start()
    with pytest.raises(GgufError, match="its header is longer than 67108864 bytes"):
        read_header(file)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**28
    assert time.monotonic() - started < 10


def test_endless_text_is_refused(file: Path) -> None:
    with file.open("wb") as out:
        out.write(one_key(struct.pack("<IQ", 8, 2**24)))
        out.truncate(2**25)

    with pytest.raises(GgufError, match="more than 16777216 bytes of text"):
        read_header(file)


def test_a_large_vocabulary_is_read_fast(file: Path) -> None:
    tokens = [f"token{i}" for i in range(152_000)]
    write_gguf(file, {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": tokens})

    started = time.monotonic()
    assert read_header(file).vocabulary_size == 152_000
    assert time.monotonic() - started < 0.5


bad_bytes = st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), max_size=8)
lenient = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def look_at_everything(header: GgufHeader) -> None:
    for name in dir(header):
        # Python 3.11.2 has a __weakref__ on slotted classes that cannot be looked at.
        if not name.startswith("__"):
            getattr(header, name)
    header.kv_bytes_per_token("q8_0")


def read_or_refuse(file: Path) -> None:
    try:
        header = read_header(file)
    except GgufError:
        return
    look_at_everything(header)


@lenient
@given(cut=st.integers(0, 2**31), changes=bad_bytes)
def test_nothing_but_a_gguf_error_for_any_damage(
    file: Path, cut: int, changes: list[tuple[int, int]]
) -> None:
    small = QWEN_7B | {"tokenizer.ggml.tokens": ["a", "b"], "qwen2.attention.head_count_kv": [4, 2]}
    content = bytearray(gguf_bytes(small, TENSORS))
    for position, byte in changes:
        content[position % len(content)] = byte
    file.write_bytes(content[: len(content) - cut % len(content) if cut % 2 else None])

    read_or_refuse(file)


@lenient
@given(content=st.binary(max_size=200))
def test_nothing_but_a_gguf_error_for_any_bytes(file: Path, content: bytes) -> None:
    file.write_bytes(b"GGUF\x03\0\0\0" + content)

    read_or_refuse(file)


def test_the_embedded_model(embedded_model: Path) -> None:
    started = time.monotonic()
    header = read_header(embedded_model)
    assert time.monotonic() - started < 0.5

    assert header.architecture == "llama"
    assert header.file_type_name == "Q4_1"
    assert header.parameter_count == 134_515_008
    assert (header.context_length, header.block_count, header.vocabulary_size) == (8192, 30, 49152)
    assert (header.head_count, header.head_count_kv, header.key_length) == (9, 3, 64)
    assert header.data_offset + header.weights_bytes <= header.size_bytes
    assert header.kv_bytes_per_token("f16") == 23_040
    assert header.chat_template is not None
    assert len(header.metadata["tokenizer.ggml.tokens"].decode()) == 49152
    look_at_everything(header)


@settings(lenient, max_examples=50)
@given(changes=bad_bytes)
def test_the_embedded_model_damaged(file: Path, embedded_model: Path, changes: list[tuple[int, int]]) -> None:
    offset, size_bytes = _embedded_extent(embedded_model)
    with embedded_model.open("rb") as original:
        content = bytearray(original.read(offset))
    for position, byte in changes:
        content[position % offset] = byte
    with file.open("wb") as out:
        out.write(content)
        out.truncate(size_bytes)  # the weights are a hole: nobody reads them

    read_or_refuse(file)


def _embedded_extent(embedded_model: Path) -> tuple[int, int]:
    header = read_header(embedded_model)
    return header.data_offset, header.size_bytes
