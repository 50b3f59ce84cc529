from pathlib import Path

import pytest

from server.gpu.host import available_ram_bytes

GIB = 2**30


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal: {32 * 2**20} kB\nMemFree: 100 kB\nMemAvailable: {16 * 2**20} kB\nHugePages_Total: 0\n"
    )
    return tmp_path / "proc"


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def limit(folder: Path, maximum: str, used_bytes: int, inactive_file_bytes: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{maximum}\n")
    (folder / "memory.current").write_text(f"{used_bytes}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive_file_bytes}\n")


def test_without_control_groups_the_kernel_says(proc: Path, cgroups: Path) -> None:
    assert available_ram_bytes(proc, cgroups) == 16 * GIB


def test_a_group_without_limit_changes_nothing(proc: Path, cgroups: Path) -> None:
    (proc / "self/cgroup").write_text("0::/user.slice\n")
    limit(cgroups / "user.slice", "max", 3 * GIB)

    assert available_ram_bytes(proc, cgroups) == 16 * GIB


def test_the_tightest_group_above_counts(proc: Path, cgroups: Path) -> None:
    (proc / "self/cgroup").write_text("1:name=systemd:/old\n0::/system.slice/model.service\n")
    limit(cgroups / "system.slice/model.service", str(12 * GIB), 2 * GIB)
    limit(cgroups / "system.slice", str(9 * GIB), 4 * GIB, inactive_file_bytes=GIB)

    assert available_ram_bytes(proc, cgroups) == 6 * GIB


def test_a_container_sees_its_limit_at_the_root(proc: Path, cgroups: Path) -> None:
    (proc / "self/cgroup").write_text("0::/\n")
    limit(cgroups, str(4 * GIB), GIB)

    assert available_ram_bytes(proc, cgroups) == 3 * GIB


def test_a_group_beyond_its_limit_has_nothing_left(proc: Path, cgroups: Path) -> None:
    (proc / "self/cgroup").write_text("0::/\n")
    limit(cgroups, str(GIB), 2 * GIB)

    assert available_ram_bytes(proc, cgroups) == 0


def test_a_generous_limit_does_not_make_memory(proc: Path, cgroups: Path) -> None:
    (proc / "self/cgroup").write_text("0::/\n")
    limit(cgroups, str(64 * GIB), 0)

    assert available_ram_bytes(proc, cgroups) == 16 * GIB


@pytest.mark.parametrize("meminfo", ["", "MemTotal: 5 kB\n", "MemAvailable: lots kB\n", "MemAvailable:\n"])
def test_what_the_kernel_does_not_say_is_none(proc: Path, cgroups: Path, meminfo: str) -> None:
    (proc / "meminfo").write_text(meminfo)

    assert available_ram_bytes(proc, cgroups) is None


def test_no_proc_is_none(tmp_path: Path) -> None:
    assert available_ram_bytes(tmp_path, tmp_path) is None


def test_this_machine() -> None:
    available_bytes = available_ram_bytes()

    assert available_bytes is None or 0 <= available_bytes < 2**50
