"""The server under test: how it is set up, started, reloaded and ended."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench.gguf_writer import with_chat_template
from bench.servers import NOT_INHERITED, PROJECT, START_S
from bench.soak.plans import Key
from bench.tiny_models import write_bert

EMBEDDED_MODEL = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
BODY_MIB = 1
STOP_S = 60

TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\nYou may call these tools:\n<tools>\n"
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>\n"
    'Call one with <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n{% endif %}'
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

KEYS: Mapping[Key, str] = MappingProxyType(
    {
        Key.USE: "soak-use-0123456789abcdef",
        Key.ADMIN: "soak-admin-0123456789abcdef",
        Key.TURN: "soak-turn-0123456789abcdef",
        Key.WRONG: "soak-wrong-0123456789abcdef",
    }
)
"""Of a server that lives as long as the run; the last one is in none of its files."""


@dataclass(frozen=True)
class Reload:
    """A file for the server: its settings that change, and whether the key that comes and goes is known."""

    threshold_tokens: int
    log_level: str
    has_turn: bool
    wrong: bool = False


FIRST = Reload(2000, "info", has_turn=False)


@dataclass(frozen=True)
class Setup:
    """The files of the server in a folder of their own."""

    folder: Path

    @property
    def config_file(self) -> Path:
        """Its settings."""
        return self.folder / "config.toml"

    @property
    def log_file(self) -> Path:
        """What it says."""
        return self.folder / "log"

    def make(self) -> None:
        """Write models, keys and settings: a generator that knows tools, a helper, a model that embeds."""
        models = self.folder / "models"
        models.mkdir()
        with_chat_template(EMBEDDED_MODEL, self.folder / "tools.gguf", TOOLS_TEMPLATE)
        write_bert(models / "embedder.gguf")
        self.write(FIRST)

    def write(self, reload: Reload) -> None:
        """Write settings and keys anew, as an editor would: whole files in place of others."""
        _replace(self.folder / "keys.toml", keys_text(has_turn=reload.has_turn))
        _replace(self.config_file, config_text(self.folder, reload))


def config_text(folder: Path, reload: Reload) -> str:
    """TOML for the embedded model in both roles on the CPU.

    The caches of finished conversations and of shortened texts are small: full before the memory is compared,
    and together hardly larger than the growth that is allowed.
    """
    shared = 'device = "cpu"\ncontext = 8192\nhost_cache_mib = 16\n'
    threshold = '"many"' if reload.wrong else reload.threshold_tokens
    return (
        f'cache_dir = "{folder / "cache"}"\nmodels_dir = "{folder / "models"}"\nkeys_file = "keys.toml"\n'
        f'disk_cache_mib = 64\nkeep_alive = "-1"\nlog_level = "{reload.log_level}"\n'
        f"[limits]\nbody_mib = {BODY_MIB}\n"
        f'[generator]\nname = "smollm2:135m"\npath = "{folder / "tools.gguf"}"\nslots = 8\n{shared}'
        f'[helper]\nname = "smollm2:135m-helper"\npath = "{EMBEDDED_MODEL}"\nslots = 4\n{shared}'
        f"[router]\nhelper_timeout_s = 600.0\nstrategy_a_max = {threshold}\noriginals_mib = 1\n"
    )


def keys_text(*, has_turn: bool) -> str:
    """The file of the keys."""
    rights = {Key.USE: ["use"], Key.ADMIN: ["use", "admin"], **({Key.TURN: ["use"]} if has_turn else {})}
    return "".join(f'[{key}]\nkey = "{KEYS[key]}"\nrights = {held}\n' for key, held in rights.items())


def _replace(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(file)


@contextlib.contextmanager
def running_server(config_file: Path, log_file: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start the server on a free port of the loopback interface; its address and its process."""
    command = [sys.executable, "-m", "server", "serve", "--config", str(config_file), "--host", "127.0.0.1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", "0"], cwd=PROJECT, stdout=log, stderr=log, env=environment
        )
    try:
        yield _wait_for_address(process, log_file), process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def stop_fault(process: subprocess.Popen[bytes]) -> str | None:
    """Wait for a server that was told to stop; what is wrong with its end."""
    try:
        code = process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        return f"did not stop within {STOP_S} s"
    return f"ended with {code}" if code else None


def _wait_for_address(process: subprocess.Popen[bytes], log_file: Path) -> str:
    """The address that the server listens on, once it is ready."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        log = log_file.read_text(errors="replace")
        if (found := re.search(r"listening\s+(http://\S+)", log)) and "Try it:" in log:
            return found[1]
        time.sleep(0.05)
    sys.exit(f"the server did not start:\n{log_file.read_text(errors='replace')[-3000:]}")


def reload_now(process_id: int) -> None:
    """Tell the server to read its settings again."""
    os.kill(process_id, signal.SIGHUP)
