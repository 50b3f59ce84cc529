"""Whether a build with CUDA can work here: decisions by table, and the target with programs that pretend."""

import importlib
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.running import PROJECT


def load() -> ModuleType:
    """scripts/ is no package: its programs find each other as neighbours."""
    sys.path.append(str(PROJECT / "scripts"))
    return importlib.import_module("check_cuda")


check = load()

GTX, RTX = check.Card("GTX 1050", 61), check.Card("RTX 2060 SUPER", 75)
HOPPER = check.Card("H100", 90)
DRIVER = check.Driver("580.95.05", (13, 0), has_library=True, cards=(RTX, GTX))
CUDA_12 = check.Toolkit("/usr/local/cuda-12.8/bin/nvcc", (12, 8), frozenset({50, 61, 75, 86, 90, 120}))
CUDA_13 = check.Toolkit("/usr/bin/nvcc", (13, 0), frozenset({75, 86, 90, 120}))
OLD_NVCC = check.Toolkit("/usr/bin/nvcc", (11, 4), frozenset({61, 75, 86}))
GIB = 2**30


def facts(**changed: Any) -> Any:
    return check.Facts(**{"asked": None, "driver": DRIVER, "toolkits": (CUDA_12,), **changed})


def driver(**changed: Any) -> Any:
    known = {"version": "580.95.05", "cuda": (13, 0), "has_library": True, "cards": (RTX, GTX)}
    return check.Driver(**{**known, **changed})


@pytest.mark.parametrize(
    ("known", "architectures", "why"),
    [
        (facts(), "61;75", "the cards here: RTX 2060 SUPER (7.5), GTX 1050 (6.1)"),
        (facts(driver=driver(cards=(HOPPER, HOPPER))), "90", "the cards here"),
        (facts(driver=driver(cards=())), "61;75", "no card was found"),
        (facts(driver=driver(cards=(check.Card("GTX", None),))), "61;75", "does not tell what"),
        (facts(asked="native"), "61;75", "the cards here"),
        (facts(asked=" 75;86; "), "75;86", "as you asked"),
        (facts(asked="120a-real;90-virtual"), "120a-real;90-virtual", "as you asked"),
    ],
)
def test_what_is_built_for_and_why(known: Any, architectures: str, why: str) -> None:
    decision = check.decide(known)

    assert decision.architectures == architectures
    assert why in decision.why
    assert decision.problems == ()


@pytest.mark.parametrize("asked", ["6.1;7.5", "61,75", "61 75", "sm_61", "61;;75", "6", "native;61"])
def test_what_cmake_does_not_understand_is_told_with_an_example(asked: str) -> None:
    [problem] = check.decide(facts(asked=asked)).problems

    assert f'ARCHITECTURES="{asked}"' in problem.found
    assert 'make cuda ARCHITECTURES="75;61"' in problem.remedy


@pytest.mark.parametrize(
    ("known", "found", "remedy"),
    [
        (facts(toolkits=()), "there is no nvcc", "a CUDA 12 toolkit (https://"),
        (facts(toolkits=(), asked="75"), "there is no nvcc", "a CUDA toolkit (https://"),
        (facts(toolkits=(CUDA_13,)), "has no code for 61: CUDA 13 has dropped", 'ARCHITECTURES="75"'),
        (facts(toolkits=(CUDA_13,), asked="61"), "has no code for 61", "install a CUDA 12 toolkit"),
        (facts(toolkits=(CUDA_13,), asked="all"), "has no code for 61", "install a CUDA 12 toolkit"),
        (facts(toolkits=(OLD_NVCC,), asked="89"), "has no code for 89", "newer CUDA toolkit"),
        (facts(driver=driver(has_library=False)), "libcuda.so.1", "branch 580 or older"),
        (
            facts(driver=driver(version="590.1", cards=(RTX,)), asked="61;75"),
            "driver 590.1 has dropped Pascal and older, and 61 is wanted",
            'branch 580; or leave it out: make cuda ARCHITECTURES="75"',
        ),
        (
            facts(driver=driver(cuda=(12, 2)), toolkits=(CUDA_13,), asked="75"),
            "CUDA 13.0 (/usr/bin/nvcc) is too new for driver 580.95.05, which supports CUDA up to 12.2",
            "install a CUDA 12 toolkit",
        ),
        (
            facts(rooms=(check.Room("/build", GIB, 4 * GIB),)),
            "1.0 GiB are free in /build, about 4 are needed",
            "TMPDIR",
        ),
    ],
)
def test_what_lacks_is_told_with_the_remedy(known: Any, found: str, remedy: str) -> None:
    [problem] = check.decide(known).problems

    assert found in problem.found
    assert remedy in problem.remedy


