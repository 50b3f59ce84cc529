"""Keep a real server busy for a while, and find out whether it stays right, alive and as large as it was.

Clients of all manners ask at once: short and long prompts, chats and raw prompts, streams and single answers,
with shared beginnings, with a form; some hang up. Models are unloaded and loaded meanwhile. Each answer is
checked. Exit codes: 0 all is well, 1 something is not (the summary says what), 2 wrong usage.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

PROJECT = Path(__file__).resolve().parent.parent
EMBEDDED_MODEL = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
START_S = 120
IDLE_S = 120
UNLOAD_S = 120
LOOK_S = 0.2
ANSWER_S = 600
SAMPLE_S = 2.0
SHOWN_ERRORS = 20
LONGEST_PROMPT_TOKENS = 3000
MOST_TOKENS = 128
WARM_UP_PART = 0.25
MIB = 2**20

MOST_GROWTH_BYTES = 32 * MIB
"""A limit in bytes, not in per cent: what leaks does not grow with the model, and five per cent of a server
with large caches would hide it."""

FIGURES = (
    *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"),
    *("eval_count", "eval_duration"),
)
FORM = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}
TEXT = (
    "the river runs past a small town where people read old books and ask what time will bring them "
    "when rain and wind come from the north over green hills near some quiet road"
)
WORDS = TEXT.split()

STREAMED, FORMED, RAW, SHARED = 0.7, 0.1, 0.4, 0.5
"""The parts of all requests that are streams, want a form, are no chats, and share their beginning."""


def config(model: Path, cache_dir: Path) -> str:
    """TOML for ``model`` in both roles on the CPU.

    The caches of finished conversations are small: full before the memory is compared, and together no
    larger than the growth that is allowed.
    """
    shared = f'path = "{model}"\ndevice = "cpu"\ncontext = 8192\nhost_cache_mib = 16\n'
    return (
        f'cache_dir = "{cache_dir}"\ndisk_cache_mib = 64\n'
        f'[generator]\nname = "smollm2:135m"\nslots = 8\n{shared}'
        f'[helper]\nname = "smollm2:135m-helper"\nslots = 4\n{shared}'
        "[router]\nhelper_timeout_s = 600.0\n"
    )


@dataclass(frozen=True)
class Plan:
    """One request, and when its client hangs up: after some seconds, after some lines, or not at all."""

    path: str
    body: dict[str, Any]
    manner: str = "answered"
    hang_up_after_s: float | None = None
    hang_up_after_lines: int | None = None


@dataclass(frozen=True)
class Answer:
    """What came back; ``complete`` is False where the client hung up."""

    status: int
    lines: Sequence[str]
    complete: bool = True


@dataclass
class Findings:
    """What the run has seen so far."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    first_token_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the start, and bytes that the server has taken; see :func:`memory_bytes`."""
    resident: list[tuple[float, int]] = field(default_factory=list)
    """The same for the part that it has touched."""
    most: collections.Counter[str] = field(default_factory=collections.Counter)
    """The highest value of each of the engines' figures."""

    def fail(self, error: str) -> None:
        """Note an error."""
        self.outcomes["failed"] += 1
        self.errors[error[:300]] += 1


@dataclass(frozen=True)
class Memory:
    """How the server's memory developed after the warm-up."""

    first_bytes: int
    last_bytes: int
    slope_bytes_per_hour: float

    @property
    def grew(self) -> bool:
        """Whether it grew by more than is allowed."""
        return self.last_bytes - self.first_bytes > MOST_GROWTH_BYTES


def draw_plan(dice: random.Random, model: str) -> Plan:
    """A random request for ``model``."""
    words = prompt_words(dice)
    body: dict[str, Any] = {
        "model": model,
        "stream": dice.random() < STREAMED,
        "options": {"num_predict": dice.randint(1, MOST_TOKENS), "temperature": dice.choice([0, 0.8])},
    }
    if dice.random() < FORMED:
        body["format"] = FORM
    if dice.random() < RAW:
        return hanging_up(dice, "/api/generate", {**body, "prompt": " ".join(words), "raw": True})
    return hanging_up(dice, "/api/chat", {**body, "messages": conversation(dice, words)})


