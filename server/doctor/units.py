"""What systemd says: the service's own unit, and Ollama's, which would hold the cards' memory."""

import contextlib
import shutil
import subprocess
from dataclasses import dataclass

from server.doctor.check import Check, fault, ok, warning

UNIT = "llm-optimizer.service"

_TIMEOUT_S = 10
_PROPERTIES = ("LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts")


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit in systemd's own words, as ``systemctl show`` has them; empty where it has none."""

    load: str = ""
    active: str = ""
    sub: str = ""
    file: str = ""
    result: str = ""
    restarts: int = 0


def look_at_unit(name: str = UNIT) -> Unit | None:
    """The state of a unit; None where no systemd runs."""
    answer = _systemctl("show", name, f"--property={','.join(_PROPERTIES)}")
    return None if answer is None else parse_unit(answer)


def active_ollama_units() -> tuple[str, ...]:
    """Names of Ollama's units that are active; some machines have one for each card."""
    answer = _systemctl("list-units", "*ollama*.service", "--state=active", "--plain", "--no-legend")
    return tuple(line.split()[0] for line in (answer or "").splitlines() if line.strip())


def parse_unit(answer: str) -> Unit:
    """Read what ``systemctl show`` prints."""
    values = dict(line.partition("=")[::2] for line in answer.splitlines())
    restarts = values.get("NRestarts", "")
    return Unit(
        values.get("LoadState", ""),
        values.get("ActiveState", ""),
        values.get("SubState", ""),
        values.get("UnitFileState", ""),
        values.get("Result", ""),
        int(restarts) if restarts.isdecimal() else 0,
    )


def judge_unit(unit: Unit | None) -> Check:
    """Whether systemd starts the service, and it stays up. No systemd, or no unit, is fine."""
    if unit is None:
        return ok("unit", "no systemd runs here")
    if unit.load in ("not-found", ""):
        return ok("unit", f"{UNIT} is not installed; systemd/install.sh does that")
    return _judge_installed(unit)


def judge_ollama(units: tuple[str, ...]) -> Check:
    """Whether an Ollama may hold what the models need."""
    if not units:
        return ok("ollama", "no unit of it is active")
    names = " ".join(units)
    return warning(
        "ollama",
        f"active: {names}; the models that it loads take the memory that the plan counts on",
        f"systemctl disable --now {names}",
    )


def _judge_installed(unit: Unit) -> Check:
    found = f"{UNIT}: {unit.active} ({unit.sub}), {unit.file or 'static'}"
    if unit.load != "loaded":
        return fault("unit", f"{found}, {unit.load}", f"systemctl status {UNIT} tells why; unmask or mend it")
    if unit.active == "failed" or unit.sub == "auto-restart":
        return fault("unit", f"{found}, result {unit.result}", f"journalctl -u {UNIT} -e tells why")
    if unit.active in ("inactive", "deactivating"):
        return warning("unit", found, f"systemctl enable --now {UNIT}")
    if unit.restarts:
        return warning("unit", f"{found}, restarted {unit.restarts} times", f"journalctl -u {UNIT} tells why")
    if unit.file == "disabled":
        return warning("unit", f"{found}: it does not start with the machine", f"systemctl enable {UNIT}")
    return ok("unit", found)


def _systemctl(*arguments: str) -> str | None:
    program = shutil.which("systemctl")
    if program is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(  # noqa: S603
            [program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        # Where systemd is installed but does not run, as in a container, it fails.
        return done.stdout if done.returncode == 0 else None
    return None