def test_all_that_lacks_is_told_at_once() -> None:
    known = facts(driver=driver(has_library=False), toolkits=(), asked="6.1;75")
    assert len(check.decide(known).problems) == 3


def test_of_several_toolkits_the_first_is_taken_that_has_code_for_all() -> None:
    assert check.decide(facts(toolkits=(CUDA_13, CUDA_12))).toolkit == CUDA_12
    assert check.decide(facts(toolkits=(CUDA_13, CUDA_12), asked="75")).toolkit == CUDA_13


def test_an_nvcc_that_does_not_say_what_it_has_code_for_goes_by_its_version() -> None:
    assert check.Toolkit("nvcc", (12, 0)).lacks([61, 75]) == []
    assert check.Toolkit("nvcc", (13, 1)).lacks([61, 75]) == [61]
    assert check.Toolkit("nvcc", None).lacks([61, 75]) == []


def test_a_card_that_is_left_out_is_told_but_stops_nobody() -> None:
    decision = check.decide(facts(asked="75"))
    assert decision.problems == ()
    assert decision.notes == ("GTX 1050 (6.1) is left out: no model can run on it",)


UNSUPPORTED = (
    "In file included from cuda_runtime.h:82,\nhost_config.h:143:2: error: #error -- unsupported GNU "
    "version! gcc versions later than 13 are not supported! The nvcc flag can be used"
)


@pytest.mark.parametrize(
    ("output", "found", "remedy"),
    [
        (UNSUPPORTED, "unsupported GNU version", "CUDAHOSTCXX=g++-13 make cuda"),
        ("t.cu:1:10: fatal error: cublas_v2.h: No such file", "without cuBLAS", "cuBLAS"),
        ("error: exception specification is incompatible", "C library", "newest toolkit"),
        ("nvcc fatal: something else\nerror: it is broken", "error: it is broken", "whole"),
        ("", "it said nothing", "whole"),
    ],
)
def test_what_a_trial_says_has_a_remedy(output: str, found: str, remedy: str) -> None:
    [problem] = check.judge_trial(1, output, CUDA_12)

    assert found in problem.found
    assert remedy in problem.remedy


def test_a_trial_that_goes_well_finds_nothing() -> None:
    assert check.judge_trial(0, "warning: unsupported GNU version", CUDA_12) == []


def test_flags_of_the_user_stay_and_ours_are_renewed() -> None:
    given = "-DGGML_AVX2=OFF -DGGML_CUDA=OFF -DCMAKE_CUDA_ARCHITECTURES:STRING='61;75' '-DX=a b'"
    assert check.others(given) == ["-DGGML_AVX2=OFF", "-DX=a b"]


# From here on with programs that pretend to be NVIDIA's.

NVIDIA_SMI = """\
case "$1" in
    --query-gpu=driver_version,compute_cap,name)
        echo '580.95.05, 7.5, RTX 2060 SUPER'
        echo '580.95.05, 6.1, GTX 1050' ;;
    "") echo '| NVIDIA-SMI 580.95.05   Driver Version: 580.95.05   CUDA Version: 13.0 |' ;;
    *) exit 2 ;;
esac
"""
OLD_NVIDIA_SMI = """\
case "$1" in
    *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2 ;;
    --query*) echo '470.1, GTX 1050' ;;
    "") echo 'CUDA Version: 12.0' ;;
esac
"""
NVCC = """\
case "$1" in
    --version) echo 'Cuda compilation tools, release {version}, V{version}.93' ;;
    --list-gpu-arch) printf 'compute_%s\\n' {architectures} ;;
    *) echo "$@" >>"$0.asked"; {trial} ;;
esac
"""


