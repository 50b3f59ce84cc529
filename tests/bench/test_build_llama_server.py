"""The parts of building llama-server; the build itself takes ten minutes and is not run here."""

import io
import sys
import tarfile
from pathlib import Path

import pytest

from bench import build_llama_server as builder
from tests.running import PROJECT

LOCK = """\
numpy==2.4.6 \\
    --hash=sha256:aa
llama-cpp-python==0.3.36 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
    # via llm-optimizer
typer==1.0 \\
    --hash=sha256:dd
"""


def test_the_locked_version_comes_with_its_hashes_and_nothing_else() -> None:
    requirement = builder.locked_requirement(LOCK)

    assert requirement.startswith("llama-cpp-python==0.3.36")
    assert "sha256:bb" in requirement
    assert "sha256:cc" in requirement
    assert "sha256:aa" not in requirement
    assert "sha256:dd" not in requirement


def test_the_real_lock_file_names_it() -> None:
    requirement = builder.locked_requirement((PROJECT / "requirements" / "base.txt").read_text())

    assert "--hash=sha256:" in requirement


def test_a_lock_file_without_it_is_refused() -> None:
    with pytest.raises(builder.BuildFailed):
        builder.locked_requirement("numpy==2.4.6\n")


def test_another_version_or_flag_is_another_build() -> None:
    flags = builder.build_flags("x86_64")
    keys = {
        builder.key("a==1", flags),
        builder.key("a==2", flags),
        builder.key("a==1", flags[1:]),
        builder.key("a==1", builder.build_flags("aarch64")),
    }

    assert len(keys) == 4
    assert builder.key("a==1", flags) == builder.key("a==1", flags)


def test_instructions_are_named_where_the_cpu_has_such() -> None:
    assert "-DGGML_AVX2=ON" in builder.build_flags("x86_64")
    assert "-DGGML_NATIVE=OFF" in builder.build_flags("aarch64")
    assert not any("AVX" in flag for flag in builder.build_flags("aarch64"))


def test_what_is_built_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    requirement = builder.locked_requirement(builder.LOCK.read_text())
    flags = builder.build_flags(builder.platform.machine())
    folder = builder.cache_folder() / builder.key(requirement, flags)
    program = folder / "bin" / "llama-server"
    program.parent.mkdir(parents=True)
    program.touch()
    (folder / builder.DONE).touch()

    assert builder.built_llama_server() == program


def test_a_build_that_was_broken_off_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(builder, "LOCK", tmp_path / "lock.txt")
    builder.LOCK.write_text("llama-cpp-python==0 \\\n    --hash=sha256:" + 64 * "0" + "\n")
    monkeypatch.setattr(builder.sys, "executable", "/bin/false")

    with pytest.raises(builder.BuildFailed, match="ended with 1"):
        builder.built_llama_server()

    # The scratch folder with the sources is gone; the log stays.
    (folder,) = builder.cache_folder().iterdir()
    assert [item.name for item in folder.iterdir()] == ["build.log"]


def test_an_archive_is_unpacked_to_its_one_folder(tmp_path: Path) -> None:
    archive = _archive(tmp_path, "sources-1/CMakeLists.txt", "sources-1/vendor/llama.cpp/CMakeLists.txt")

    folder = builder.unpacked(archive, tmp_path)

    assert folder.name == "sources-1"
    assert (folder / builder.SOURCES / "CMakeLists.txt").read_text() == "content"


def test_an_archive_of_several_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(builder.BuildFailed, match="one folder"):
        builder.unpacked(_archive(tmp_path, "a/x", "b/y"), tmp_path)


def test_an_archive_cannot_write_outside(tmp_path: Path) -> None:
    with pytest.raises(tarfile.TarError):
        builder.unpacked(_archive(tmp_path, "../outside"), tmp_path)


def test_a_step_that_fails_names_the_log_with_its_output(tmp_path: Path) -> None:
    step = [sys.executable, "-c", "print('said'); raise SystemExit(3)"]

    with pytest.raises(builder.BuildFailed, match=r"ended with 3.*build\.log"):
        builder.run(step, tmp_path)

    assert (tmp_path / "build.log").read_text() == "said\n"


def _archive(folder: Path, *names: str) -> Path:
    file = folder / "sources.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(b"content")
            archive.addfile(member, io.BytesIO(b"content"))
    return file
