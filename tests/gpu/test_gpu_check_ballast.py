"""The GPU check's ballast, against a stand-in for the driver's library."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.gpu_check.ballast import Ballast, CudaFailed, ballast
from tests.running import PROJECT

MIB = 2**20


@pytest.fixture
def holding(fake_cuda_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ballast]:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_cuda_folder))
    monkeypatch.chdir(PROJECT)
    with ballast("0000:01:00.0") as started:
        yield started


def test_the_ballast_leaves_what_it_is_told_to(holding: Ballast) -> None:
    assert holding.leave(8192 * MIB) == 8192 * MIB
    assert holding.leave(2048 * MIB) == 2048 * MIB
    assert holding.leave(16 * MIB) == 16 * MIB
    assert 8192 * MIB <= holding.leave(8192 * MIB) < (8192 + 256) * MIB


def test_the_ballast_cannot_leave_more_than_there_is(holding: Ballast) -> None:
    assert holding.leave(99_999 * MIB) == 10_240 * MIB


def test_memory_in_pieces_is_filled_with_small_ones(
    fake_cuda_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_cuda_folder))
    monkeypatch.setenv("FAKE_CUDA_LARGEST_MIB", "100")
    monkeypatch.chdir(PROJECT)
    with ballast("0000:01:00.0") as started:
        assert started.leave(9000 * MIB) == 9000 * MIB


def test_a_ballast_without_its_card_is_told(fake_cuda_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_cuda_folder))
    monkeypatch.chdir(PROJECT)
    with ballast("0000:99:00.0") as started, pytest.raises(CudaFailed, match="has ended"):
        started.leave(MIB)


def test_the_ballast_ends_with_its_input(fake_cuda_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_check.ballast", "0000:01:00.0"],
        input=f"{10_000 * MIB}\n",
        env={"LD_LIBRARY_PATH": str(fake_cuda_folder)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == [str(10_000 * MIB), str(240 * MIB)]