class Pretended:
    """A folder of programs for PATH, and a stand-in for the driver's library."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        self._library = library
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "CMAKE_"))},
            "PATH": f"{folder}:{os.environ['PATH']}",
            "CUDACXX": str(folder / "nvcc"),
        }

    def program(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def nvcc(self, version: str, *architectures: int, trial: str = "exit 0") -> None:
        numbers = " ".join(map(str, architectures))
        self.program("nvcc", NVCC.format(version=version, architectures=numbers, trial=trial))

    def driver(self) -> None:
        self.environment["LD_LIBRARY_PATH"] = str(self._library)
        self.program("nvidia-smi", NVIDIA_SMI)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=PROJECT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def flags(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "scripts/check_cuda.py", *arguments)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The target, but for the installation itself: in its place the flags are shown."""
        return self.run("make", f"PYTHON={sys.executable}", "MAKE=printenv CMAKE_ARGS #", "cuda", *arguments)


@pytest.fixture
def pretended(tmp_path: Path, fake_cuda_folder: Path) -> Pretended:
    return Pretended(tmp_path, fake_cuda_folder)


def test_the_target_hands_on_what_is_to_be_built(pretended: Pretended) -> None:
    pretended.driver()
    pretended.nvcc("12.8", 50, 61, 75)

    made = pretended.make()

    assert made.returncode == 0, made.stderr
    assert "RTX 2060 SUPER (7.5), GTX 1050 (6.1); driver 580.95.05" in made.stderr
    assert "-DGGML_CUDA=ON '-DCMAKE_CUDA_ARCHITECTURES=61;75'" in made.stdout
    assert f"-DCMAKE_CUDA_COMPILER={pretended.folder}/nvcc" in made.stdout
    assert "-gencode=arch=compute_61,code=sm_61" in (pretended.folder / "nvcc.asked").read_text()


def test_the_target_builds_for_other_architectures_when_told_to(pretended: Pretended) -> None:
    pretended.driver()
    pretended.nvcc("12.8", 50, 61, 75)

    made = pretended.make("ARCHITECTURES=75;61-virtual")

    assert "'-DCMAKE_CUDA_ARCHITECTURES=75;61-virtual'" in made.stdout


def test_the_target_stops_before_the_build(pretended: Pretended) -> None:
    pretended.driver()
    pretended.nvcc("13.0", 75, 90)

    made = pretended.make()

    assert made.returncode != 0
    assert "GGML_CUDA" not in made.stdout
    assert "CUDA 13.0" in made.stderr
    assert "has no code for 61" in made.stderr
    assert not (pretended.folder / "nvcc.asked").exists()


def test_a_machine_without_anything_of_nvidia_is_told_what_to_install(pretended: Pretended) -> None:
    pretended.program("nvidia-smi", "exit 9")

    found = pretended.flags()

    assert found.returncode == 1
    assert "cards: none found; driver unknown" in found.stderr
    assert "builds for 61;75: no card was found" in found.stderr
    assert "there is no nvcc" in found.stderr
    assert found.stdout == ""


def test_the_trial_uses_the_compiler_that_the_user_names(pretended: Pretended) -> None:
    pretended.driver()
    pretended.nvcc(
        "12.8", 61, 75, trial=f"echo '{UNSUPPORTED.splitlines()[1].replace(chr(39), '')}' >&2; exit 1"
    )
    pretended.environment["CUDAHOSTCXX"] = "g++-14"

    found = pretended.flags()

    assert found.returncode == 1
    assert "CUDAHOSTCXX=g++-13 make cuda" in found.stderr
    assert "-ccbin g++-14" in (pretended.folder / "nvcc.asked").read_text()


def test_flags_of_an_earlier_build_are_kept(pretended: Pretended, tmp_path: Path) -> None:
    pretended.driver()
    pretended.nvcc("12.8", 61, 75)
    remembered = tmp_path / "cmake-args"
    remembered.write_text("-DGGML_FMA=OFF -DCMAKE_CUDA_ARCHITECTURES=90\n")

    found = pretended.flags("--remembered", str(remembered), "--architectures", "75")

    assert found.stdout.startswith("-DGGML_FMA=OFF -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=75 ")
    assert "90" not in found.stdout


def test_an_old_driver_that_does_not_tell_capabilities_still_names_its_cards(pretended: Pretended) -> None:
    pretended.driver()
    pretended.nvcc("12.8", 61, 75)
    pretended.program("nvidia-smi", OLD_NVIDIA_SMI)

    found = pretended.flags()

    assert found.returncode == 0, found.stderr
    assert "cards: GTX 1050; driver 470.1" in found.stderr
    assert "the driver does not tell what the cards are" in found.stderr
