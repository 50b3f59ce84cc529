"""The real Cline CLI without its screen, and a go-between that writes down what it asks a server."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

PACKAGE = "cline@3.0.65"

TEAM_TOOLS = (
    *("spawn_agent", "team_spawn_teammate", "team_shutdown_teammate", "team_status", "team_task"),
    *("team_run_task", "team_cancel_run", "team_list_runs", "team_await_runs", "team_send_message"),
    *("team_broadcast", "team_read_mailbox", "team_mission_log", "team_cleanup", "team_create_outcome"),
    *("team_attach_outcome_fragment", "team_review_outcome_fragment", "team_finalize_outcome"),
    "team_list_outcomes",
)
"""Switched off: half of what each request brings are these, and a small model has no use for them."""

ASKED_WINDOW_TOKENS = 32768
"""What Cline asks for by itself. It knows nothing of the server's window."""

SILENCE_S = 60.0
"""The server says something every few seconds."""


@dataclass(frozen=True)
class Ended:
    """How a run of Cline came to its end: its exit status, the reason that it gave, and all that it told."""

    status: int
    reason: str
    told: str


@dataclass(frozen=True)
class Exchange:
    """A chat as Cline asked for it, and the status and the last object that it got."""

    body: dict[str, Any]
    status: int
    last: dict[str, Any]


@dataclass
class GoBetween:
    """Listens at ``url`` and hands everything on to ``server``, with ``headers`` on top."""

    server: str
    headers: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    chats: list[Exchange] = field(default_factory=list)


@contextmanager
def listening(server: str, **headers: str) -> Iterator[GoBetween]:
    """A go-between for as long as the block lasts."""
    between = GoBetween(server, headers)

    class Handler(_Handler):
        passes_to = between

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        between.url = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield between
        finally:
            listener.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers in HTTP/1.0: the end of the connection is the end of the answer."""

    passes_to: GoBetween

    def do_GET(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, answer = self._pass_on(body)
        if self.path == "/api/chat":
            last = json.loads(answer.splitlines()[-1])
            self.passes_to.chats.append(Exchange(json.loads(body), status, last))

    def log_message(self, *_: Any) -> None:
        pass

    def _pass_on(self, body: bytes) -> tuple[int, bytes]:
        answer = b""
        target = self.passes_to.server + self.path
        headers = {"Content-Type": "application/json", **self.passes_to.headers}
        with (
            httpx.Client(timeout=SILENCE_S, trust_env=False) as client,
            client.stream(self.command, target, content=body, headers=headers) as response,
        ):
            self.send_response(response.status_code)
            self.send_header("Content-Type", response.headers["Content-Type"])
            self.end_headers()
            for piece in response.iter_bytes():
                self.wfile.write(piece)
                answer += piece
        return response.status_code, answer


@dataclass(frozen=True)
class Errand:
    """A task for Cline. All that it keeps goes into ``folder``, whose Python modules it finds everywhere."""

    cline: Path
    url: str
    model: str
    task: str
    folder: Path
    limit_s: int

    def run(self) -> Ended:
        """Let Cline do it, in an empty project."""
        project, data = self.folder / "project", self.folder / "data"
        project.mkdir()
        _write_settings(data / "settings", self.url, self.model)
        command = [
            *("timeout", "--kill-after=5", str(self.limit_s), str(self.cline)),
            *("--data-dir", str(data), "--cwd", str(project), "--json", "--auto-approve", "true", self.task),
        ]
        done = self._run(command, HOME=str(self.folder), CLINE_NO_AUTO_UPDATE="1")
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        result: dict[str, Any] = next((line for line in lines if line.get("type") == "run_result"), {})
        told = result.get("text", done.stdout[-2000:] + done.stderr)
        return Ended(done.returncode, result.get("finishReason", ""), told)

    def run_by(self, judge: Path) -> Ended:
        """Leave it to a program that runs Cline in a project of its own, and judges it by its exit status."""
        done = self._run(
            [str(judge), self.url, self.model, str(self.limit_s)],
            CLINE_BIN=str(self.cline),
            PROMPT=self.task,
            SLIM="1",
            NUM_CTX=str(ASKED_WINDOW_TOKENS),
        )
        reason = re.search(r"finish reason\s+(\w+)", done.stdout)
        return Ended(done.returncode, reason[1] if reason else "", done.stdout + done.stderr)

    def _run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        given = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**given, "PYTHONPATH": str(self.folder), **environment},
        )


def _write_settings(folder: Path, url: str, model: str) -> None:
    """What Cline's own settings page would write."""
    folder.mkdir(parents=True)
    ollama = {
        "settings": {
            "provider": "ollama",
            "model": model,
            "baseUrl": url,
            "contextWindow": ASKED_WINDOW_TOKENS,
            "timeout": 300_000,
        },
        "updatedAt": "2026-01-01T00:00:00.000Z",
        "tokenSource": "manual",
    }
    providers = {"version": 1, "lastUsedProvider": "ollama", "modes": {}, "providers": {"ollama": ollama}}
    (folder / "providers.json").write_text(json.dumps(providers))
    everywhere = {"telemetryOptOut": True, "autoUpdateEnabled": False, "disabledTools": TEAM_TOOLS}
    (folder / "global-settings.json").write_text(json.dumps(everywhere))
