"""What splitting a model over rpc servers costs, against the same model on one device, in one run.

    .venv/bin/python -m bench.rpc_split [MODEL.gguf] [--rounds N]

The servers are on loopback and have one thread each, as the local part has: so all compute alike, one after
the other, and what differs is the way between them. The engines take turns, round by round, and the first
round does not count.
"""

import argparse
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from bench.build_llama_server import PROJECT
from bench.build_rpc_server import built_rpc_server
from server.domain.generation import EngineEvent, Failed, Finished, Generation, Sampling, TextDelta
from server.engine.engine import Engine
from server.engine.gguf.reader import read_header
from server.engine.llamacpp.library import Library
from server.engine.rpc import Unreachable, ask
from server.engine.spec import EngineSpec, Share
from server.sockets import listening

EMBEDDED = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT_WORDS, ANSWER_TOKENS, CONTEXT_TOKENS = 300, 64, 2048
START_S = 30
SERVERS = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """Tokens a second of reading a prompt and of generating an answer, and the answer."""

    reading: float
    generating: float
    tokens: tuple[int, ...]


@contextmanager
def server(program: Path) -> Iterator[str]:
    """An rpc server on a free port; its ``address:port``."""
    with listening("127.0.0.1", 0) as free:
        port = int(free.getsockname()[1])
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            ask(f"rpc://127.0.0.1:{port}", "127.0.0.1", port)
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


@contextmanager
def loaded(library: Library, model: Path, shares: tuple[Share, ...]) -> Iterator[Engine]:
    """The model, with one thread here, and no guesses that would blur the comparison."""
    spec = EngineSpec(model, "CPU", CONTEXT_TOKENS, threads=1, slots=1, draft_tokens=0, shares=shares)
    engine = Engine.load(library, spec)
    try:
        yield engine
    finally:
        engine.close()


def measured(engine: Engine, number: int) -> Measured:
    """One answer to a prompt that nobody has read before."""
    text = f"Round {number}. " + "The harbour was quiet. " * (PROMPT_WORDS // 4)
    prompt = tuple(engine.model.tokenize(text, add_special=True))
    done: SimpleQueue[Finished | Failed] = SimpleQueue()

    def sink(event: EngineEvent) -> None:
        if not isinstance(event, TextDelta):
            done.put(event)

    engine.submit(Generation(prompt, Sampling(temperature=0), max_tokens=ANSWER_TOKENS), sink)
    end = done.get()
    if isinstance(end, Failed):
        raise end.error
    usage = end.usage
    return Measured(
        usage.read_tokens * 1e9 / usage.prefill_ns,
        usage.generated_tokens * 1e9 / usage.decode_ns,
        end.tokens,
    )


def ways(model: Path, endpoints: list[str]) -> Mapping[str, tuple[Share, ...]]:
    """How the layers are shared out in each engine; each server has a part of one."""
    layers = (read_header(model).block_count or 0) + 1
    half, third = layers // 2, layers // 3
    one, two, three = endpoints
    return {
        "one device": (),
        "CPU + 1 server": (Share("CPU", half), Share(one, layers - half, 0)),
        "CPU + 2 servers": (Share("CPU", third), Share(two, third, 0), Share(three, layers - 2 * third, 0)),
    }


def table(found: Mapping[str, list[Measured]]) -> Iterator[str]:
    """Medians, their part of those of one device, and how many answers were the same to the last token."""
    alone = found["one device"]
    yield f"{'':<16} {'reading':>14} {'generating':>16}   same answers"
    for way, rounds in found.items():
        reading, generating = _median(rounds, "reading"), _median(rounds, "generating")
        parts = reading / _median(alone, "reading"), generating / _median(alone, "generating")
        same = sum(one.tokens == other.tokens for one, other in zip(rounds, alone, strict=True))
        yield (
            f"{way:<16} {reading:6.0f} t/s {parts[0]:4.0%} {generating:7.1f} t/s {parts[1]:4.0%}   "
            f"{same} of {len(rounds)}"
        )


def _median(rounds: list[Measured], what: str) -> float:
    return float(statistics.median(getattr(one, what) for one in rounds))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=EMBEDDED)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--program", type=Path, help="a ggml-rpc-server that is there; else it is built first"
    )
    options = parser.parse_args()
    program, library = options.program or built_rpc_server(), Library()
    with ExitStack() as stack:
        endpoints = [stack.enter_context(server(program)) for _ in range(SERVERS)]
        engines = {
            way: stack.enter_context(loaded(library, options.model, shares))
            for way, shares in ways(options.model, endpoints).items()
        }
        found: dict[str, list[Measured]] = {way: [] for way in engines}
        for number in range(options.rounds + 1):
            for way, engine in engines.items():
                figures = measured(engine, number)
                if number:
                    found[way].append(figures)
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
