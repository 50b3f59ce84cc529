"""The folder of states: real files, real faults, real processes that are killed."""

import fcntl
import logging
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.engine.disktier import DiskTier, Filed
from server.engine.prefix import tokens_of
from tests.running import PROJECT

PLENTY = 1 << 40
SCOPE = "model 1, f16"
TOKENS = tokens_of(range(1000))
STATE = bytes(range(256)) * 40
PREAMBLE_BYTES = 20


def written(tier: DiskTier, ids: range, state: bytes = STATE) -> Filed:
    filed = tier.write(tokens_of(ids), state).filed
    assert filed is not None
    return filed


def state_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kvstate"))


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def parts(file: Path) -> dict[str, int]:
    """Offsets at which the parts of a state file begin."""
    _, _, header_bytes, _ = struct.unpack_from("<8sIII", file.read_bytes())
    tokens = PREAMBLE_BYTES + header_bytes
    return {
        "magic": 0,
        "version": 8,
        "length of the header": 12,
        "checksum of the header": 16,
        "header": PREAMBLE_BYTES,
        "tokens": tokens,
        "state": tokens + 4 * len(TOKENS),
        "end": file.stat().st_size,
    }


def cut(file: Path, length: int) -> None:
    os.truncate(file, length)


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written(DiskTier(tmp_path, PLENTY, SCOPE), range(1000))
    return state_files(tmp_path)[0]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder, as another process would."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to make any file larger, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_state_survives_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "states"
    before = DiskTier(folder, PLENTY, SCOPE)
    assert before.found == ()
    filed = written(before, range(1000))
    after = DiskTier(folder, PLENTY, SCOPE)
    assert after.found == (filed,)
    assert after.found[0].tokens == TOKENS
    assert after.read(after.found[0]) == STATE
    assert filed.file_bytes == folder_bytes(folder)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda state: memoryview(state).cast("I")])
def test_any_buffer_is_written(tmp_path: Path, wrap: Callable[[bytes], bytes]) -> None:
    tier = DiskTier(tmp_path, PLENTY, SCOPE)
    assert tier.read(written(tier, range(5), wrap(STATE))) == STATE