def prompt_words(dice: random.Random) -> list[str]:
    """About 1 to 3000 tokens, mostly few; half of them begin like one of four texts."""
    count = round(LONGEST_PROMPT_TOKENS ** dice.random())
    if dice.random() >= SHARED:
        return dice.choices(WORDS, k=count)
    shared = random.Random(dice.randrange(4)).choices(WORDS, k=count)  # noqa: S311
    return [*shared[: max(count - 5, 0)], *dice.choices(WORDS, k=min(count, 5))]


def conversation(dice: random.Random, words: list[str]) -> list[dict[str, str]]:
    """``words`` as a single message, or dealt out to some turns behind a system message."""
    turns = dice.choice([1, 1, 3, 5])
    size = len(words) // turns + 1
    roles = ["user", "assistant"] * turns
    parts = [words[start : start + size] for start in range(0, len(words), size)]
    messages = [{"role": role, "content": " ".join(part)} for role, part in zip(roles, parts, strict=False)]
    asked = [] if messages[-1]["role"] == "user" else [{"role": "user", "content": "And then?"}]
    return [{"role": "system", "content": "Answer briefly."}, *messages, *asked]


def hanging_up(dice: random.Random, path: str, body: dict[str, Any]) -> Plan:
    """The request with a client that may lose its patience."""
    manner = dice.choices(["answered", "before", "reading", "midway"], [70, 8, 12, 10])[0]
    if manner == "before":
        return Plan(path, body, "hung up at once", hang_up_after_s=dice.uniform(0, 0.1))
    if manner == "reading":
        return Plan(path, body, "hung up while the prompt was read", hang_up_after_s=dice.uniform(0.1, 3))
    if manner == "midway" and body["stream"]:
        return Plan(path, body, "hung up in mid-stream", hang_up_after_lines=dice.randint(1, 20))
    return Plan(path, body)


def faults_of(plan: Plan, answer: Answer) -> list[str]:
    """What is wrong with an answer; nothing, one hopes."""
    if answer.status != httpx.codes.OK:
        return [f"status {answer.status}: {' '.join(answer.lines)[:200]}"]
    try:
        chunks = [json.loads(line) for line in answer.lines]
    except ValueError:
        return ["a line is no JSON"]
    if not all(isinstance(chunk, dict) for chunk in chunks):
        return ["a line is no JSON object"]
    faults = [f"error in the answer: {chunk['error']}" for chunk in chunks if "error" in chunk]
    faults += ["of another model"] * any(chunk.get("model") != plan.body["model"] for chunk in chunks)
    if faults or not answer.complete:
        return faults
    return ending_faults(plan, chunks)


