"""Bringing a file of the hub here, while connections break, sizes are lies and bytes are wrong."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from bench.tiny_models import write_llama
from server.catalogue import download as module
from server.catalogue.download import Abandoned, body_start, download, part_of
from server.catalogue.faults import HubUnreachable, PullFailed, Spoiled
from server.catalogue.hub import HubFile, Source, find_file
from tests.fake_hub import REVISION, FakeHub, HubFileOnDemand, Lie

MIB = 2**20
FILE = HubFile("org/repo", "tiny.gguf", REVISION, 1000, "a" * 64)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A GGUF of 5 MiB: it comes in pieces of 1 MiB."""
    model = write_llama(tmp_path_factory.mktemp("hub") / "tiny.gguf").read_bytes()
    return model + bytes(5 * MIB - len(model))


@dataclass
class Bench:
    """A file of a hub, and where it is to be."""

    hub: FakeHub
    content: bytes
    target: Path

    def __post_init__(self) -> None:
        self.file = find_file(Source("org/repo"))

    @property
    def part(self) -> Path:
        return part_of(self.file, self.target)

    def begin(self, content: bytes, size_bytes: int = 2 * MIB) -> None:
        """What an earlier attempt has left."""
        self.part.parent.mkdir()
        self.part.write_bytes(content[:size_bytes])

    def get(self, received: Callable[[int], None] = lambda here_bytes: None) -> None:
        download(self.file, self.target, received, lambda done_bytes: None)

    def in_folder(self) -> list[str]:
        return sorted(path.name for path in self.target.parent.iterdir())

    def is_there(self) -> bool:
        return self.target.read_bytes() == self.content


@pytest.fixture
def bench(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with FakeHub() as hub:
        hub.add("org/repo", tiny_gguf=content)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0))
        yield Bench(hub, content, tmp_path / "models" / "tiny.gguf")


def test_a_download(bench: Bench) -> None:
    received: list[int] = []
    checked: list[int] = []

    def check(done_bytes: int) -> None:
        assert not bench.target.exists()
        checked.append(done_bytes)

    download(bench.file, bench.target, received.append, check)
    assert bench.is_there()
    assert bench.in_folder() == ["tiny.gguf"]
    assert received == [size * MIB for size in range(6)]
    assert checked[-1] == len(bench.content)


@pytest.mark.parametrize("fault", [2 * MIB, 503, 429, 408, Lie.TOO_FEW, Lie.NOTHING])
def test_what_may_pass_is_tried_again(bench: Bench, fault: int | Lie) -> None:
    bench.hub.faults = [fault, fault]
    bench.get()
    assert bench.is_there()
    assert len(bench.hub.ranges) == 3


def test_the_next_request_asks_for_what_is_missing(bench: Bench) -> None:
    bench.hub.faults = [2 * MIB, 1 * MIB]
    bench.get()
    assert bench.is_there()
    assert bench.hub.ranges == [None, f"bytes={2 * MIB}-", f"bytes={3 * MIB}-"]


def test_files_that_lie_elsewhere(bench: Bench) -> None:
    bench.hub.has_store = True
    bench.hub.faults = [2 * MIB]
    bench.get()
    assert bench.is_there()
    assert bench.hub.ranges == [None, f"bytes={2 * MIB}-"]


