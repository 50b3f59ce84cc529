"""Tokens a second against llama-bench of the same build, in turns."""

import json
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_check.parts import Clock, Faulty, Found
from bench.gpu_check.service import Answer, Service

ROUNDS = 3
PROMPT_TOKENS, TOKENS = 512, 128
LEAST_RATIO = 0.85
"""Of generating, with the real models' shapes. llama-bench neither picks tokens nor answers anybody, which
takes about a millisecond for each token; so a little less is as it must be."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second of one round: reading a prompt, and generating."""

    reading: float
    generating: float


@dataclass(frozen=True, slots=True)
class Bench:
    """How llama-bench is started for one model. ``environment`` shows it only the model's own card."""

    program: Path
    model: Path
    kv_type: str
    environment: Mapping[str, str]
    on_card: bool
    threads: int

    def command(self) -> list[str]:
        """With what the service is set to."""
        kv = ["--cache-type-k", self.kv_type, "--cache-type-v", self.kv_type]
        sizes = ["--batch-size", "512", "--ubatch-size", "512", "--threads", str(self.threads)]
        layers = ["--n-gpu-layers", "99" if self.on_card else "0", "--flash-attn", "on"]
        runs = ["--n-prompt", str(PROMPT_TOKENS), "--n-gen", str(TOKENS), "--repetitions", "1"]
        return [
            str(self.program),
            "--model",
            str(self.model),
            *kv,
            *sizes,
            *layers,
            *runs,
            "--output",
            "json",
        ]

    def run(self, timeout_s: float) -> Rates:
        """Once. Raises Faulty, with the program's last line, where it fails."""
        done = subprocess.run(
            self.command(),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise Faulty(f"llama-bench ended with {done.returncode}: {last}")
        return rates_of(json.loads(done.stdout))


def rates_of(runs: list[dict[str, Any]]) -> Rates:
    """What llama-bench says: one run that reads, one that generates. Raises Faulty if one is missing."""
    reading = [run["avg_ts"] for run in runs if run["n_prompt"] and not run["n_gen"]]
    generating = [run["avg_ts"] for run in runs if run["n_gen"] and not run["n_prompt"]]
    if not (reading and generating):
        raise Faulty("llama-bench tells no rates")
    return Rates(float(reading[0]), float(generating[0]))


def compare(service: Service, model: str, bench: Bench, clock: Clock) -> Found:
    """Both in turns, the model unloaded meanwhile, for a card may not hold it twice.

    Raises Faulty where generating on a card is slower than it may be; models so small that any CPU can run
    them generate so fast that what llama-bench leaves out counts too much.
    """
    ours: list[Rates] = []
    theirs: list[Rates] = []
    for _ in range(ROUNDS):
        theirs.append(bench.run(clock.left_s))
        ours.append(_ours(service, model))
        service.unload(model)
    return judged(ours, theirs, LEAST_RATIO if bench.on_card else 0)


def judged(ours: list[Rates], theirs: list[Rates], least_ratio: float) -> Found:
    """The medians, and their ratios. Raises Faulty where that of generating is too small."""
    reading, generating = ((_median(ours, name), _median(theirs, name)) for name in ("reading", "generating"))
    ratio = generating[0] / generating[1]
    figures: dict[str, float | str | None] = {
        "reading_tokens_per_s": reading[0],
        "reading_tokens_per_s_llama_bench": reading[1],
        "reading_ratio": reading[0] / reading[1],
        "generating_tokens_per_s": generating[0],
        "generating_tokens_per_s_llama_bench": generating[1],
        "generating_ratio": ratio,
    }
    said = (
        f"generating {generating[0]:.1f} against {generating[1]:.1f} tokens/s, ratio {ratio:.2f}; "
        f"reading {reading[0]:.0f} against {reading[1]:.0f}, ratio {reading[0] / reading[1]:.2f} "
        f"({len(ours)} rounds in turns, medians)"
    )
    if ratio < least_ratio:
        raise Faulty(f"{said}; less than {least_ratio}", **figures)
    return Found(said if least_ratio else f"{said}; not judged: the models are too small", figures)


def _ours(service: Service, model: str) -> Rates:
    """A first answer loads the model and warms it up, as llama-bench does; the second one counts."""
    service.ask(model, PROMPT_TOKENS, 8)
    answer: Answer = service.ask(model, PROMPT_TOKENS, TOKENS)
    return Rates(answer.prompt_rate, answer.rate)


def _median(rates: list[Rates], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in rates))