def ending_faults(plan: Plan, chunks: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with the end of a complete answer."""
    done = [chunk.get("done") for chunk in chunks]
    if done != [False] * (len(done) - 1) + [True]:
        return ["the answer does not end with the one object that is done"]
    if not plan.body["stream"] and len(chunks) > 1:
        return ["more than one object without a stream"]
    last = chunks[-1]
    faults = [f"no {name} at the end" for name in FIGURES if type(last.get(name)) is not int]
    if last.get("done_reason") not in {"stop", "length"}:
        faults.append(f"done_reason {last.get('done_reason')}")
    if not faults and not 0 < last["eval_count"] <= plan.body["options"]["num_predict"]:
        faults.append(f"{last['eval_count']} tokens of {plan.body['options']['num_predict']}")
    return faults


def memory_of(samples: Sequence[tuple[float, int]], warm_up_s: float) -> Memory | None:
    """The medians of the first and the last fifth after the warm-up; None for too few samples."""
    later = [(at_s, held_bytes) for at_s, held_bytes in samples if at_s >= warm_up_s]
    fifth = len(later) // 5
    if fifth == 0:
        return None
    sizes = [held_bytes for _, held_bytes in later]
    slope = statistics.linear_regression([at_s for at_s, _ in later], sizes).slope
    return Memory(int(statistics.median(sizes[:fifth])), int(statistics.median(sizes[-fifth:])), slope * 3600)


def course(samples: Sequence[tuple[float, int]]) -> str:
    """The memory at about twenty moments, which tells a plateau from a leak."""
    every = max(len(samples) // 20, 1)
    return " ".join(f"{held_bytes / MIB:.0f}" for _, held_bytes in samples[::every])


def summary(findings: Findings, memory: Memory | None) -> str:
    """The report of the run."""
    lines = [f"{count:8}  {outcome}" for outcome, count in sorted(findings.outcomes.items())]
    lines.append(f"{findings.prompt_tokens:8}  tokens of prompts, {findings.generated_tokens} generated")
    if first := findings.first_token_s:
        lines.append(f"first token: median {statistics.median(first):.2f} s, longest {max(first):.2f} s")
    lines += [f"most {name}: {value}" for name, value in sorted(findings.most.items())]
    if memory:
        lines.append(
            f"memory: {memory.first_bytes / MIB:.1f} MiB after warm-up, "
            f"{memory.last_bytes / MIB:.1f} MiB at the end (allowed: {MOST_GROWTH_BYTES // MIB} MiB more), "
            f"slope {memory.slope_bytes_per_hour / MIB:+.1f} MiB per hour"
        )
        lines.append(f"its course in MiB: {course(findings.memory)}")
        lines.append(f"resident of it:    {course(findings.resident)}")
    lines += [f"error, {count} times: {text}" for text, count in findings.errors.most_common(SHOWN_ERRORS)]
    return "\n".join(lines)


class Soak:
    """The clients, and those who watch the server meanwhile."""

    def __init__(self, url: str, process_id: int | None, seed: int) -> None:
        self.findings = Findings()
        self._client = httpx.AsyncClient(
            base_url=url, timeout=ANSWER_S, limits=httpx.Limits(max_connections=None)
        )
        self._process_id = process_id
        self._seed = seed
        self._start_s = time.monotonic()
        self._models: list[str] = []
        self._open: collections.defaultdict[str, asyncio.Event] = collections.defaultdict(asyncio.Event)

    async def run(self, clients: int, duration_s: float) -> None:
        """Keep asking for ``duration_s``, and wait for the answers that are still due."""
        async with self._client:
            tags = (await self._client.get("/api/tags")).raise_for_status().json()
            self._models = [model["name"] for model in tags["models"]]
            for model in self._models:
                self._open[model].set()
            watcher = asyncio.create_task(self._watch())
            until_s = time.monotonic() + duration_s
            talks = [self._talk(number, until_s) for number in range(clients)]
            await asyncio.gather(self._unload_now_and_then(until_s), *talks)
            await self._expect_idle()
            watcher.cancel()

    async def _talk(self, number: int, until_s: float) -> None:
        dice = random.Random(f"{self._seed}/{number}")  # noqa: S311
        while time.monotonic() < until_s:
            # The helper is a model like any other to those who name it.
            plan = draw_plan(dice, dice.choices(self._models, [3, *[1] * (len(self._models) - 1)])[0])
            await self._open[plan.body["model"]].wait()
            try:
                await self._ask(plan)
            except httpx.HTTPError as error:
                self.findings.fail(f"{type(error).__name__}: {error}")
                await asyncio.sleep(1)

    async def _ask(self, plan: Plan) -> None:
        lines: list[str] = []
        status, complete, heard = 0, False, False
        asked_s = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(plan.hang_up_after_s),
                self._client.stream("POST", plan.path, json=plan.body) as response,
            ):
                status = response.status_code
                async for line in lines_of(response):
                    lines.append(line)
                    if plan.body["stream"] and not heard and says_something(line):
                        heard = True
                        self.findings.first_token_s.append(time.monotonic() - asked_s)
                    if len(lines) == plan.hang_up_after_lines:
                        break
                else:
                    complete = True
        self._note(plan, Answer(status, lines, complete))

    def _note(self, plan: Plan, answer: Answer) -> None:
        faults = faults_of(plan, answer) if answer.status else []
        for fault in faults:
            self.findings.fail(fault)
        if answer.complete and not faults:
            last = json.loads(answer.lines[-1])
            self.findings.prompt_tokens += last["prompt_eval_count"]
            self.findings.generated_tokens += last["eval_count"]
        if not faults:
            self.findings.outcomes["answered" if answer.complete else plan.manner] += 1

    async def _unload_now_and_then(self, until_s: float) -> None:
        dice = random.Random(self._seed)  # noqa: S311
        while time.monotonic() < until_s:
            model = dice.choice(self._models)
            # Models in use stay loaded: whoever wants to ask this one has to wait until it is gone.
            self._open[model].clear()
            try:
                await self._unload(model)
            except httpx.HTTPError as error:
                self.findings.fail(f"unloading: {type(error).__name__}: {error}")
            self._open[model].set()
            await asyncio.sleep(dice.uniform(10, 40))

    async def _unload(self, model: str) -> None:
        body = {"model": model, "keep_alive": 0, "stream": False}
        response = await self._client.post("/api/generate", json=body)
        if response.status_code != httpx.codes.OK or response.json().get("done_reason") != "unload":
            self.findings.fail(f"unloading: status {response.status_code}: {response.text[:200]}")
        for _ in range(round(UNLOAD_S / LOOK_S)):
            if model not in {other["name"] for other in await self._resident()}:
                self.findings.outcomes["unloaded"] += 1
                return
            await asyncio.sleep(LOOK_S)
        self.findings.outcomes["still in use, and so not unloaded"] += 1

    async def _watch(self) -> None:
        while True:
            # A server that is gone is noted by all clients.
            with contextlib.suppress(httpx.HTTPError, OSError):
                resident = await self._resident()
                for name, value in engine_figures(resident).items():
                    self.findings.most[name] = max(self.findings.most[name], value)
                # Without one of the models it is small for a while, which says nothing.
                if self._process_id is not None and len(resident) == len(self._models):
                    at_s = time.monotonic() - self._start_s
                    taken, touched = memory_bytes(self._process_id)
                    self.findings.memory.append((at_s, taken))
                    self.findings.resident.append((at_s, touched))
            await asyncio.sleep(SAMPLE_S)

    async def _resident(self) -> list[dict[str, Any]]:
        models = (await self._client.get("/api/ps")).raise_for_status().json()["models"]
        return [model for model in models if model.get("state") != "loading"]

    async def _expect_idle(self) -> None:
        busy: dict[str, int] = {}
        try:
            for _ in range(round(IDLE_S / LOOK_S)):
                busy = await self._busy()
                if not busy:
                    return
                await asyncio.sleep(LOOK_S)
            self.findings.fail(f"not idle at the end: {busy}")
        except httpx.HTTPError as error:
            self.findings.fail(f"gone at the end: {type(error).__name__}: {error}")

    async def _busy(self) -> dict[str, int]:
        figures = engine_figures(await self._resident())
        # Cells hold finished conversations, too: that they are in use is no sign of work.
        return {name: value for name, value in figures.items() if value and not name.startswith("cells")}


def engine_figures(resident: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What ``/api/ps`` says about the work of each engine."""
    return {
        f"{name} of {model['name']}": value
        for model in resident
        for name, value in {**model, **model.get("slots", {})}.items()
        if name in {"running", "queued", "cells_in_use"}
    }


async def lines_of(response: httpx.Response) -> AsyncIterator[str]:
    """The lines of an answer; httpx would end lines at signs that JSON may hold, too."""
    rest = b""
    async for data in response.aiter_bytes():
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.decode()
    if rest:
        yield rest.decode()


def says_something(line: str) -> bool:
    """Whether a chunk holds text, or ends the answer; empty ones only keep the connection alive."""
    with contextlib.suppress(ValueError, AttributeError):
        chunk = json.loads(line)
        return bool(chunk.get("response") or chunk.get("message", {}).get("content") or chunk.get("done"))
    return False


def memory_bytes(process_id: int) -> tuple[int, int]:
    """Memory that a process has taken from the system for itself, and the part of it that it has touched.

    The first says whether something leaks. The second also grows where nothing does: the buffers for the
    largest batch are touched bit by bit, over hours, and anew after each load.
    """
    status = Path(f"/proc/{process_id}/status").read_text()
    taken, touched = (re.search(rf"{name}:\s+(\d+) kB", status) for name in ("VmData", "RssAnon"))
    return int(taken[1]) * 1024 if taken else 0, int(touched[1]) * 1024 if touched else 0


@contextlib.contextmanager
def running_server(config_file: Path, log_file: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start the server on a free port of the loopback interface; its address and its process."""
    command = [sys.executable, "-m", "server", "serve", "--config", str(config_file), "--host", "127.0.0.1"]
    with log_file.open("wb") as log:
        process = subprocess.Popen([*command, "--port", "0"], cwd=PROJECT, stdout=log, stderr=log)  # noqa: S603
    try:
        yield wait_for_address(process, log_file), process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for_address(process: subprocess.Popen[bytes], log_file: Path) -> str:
    """The address that the server listens on, once it is ready."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        log = log_file.read_text(errors="replace")
        if (found := re.search(r"listening\s+(http://\S+)", log)) and "Try it:" in log:
            return found[1]
        time.sleep(0.05)
    sys.exit(f"the server did not start:\n{log_file.read_text(errors='replace')[-3000:]}")


def soak_own_server(arguments: argparse.Namespace) -> Findings:
    """Start a server, keep it busy, and stop it as a user does."""
    with tempfile.TemporaryDirectory() as folder:
        config_file, log_file = arguments.config, Path(folder) / "log"
        if config_file is None:
            config_file = Path(folder) / "config.toml"
            config_file.write_text(config(EMBEDDED_MODEL, Path(folder) / "cache"))
        with running_server(config_file, log_file) as (url, process):
            findings = soak(url, process.pid, arguments)
            ended = process.poll()
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                findings.fail("did not stop within a minute")
            else:
                if code or ended is not None:
                    findings.fail(f"ended with {code}:\n{log_file.read_text(errors='replace')[-2000:]}")
        faults = [line for line in log_file.read_text(errors="replace").splitlines() if is_fault(line)]
        for line in faults:
            findings.fail(f"in the log: {line}")
    return findings


def is_fault(line: str) -> bool:
    """Whether a line of the server's log tells of a fault of its own."""
    return bool(re.search(r"Traceback|\bERROR\b|\bCRITICAL\b", line))


def soak(url: str, process_id: int | None, arguments: argparse.Namespace) -> Findings:
    """Keep the server at ``url`` busy; its memory is watched where its process is known."""
    soaking = Soak(url, process_id, arguments.seed)
    asyncio.run(soaking.run(arguments.clients, arguments.minutes * 60))
    return soaking.findings


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="how long to ask (20)")
    parser.add_argument("--clients", type=int, default=16, help="how many ask at once (16)")
    parser.add_argument("--seed", type=int, default=1, help="another number asks other things (1)")
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--config", type=Path, help="TOML file for the server; without: the embedded model")
    server.add_argument("--url", help="a server that runs already; its memory is not watched")
    return parser.parse_args()


def main() -> int:
    """Run and report; returns the exit code."""
    arguments = parsed()
    started_s = time.monotonic()
    findings = soak(arguments.url, None, arguments) if arguments.url else soak_own_server(arguments)
    memory = memory_of(findings.memory, arguments.minutes * 60 * WARM_UP_PART)
    if memory and memory.grew:
        findings.fail("the memory grew")
    print(summary(findings, memory))
    print(f"{'FAILED' if findings.errors else 'ok'} after {time.monotonic() - started_s:.0f} s")
    return 1 if findings.errors else 0


if __name__ == "__main__":
    sys.exit(main())