def test_attempts_that_bring_something_never_run_out(bench: Bench) -> None:
    bench.hub.faults = [1 * MIB, 503, 1 * MIB, 503, 1 * MIB, 503, 1 * MIB, 503]
    bench.get()
    assert bench.is_there()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (503, r"trouble of its own \(503\)"),
        (429, r"too many requests from here \(429\).*HF_TOKEN"),
        (Lie.NOTHING, r"ends .*tiny\.gguf@\w+ after 2,097,152 of 5,242,880 bytes \(0\.0 GB\).*HF_ENDPOINT"),
    ],
)
def test_attempts_that_bring_nothing_end_and_the_part_stays(
    bench: Bench, fault: int | Lie, words: str
) -> None:
    bench.begin(bench.content)
    bench.hub.faults = [fault] * 3
    with pytest.raises(PullFailed, match=words):
        bench.get()
    assert bench.part.read_bytes() == bench.content[: 2 * MIB]
    assert bench.hub.faults == []
    bench.get()
    assert bench.is_there()
    assert bench.hub.ranges[-1] == f"bytes={2 * MIB}-"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (401, r"wants an account for org/repo/tiny\.gguf \(401\), .*set HF_TOKEN"),
        (403, r"refuses org/repo/tiny\.gguf \(403\): accept its terms at http.*/org/repo .*HF_TOKEN"),
        (404, r"does not have org/repo/tiny\.gguf, or does not show it"),
        (400, r"the hub answered with an error \(400\): "),
        (Lie.PAGE, r"sends \d+ bytes as .*, which has 5,242,880 bytes .*sign-in"),
        (Lie.OTHER_TOTAL, r"sends 5,242,885 bytes as .*, which has 5,242,880 bytes"),
    ],
)
def test_what_will_not_pass_ends_at_once_and_the_part_stays(
    bench: Bench, fault: int | Lie, words: str
) -> None:
    bench.begin(bench.content)
    bench.hub.faults = [fault]
    with pytest.raises(PullFailed, match=words):
        bench.get()
    assert bench.part.read_bytes() == bench.content[: 2 * MIB]
    assert len(bench.hub.ranges) == 1


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (Lie.OTHER_PART, r"from byte 2,097,152 on, and sends another part \(Content-Range: bytes 0-5242879/"),
        (Lie.SILENT_PART, r"sends another part \(Content-Range: none\)"),
        (Lie.NO_SUCH_PART, r"ends before byte 2,097,152 of 5,242,880 bytes"),
        (Lie.TOO_MANY, r"sends more of .* than 5,242,880 bytes"),
        (Lie.WRONG_BYTES, r"arrived damaged: its sha256 is \w{64}, not \w{64}"),
    ],
)
def test_a_spoiled_part_goes_and_the_next_pull_begins_anew(bench: Bench, lie: Lie, words: str) -> None:
    bench.begin(bench.content)
    bench.hub.faults = [lie]
    with pytest.raises(Spoiled, match=f"{words}.* has been removed: pull it again"):
        bench.get()
    assert bench.in_folder() == []
    bench.get()
    assert bench.hub.ranges[-1] is None
    assert bench.is_there()


def test_bytes_that_changed_between_two_attempts(bench: Bench) -> None:
    bench.begin(b"\1" + bench.content)
    with pytest.raises(Spoiled, match="arrived damaged"):
        bench.get()
    assert bench.in_folder() == []


def test_a_hub_that_cannot_send_parts_sends_all_of_it(bench: Bench) -> None:
    bench.begin(b"\1" + bench.content)
    bench.hub.faults = [Lie.WHOLE_FILE]
    told: list[int] = []
    bench.get(told.append)
    assert bench.is_there()
    assert told[:2] == [2 * MIB, 1 * MIB]


def test_more_here_than_there_can_be_is_not_gone_on_with(bench: Bench) -> None:
    bench.begin(bench.content + b"more", len(bench.content) + 4)
    bench.get()
    assert bench.hub.ranges == [None]
    assert bench.is_there()


def test_a_part_that_is_whole_is_only_checked(bench: Bench) -> None:
    bench.begin(bench.content, len(bench.content))
    bench.get()
    assert bench.hub.ranges == []
    assert bench.is_there()


def test_a_hub_that_falls_silent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    bench.begin(bench.content)
    bench.hub.faults = [Lie.SILENCE] * 3
    with pytest.raises(HubUnreachable, match=r"127\.0\.0\.1:\d+ did not answer in time"):
        bench.get()
    assert bench.part.exists()


@pytest.mark.parametrize("stop", [Abandoned, KeyboardInterrupt])
def test_whoever_stops_it_can_go_on_later(bench: Bench, stop: type[BaseException]) -> None:
    def leave(here_bytes: int) -> None:
        if here_bytes >= 2 * MIB:
            raise stop

    with pytest.raises(stop):
        bench.get(leave)
    assert bench.part.read_bytes() == bench.content[: 2 * MIB]
    bench.get()
    assert bench.hub.ranges == [None, f"bytes={2 * MIB}-"]
    assert bench.is_there()