def test_only_the_owner_reads_prompts(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    written(DiskTier(folder, PLENTY, SCOPE), range(5))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_equal_tokens_have_one_file(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, PLENTY, SCOPE)
    written(tier, range(5), b"old")
    filed = written(tier, range(5), b"new")
    assert len(state_files(tmp_path)) == 1
    assert tier.read(filed) == b"new"


@pytest.mark.parametrize(
    ("part", "behind"),
    [
        ("magic", 0),
        ("version", 0),
        ("header", -1),
        ("header", 0),
        ("header", 10),
        ("tokens", -1),
        ("tokens", 0),
        ("tokens", 401),
        ("state", 0),
        ("state", 1),
        ("end", -1),
        ("end", 1),
    ],
)
def test_a_file_of_another_length_is_damaged(
    file: Path, part: str, behind: int, caplog: pytest.LogCaptureFixture
) -> None:
    cut(file, parts(file)[part] + behind)
    tier = DiskTier(file.parent, PLENTY, SCOPE)
    assert tier.found == ()
    assert not file.exists()
    assert [file.name in line for line in warnings(caplog)] == [True]


@pytest.mark.parametrize("part", ["header", "tokens", "state"])
def test_a_file_that_is_cut_while_open_is_damaged(file: Path, part: str) -> None:
    tier = DiskTier(file.parent, PLENTY, SCOPE)
    cut(file, parts(file)[part] + 3)
    assert tier.read(tier.found[0]) is None
    assert not file.exists()


@pytest.mark.parametrize(
    "part", ["magic", "length of the header", "checksum of the header", "header", "tokens"]
)
@pytest.mark.parametrize("behind", [0, 2])
def test_a_flipped_bit_is_noticed_at_the_start(
    file: Path, part: str, behind: int, caplog: pytest.LogCaptureFixture
) -> None:
    flip(file, parts(file)[part] + behind)
    assert DiskTier(file.parent, PLENTY, SCOPE).found == ()
    assert not file.exists()
    assert [file.name in line for line in warnings(caplog)] == [True]


@pytest.mark.parametrize("offset", ["first", "last"])
def test_a_flipped_bit_of_the_state_is_noticed_by_its_reader(
    file: Path, offset: str, caplog: pytest.LogCaptureFixture
) -> None:
    flip(file, parts(file)["state"] if offset == "first" else parts(file)["end"] - 1)
    tier = DiskTier(file.parent, PLENTY, SCOPE)
    assert tier.read(tier.found[0]) is None
    assert not file.exists()
    assert [file.name in line and "state's checksum" in line for line in warnings(caplog)] == [True]


def test_a_length_beyond_the_file_is_not_believed(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    flip(file, parts(file)["checksum of the header"] - 1)
    assert DiskTier(file.parent, PLENTY, SCOPE).found == ()
    assert "its header is cut off" in caplog.text


def test_a_header_that_is_no_header_is_damaged(file: Path) -> None:
    text = b'{"scope": "model 1, f16"}'
    file.write_bytes(struct.pack("<8sIII", b"LLMOPTKV", 1, len(text), zlib.crc32(text)) + text)
    assert DiskTier(file.parent, PLENTY, SCOPE).found == ()
    assert not file.exists()


def test_another_version_is_left_alone(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    flip(file, parts(file)["version"])
    assert DiskTier(file.parent, PLENTY, SCOPE).found == ()
    assert file.exists()
    assert (
        "0 states of this model (0 MiB); 1 of other models or settings left alone; 0 damaged" in caplog.text
    )


def test_another_version_in_place_of_a_state_is_not_read(file: Path) -> None:
    tier = DiskTier(file.parent, PLENTY, SCOPE)
    flip(file, parts(file)["version"])
    assert tier.read(tier.found[0]) is None
    assert file.exists()


def test_another_scope_is_left_alone(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    other = DiskTier(file.parent, PLENTY, "model 1, q8_0")
    assert other.found == ()
    assert "1 of other models" in caplog.text
    written(other, range(1000), b"other")
    assert [len(DiskTier(file.parent, PLENTY, scope).found) for scope in (SCOPE, "model 1, q8_0")] == [1, 1]


def test_a_file_of_other_tokens_is_not_mistaken(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, PLENTY, SCOPE)
    first, second = written(tier, range(5)), written(tier, range(6))
    (tmp_path / first.name).replace(tmp_path / second.name)
    assert tier.read(second) is None
    assert tier.read(first) is None


def test_a_file_of_another_scope_is_not_mistaken(file: Path) -> None:
    tier = DiskTier(file.parent, PLENTY, SCOPE)
    other = DiskTier(file.parent, PLENTY, "another").write(TOKENS, STATE).filed
    assert other is not None
    (file.parent / other.name).replace(file)
    assert tier.read(tier.found[0]) is None


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, PLENTY, SCOPE)
    filed = [written(tier, range(100, 105 + i), bytes(10_000)) for i in range(3)]
    tier.touch(filed[0])
    small = DiskTier(tmp_path, folder_bytes(tmp_path), SCOPE)
    outcome = small.write(tokens_of([1]), bytes(10_100))
    assert outcome.evicted == (filed[1].name, filed[2].name)
    assert tier.read(filed[0]) == bytes(10_000)


def test_the_longest_unused_is_found_first(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, PLENTY, SCOPE)
    filed = [written(tier, range(i + 1)) for i in range(3)]
    tier.touch(filed[0])
    assert DiskTier(tmp_path, PLENTY, SCOPE).found == (filed[1], filed[2], filed[0])


def test_files_of_others_count_and_go(file: Path) -> None:
    other = DiskTier(file.parent, folder_bytes(file.parent) + 100, "another")
    assert other.write(tokens_of([1]), bytes(200)).evicted == (file.name,)


def test_a_lower_budget_holds_from_the_start(file: Path) -> None:
    size = folder_bytes(file.parent)
    assert len(DiskTier(file.parent, size, SCOPE).found) == 1
    assert len(DiskTier(file.parent, size - 1, SCOPE).found) == 0
    assert not file.exists()


def test_what_can_never_fit_costs_nobody_his_place(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tier = DiskTier(file.parent, folder_bytes(file.parent), SCOPE)
    outcome = tier.write(tokens_of([1]), bytes(2 * len(STATE)))
    assert outcome.filed is None
    assert outcome.evicted == ()
    assert "disk_cache_mib" in caplog.text
    assert tier.read(tier.found[0]) == STATE
    assert tier.write(TOKENS, bytes(1)).filed is not None


def test_other_files_are_never_touched(tmp_path: Path) -> None:
    names = ["notes.txt", "model.part", "a.kvstate.bak"]
    for name in names:
        (tmp_path / name).write_bytes(bytes(1000))
    tier = DiskTier(tmp_path, 20_000, SCOPE)
    for i in range(4):
        written(tier, range(i + 1))
    assert [(tmp_path / name).stat().st_size for name in names] == [1000] * 3


def test_an_unfinished_file_stays_while_it_is_written(tmp_path: Path) -> None:
    unfinished = tmp_path / "0.kvstate.x.part"
    unfinished.write_bytes(bytes(1000))
    with locked(unfinished):
        tier = DiskTier(tmp_path, 1500, SCOPE)
        assert unfinished.exists()
        assert tier.write(tokens_of([1]), bytes(1000)).filed is None
        assert tier.write(tokens_of([1]), bytes(100)).filed is not None
    DiskTier(tmp_path, 1500, SCOPE)
    assert not unfinished.exists()


def test_a_file_that_vanished_is_normal(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    tier = DiskTier(file.parent, PLENTY, SCOPE)
    file.unlink()
    tier.touch(tier.found[0])
    assert tier.read(tier.found[0]) is None
    assert warnings(caplog) == []


def test_a_folder_that_vanished_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    tier = DiskTier(folder, PLENTY, SCOPE)
    folder.rmdir()
    assert tier.read(written(tier, range(5))) == STATE


def test_a_folder_that_vanishes_under_a_writer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "states"
    tier = DiskTier(folder, PLENTY, SCOPE)
    monkeypatch.setattr(os, "fsync", lambda _: shutil.rmtree(folder))
    assert tier.write(TOKENS, STATE).filed is None
    monkeypatch.undo()
    assert tier.read(written(tier, range(5))) == STATE
    assert warnings(caplog) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "states"
    folder.write_text("a file")
    tier = DiskTier(folder, PLENTY, SCOPE)
    assert tier.found == ()
    assert tier.write(TOKENS, STATE).filed is None
    assert [str(folder) in line and "cache_dir" in line for line in warnings(caplog)] == [True]
    assert folder.read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_still_read(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.chmod(0o500)
    tier = DiskTier(file.parent, PLENTY, SCOPE)
    assert tier.read(tier.found[0]) == STATE
    for first in (1, 2):
        assert tier.write(tokens_of([first]), STATE).filed is None
    assert len(warnings(caplog)) == 1


def test_a_full_disk_stops_the_writing_only(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    tier = DiskTier(file.parent, PLENTY, SCOPE)
    with largest_file(1 << 20):
        assert tier.write(tokens_of([1]), bytes(2 << 20)).filed is None
    assert tier.write(tokens_of([1]), bytes(1)).filed is None
    assert ["disk_cache_mib" in line and "cache_dir" in line for line in warnings(caplog)] == [True]
    assert list(file.parent.iterdir()) == [file]
    assert tier.read(tier.found[0]) == STATE


def test_the_budget_holds_for_all_who_share_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    budget = 300_000
    tiers = [DiskTier(tmp_path, budget, scope) for scope in ("one", "two", "three")]

    def fill(tier: DiskTier) -> int:
        largest = 0
        for i in range(15):
            tier.write(tokens_of([i]), os.urandom(50_000))
            with locked(tmp_path):
                largest = max(largest, folder_bytes(tmp_path))
        return largest

    with ThreadPoolExecutor(len(tiers)) as threads:
        assert max(threads.map(fill, tiers)) <= budget
    found = [filed for scope in ("one", "two", "three") for filed in DiskTier(tmp_path, budget, scope).found]
    assert len(found) == 5
    assert warnings(caplog) == []


WRITE_A_LARGE_STATE = """
import sys
from pathlib import Path
from server.engine.disktier import DiskTier
from server.engine.prefix import tokens_of
DiskTier(Path(sys.argv[1]), 1 << 40, "model 1, f16").write(tokens_of([7]), bytes(256 << 20))
"""


def killed_while_writing(folder: Path) -> list[Path]:
    """Kill a process as soon as its file has appeared; what it left unfinished."""
    child = subprocess.Popen([sys.executable, "-c", WRITE_A_LARGE_STATE, str(folder)], cwd=PROJECT)
    end = time.monotonic() + 60
    try:
        while not list(folder.glob("*.part")):
            assert child.poll() is None
            assert time.monotonic() < end
    finally:
        child.kill()
        child.wait()
    assert child.returncode == -signal.SIGKILL
    return list(folder.glob("*.part"))


def test_a_killed_writer_leaves_nothing_broken(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    unfinished = killed_while_writing(file.parent)
    assert len(unfinished) == 1
    tier = DiskTier(file.parent, PLENTY, SCOPE)
    assert list(file.parent.iterdir()) == [file]
    assert tier.read(tier.found[0]) == STATE
    assert warnings(caplog) == []
