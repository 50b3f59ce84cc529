"""systemd/install.sh and uninstall.sh, run against a folder in place of the system, with a systemctl that
remembers what is enabled and running."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from server.config import load_settings
from tests.running import PROJECT

SYSTEMCTL = r"""#!/bin/bash
state=$FAKE
echo "systemctl $*" >>"$state/calls"
now= ; [[ $* == *--now* ]] && now=yes
set -- "${@/--now/}"
case $1 in
    --version) echo "systemd ${SYSTEMD_VERSION:-252} (252.38)" ;;
    list-unit-files) for unit in $OLLAMAS; do echo "$unit enabled enabled"; done ;;
    is-enabled) [[ -e $state/enabled/$2 ]] && echo enabled || { echo disabled; exit 1; } ;;
    is-active) [[ -e $state/active/${@: -1} ]] ;;
    enable) for unit in "${@:2}"; do [[ $unit ]] || continue
        touch "$state/enabled/$unit"; [[ $now ]] && touch "$state/active/$unit"; done; true ;;
    disable) for unit in "${@:2}"; do [[ $unit ]] || continue
        rm -f "$state/enabled/$unit"; [[ $now ]] && rm -f "$state/active/$unit"; done; true ;;
    start | restart) touch "$state/active/$2" ;;
    stop) rm -f "$state/active/$2" ;;
    daemon-reload) ;;
    *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""
NOTED = '#!/bin/bash\necho "${0##*/} $*" >>"$FAKE/calls"\n'
ACCOUNTS = """#!/bin/bash
[[ $1 == group || -e $FAKE/account ]]
"""
MAKING = NOTED + 'mkdir -p "$2/.venv/bin" && touch "$2/.venv/bin/llm-optimizer"\n'
OLD_PROXY = "[Service]\nExecStart=/home/somebody/proxy.py\n"