def test_what_is_no_model_is_thrown_away(bench: Bench) -> None:
    bench.hub.add("org/repo", page_gguf=b"<html>" * 100)
    with pytest.raises(Spoiled, match=r"org/repo/page\.gguf@\w+ is not a GGUF file"):
        replace(bench).get()
    assert bench.in_folder() == []


def test_a_file_that_is_longer_than_the_hub_says(bench: Bench) -> None:
    bench.hub.add("org/repo", tiny_gguf=HubFileOnDemand(bench.content, size_bytes=len(bench.content) - 5))
    with pytest.raises(PullFailed, match=r"sends 5,242,880 bytes as .*, which has 5,242,875 bytes"):
        replace(bench).get()


def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *free_bytes: int) -> None:
    """Let the disk have so much room, from question to question; the last one stays."""
    usage = shutil.disk_usage(tmp_path)
    left = list(free_bytes)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage._replace(free=left.pop(0) if len(left) > 1 else left[0])
    )


def test_room_is_checked_first(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, tmp_path, 1000)
    words = r"models has 1,000 bytes \(0\.0 GB\) free, and 5,242,880 bytes \(0\.0 GB\) are to come; .*_dir"
    with pytest.raises(PullFailed, match=words):
        bench.get()
    assert bench.hub.ranges == []
    assert bench.in_folder() == []


def test_room_is_checked_while_it_comes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, tmp_path, 10 * MIB, 9 * MIB, 8 * MIB, MIB)
    with pytest.raises(PullFailed, match=r"has 1,048,576 bytes .* free, and 3,145,728 bytes"):
        bench.get()
    assert bench.part.stat().st_size == 2 * MIB


def test_a_disk_that_is_full_all_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PullFailed, match=r"models has [\d,]+ bytes .* free, and 0 bytes .* are to come"):
        bench.get()


def test_a_folder_that_cannot_be_written(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(PullFailed, match="models cannot be written: File exists; let models_dir name"):
        bench.get()


def test_two_downloads_of_one_file(bench: Bench) -> None:
    def try_another(here_bytes: int) -> None:
        with pytest.raises(PullFailed, match=r"\.part is being downloaded already, by the service"):
            bench.get()

    bench.get(try_another)
    assert len(bench.hub.ranges) == 1
    assert bench.is_there()


def test_whoever_waited_for_the_lock_does_not_write_into_the_finished_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.begin(bench.content, len(bench.content))
    lock = fcntl.flock

    def lock_late(out: int, how: int) -> None:
        # The other one ends between our opening and our locking.
        if not bench.target.exists():
            bench.part.rename(bench.target)
        lock(out, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    bench.get()
    assert bench.is_there()
    assert bench.hub.ranges == [None]


def test_a_folder_without_locks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(out: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    bench.get()
    assert bench.target.exists()


@pytest.mark.parametrize(
    ("status", "headers", "here_bytes", "start"),
    [
        (200, {"Content-Length": "1000"}, 0, 0),
        (200, {}, 0, 0),
        (200, {"Content-Length": "1000"}, 400, 0),
        (206, {"Content-Range": "bytes 400-999/1000"}, 400, 400),
        (206, {"Content-Range": "bytes 400-499/1000"}, 400, 400),
        (206, {"Content-Range": "bytes 400-999/*"}, 400, 400),
    ],
)
def test_where_a_body_belongs(status: int, headers: Mapping[str, str], here_bytes: int, start: int) -> None:
    assert body_start(status, headers, here_bytes, FILE) == start


@pytest.mark.parametrize(
    ("status", "headers", "spoils"),
    [
        (200, {"Content-Length": "999"}, False),
        (206, {"Content-Range": "bytes 400-999/1001"}, False),
        (206, {"Content-Range": "bytes 399-999/1000"}, True),
        (206, {"Content-Range": "bytes 401-999/1000"}, True),
        (206, {"Content-Range": "400-999/1000"}, True),
        (206, {}, True),
        (416, {"Content-Range": "bytes */399"}, True),
    ],
)
def test_bodies_that_belong_nowhere(status: int, headers: Mapping[str, str], spoils: bool) -> None:
    with pytest.raises(PullFailed) as refusal:
        body_start(status, headers, 400, FILE)
    assert isinstance(refusal.value, Spoiled) == spoils