class System:
    """A folder that looks like a system with two Ollamas and the old proxy."""

    def __init__(self, folder: Path) -> None:
        self.root, self.fake = folder / "root", folder / "fake"
        self.units = self.root / "etc/systemd/system"
        for path in (self.units, self.fake / "enabled", self.fake / "active", self.fake / "bin"):
            path.mkdir(parents=True)
        programs = {"systemctl": SYSTEMCTL, "getent": ACCOUNTS, "make": MAKING}
        programs |= {"useradd": NOTED + 'touch "$FAKE/account"\n', "userdel": NOTED + 'rm "$FAKE/account"\n'}
        programs |= {"usermod": NOTED, "chgrp": NOTED, "chown": NOTED}
        for name, text in programs.items():
            program = self.fake / "bin" / name
            program.write_text(text)
            program.chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "CMAKE_ARGS"},
            "PATH": f"{self.fake}/bin:{os.environ['PATH']}",
            "DESTDIR": str(self.root),
            "FAKE": str(self.fake),
            "OLLAMAS": "",
        }
        self.model = self.root / "var/lib/llm-optimizer/models/some.gguf"
        self.model.parent.mkdir(parents=True)
        self.model.touch()

    def with_predecessors(self) -> None:
        self.environment["OLLAMAS"] = "ollama.service ollama-helper.service ollama-idle.service"
        for name in ("ollama.service", "llm-optimizer.service"):
            (self.fake / "enabled" / name).touch()
        for name in ("ollama.service", "ollama-helper.service", "llm-optimizer.service"):
            (self.fake / "active" / name).touch()
        (self.units / "llm-optimizer.service").write_text(OLD_PROXY)
        (self.units / "llm-optimizer.service.d").mkdir()
        (self.units / "llm-optimizer.service.d" / "own.conf").write_text("[Service]\nNice=5\n")

    def run(self, script: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROJECT / "systemd" / script, *options],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def do(self, script: str, *options: str) -> str:
        done = self.run(script, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    def calls(self) -> list[str]:
        """What was done to the system since the last look; questions left out."""
        log = self.fake / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        asking = ("is-", "list-", "--version")
        return [line for line in lines if not line.removeprefix("systemctl ").startswith(asking)]

    def files(self) -> dict[str, bytes]:
        """Everything below the root, but for the copied program."""
        return {
            str(path.relative_to(self.root)): path.read_bytes() if path.is_file() else b""
            for path in sorted(self.root.rglob("*"))
            if not path.is_relative_to(self.root / "opt")
        }

    def states(self) -> tuple[set[str], set[str]]:
        """The enabled units, and the active ones."""
        enabled, active = (
            {path.name for path in (self.fake / kind).iterdir()} for kind in ("enabled", "active")
        )
        return enabled, active


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_everything_is_put_in_place_and_a_second_run_changes_nothing(system: System) -> None:
    system.do("install.sh")
    program = system.root / "opt/llm-optimizer"
    assert (program / "server/serve.py").is_file()
    assert (program / "models/catalogue.toml").is_file()
    assert not list((program / "models").glob("*.gguf"))
    settings = load_settings(system.root / "etc/llm-optimizer.toml", {}, {})
    assert settings.models_dir == Path("/var/lib/llm-optimizer/models")
    assert settings.cache_dir == Path("/var/cache/llm-optimizer")
    assert (system.root / "etc/llm-optimizer.toml").stat().st_mode & 0o777 == 0o640
    calls = system.calls()
    assert f"make -C {program} install" in calls
    assert any(call.startswith("useradd --system ") and call.endswith(" llm-optimizer") for call in calls)
    assert calls[-3:] == [
        "systemctl daemon-reload",
        "systemctl enable llm-optimizer.service",
        "systemctl restart llm-optimizer.service",
    ]
    before = system.files()
    system.do("install.sh")
    assert system.files() == before
    assert not [call for call in system.calls() if call.startswith("useradd")]


def test_without_models_what_serves_goes_on(system: System) -> None:
    system.with_predecessors()
    states = system.states()
    system.model.unlink()
    said = system.do("install.sh", "--replace-ollama")
    assert "There are no models yet" in said
    assert "llm-optimizer pull --config" in said
    assert system.states() == states
    assert (system.units / "llm-optimizer.service").read_text() == OLD_PROXY
    system.model.touch()
    system.do("install.sh", "--replace-ollama")
    assert system.states() == ({"llm-optimizer.service"}, {"llm-optimizer.service"})


def test_own_settings_stay(system: System) -> None:
    config = system.root / "etc/llm-optimizer.toml"
    config.write_text('log_level = "debug"\n')
    system.do("install.sh")
    assert tomllib.loads(config.read_text()) == {"log_level": "debug"}


def test_another_prefix_is_in_the_unit(system: System) -> None:
    system.do("install.sh", "--prefix", "/srv/llm", "--no-build")
    text = (system.units / "llm-optimizer.service").read_text()
    assert "ExecStart=/srv/llm/.venv/bin/llm-optimizer serve --config /etc/llm-optimizer.toml" in text
    assert (system.root / "srv/llm/server").is_dir()
    assert not [call for call in system.calls() if call.startswith("make")]
    system.do("uninstall.sh", "--purge")
    assert not (system.root / "etc/llm-optimizer.toml").exists()


@pytest.mark.parametrize("folder", ["/home/somebody/llm", "relative"])
def test_a_place_that_cannot_be_is_refused(system: System, folder: str) -> None:
    before = system.files()
    done = system.run("install.sh", "--prefix", folder)
    assert done.returncode == 1
    assert f"--prefix {folder}" in done.stderr or f"is {folder}" in done.stderr
    assert system.files() == before


def test_flags_of_the_build_are_handed_on(system: System) -> None:
    system.environment["CMAKE_ARGS"] = "-DGGML_CUDA=ON"
    (system.fake / "bin/make").write_text(MAKING + 'echo "flags $CMAKE_ARGS" >>"$FAKE/calls"\n')
    system.do("install.sh")
    assert "flags -DGGML_CUDA=ON" in system.calls()


def test_the_socket_gets_the_address_before_the_service(system: System) -> None:
    (system.fake / "active/llm-optimizer.service").touch()
    system.do("install.sh", "--socket")
    assert [call.removeprefix("systemctl ") for call in system.calls() if call.startswith("systemctl")] == [
        "daemon-reload",
        "enable llm-optimizer.service",
        "stop llm-optimizer.service",
        "enable --now llm-optimizer.socket",
        "restart llm-optimizer.service",
    ]


@pytest.mark.parametrize(("version", "there"), [("252", False), ("254.1-2", True), ("257~rc1", True)])
def test_growing_pauses_where_systemd_knows_them(system: System, version: str, there: bool) -> None:
    system.environment["SYSTEMD_VERSION"] = version
    system.do("install.sh")
    assert (system.units / "llm-optimizer.service.d/10-backoff.conf").exists() is there
    system.do("uninstall.sh")
    assert not (system.units / "llm-optimizer.service.d").exists()


def test_only_files(system: System) -> None:
    system.do("install.sh", "--files-only", "--no-build")
    assert system.calls() == []
    assert (system.units / "llm-optimizer.service").is_file()


def test_predecessors_are_told_of_and_left_alone_unless_asked(system: System) -> None:
    system.with_predecessors()
    before, states = system.files(), system.states()
    done = system.run("install.sh")
    assert done.returncode == 1
    assert "systemctl disable --now ollama.service ollama-helper.service" in done.stdout
    assert "--replace-ollama" in done.stderr
    assert (system.files(), system.states(), system.calls()) == (before, states, [])


def test_predecessors_are_put_aside_and_come_back(system: System) -> None:
    system.with_predecessors()
    before, states = system.files(), system.states()
    system.do("install.sh", "--replace-ollama")
    assert system.states() == ({"llm-optimizer.service"}, {"llm-optimizer.service"})
    assert "llm-optimizer/.venv" in (system.units / "llm-optimizer.service").read_text()
    # Once more: what is remembered must not become what the first run has made of it.
    system.do("install.sh", "--replace-ollama", "--socket")
    system.do("uninstall.sh")
    assert system.states() == states
    left = {"etc/llm-optimizer.toml"}
    assert {name: data for name, data in system.files().items() if name not in left} == before
    system.calls()
    system.do("uninstall.sh")
    assert system.states() == states


def test_own_changes_of_the_unit_do_not_reach_the_former_one(system: System) -> None:
    system.with_predecessors()
    system.do("install.sh", "--replace-ollama")
    folder = system.units / "llm-optimizer.service.d"
    folder.mkdir()
    (folder / "override.conf").write_text("[Service]\nWatchdogSec=300\n")
    assert "service.d.saved" in system.do("uninstall.sh")
    assert [path.name for path in folder.iterdir()] == ["own.conf"]
    assert (system.units / "llm-optimizer.service.d.saved/override.conf").is_file()


@pytest.mark.parametrize(
    ("script", "options"),
    [("install.sh", ["--replace-ollama", "--socket"]), ("uninstall.sh", ["--purge"])],
)
def test_a_dry_run_changes_nothing(system: System, script: str, options: list[str]) -> None:
    system.with_predecessors()
    if script == "uninstall.sh":
        system.do("install.sh", "--replace-ollama")
    before, states = system.files(), system.states()
    system.calls()
    said = system.do(script, *options, "--dry-run")
    assert "would run: systemctl disable --now" in said
    assert (system.files(), system.states(), system.calls()) == (before, states, [])


def test_a_purge_leaves_nothing(system: System) -> None:
    system.do("install.sh")
    system.do("uninstall.sh", "--purge")
    files = {name for name in system.files() if "llm" in name}
    assert files == set()
    assert not (system.root / "opt/llm-optimizer").exists()
    assert "userdel llm-optimizer" in system.calls()


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_help_and_unknown_options(system: System, script: str) -> None:
    before = system.files()
    assert system.do(script, "--help").startswith(f"Usage: systemd/{script}")
    done = system.run(script, "--frobnicate")
    assert done.returncode == 1
    assert "there is no option --frobnicate" in done.stderr
    assert system.files() == before
