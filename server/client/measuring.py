"""How fast a running service reads and generates, measured from outside as llama-bench does from inside."""

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.client.service import Service

NS = 1e9
_WORDS = (
    *("river", "stone", "window", "garden", "letter", "morning", "silver", "engine", "paper", "mountain"),
    *("yellow", "bottle", "forest", "music", "doctor", "winter", "market", "bridge", "island", "carpet"),
    *("hammer", "planet", "cotton", "shadow", "ticket", "camera", "pepper", "signal", "marble", "velvet"),
)
_SHORT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """One test, with what each repetition gave; one that gave nothing to measure is left out."""

    test: str
    tokens: tuple[int, ...]
    tokens_per_s: tuple[float, ...]
    first_token_s: tuple[float, ...]

    @property
    def as_json(self) -> dict[str, Any]:
        """With means and standard deviations."""
        return {
            "test": self.test,
            "tokens": list(self.tokens),
            "tokens_per_s": list(self.tokens_per_s),
            "tokens_per_s_mean": mean(self.tokens_per_s),
            "tokens_per_s_stddev": deviation(self.tokens_per_s),
            "first_token_s": list(self.first_token_s),
            "first_token_s_mean": mean(self.first_token_s),
        }


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation; None where there are fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True, slots=True)
class Run:
    """One repetition: when its first word came, and the last object of its stream."""

    first_token_s: float | None
    last: Mapping[str, Any]


def measured(test: str, runs: Sequence[Run], phase: str) -> Measured:
    """The figures of ``prompt_eval`` or ``eval``, the two phases of a request."""
    cached = [run.last["llm_optimizer"]["tokens_cached"] if phase == "prompt_eval" else 0 for run in runs]
    tokens = [run.last.get(f"{phase}_count", 0) - held for run, held in zip(runs, cached, strict=True)]
    times_ns = [run.last.get(f"{phase}_duration", 0) for run in runs]
    return Measured(
        test,
        tuple(tokens),
        tuple(count / time_ns * NS for count, time_ns in zip(tokens, times_ns, strict=True) if time_ns),
        tuple(run.first_token_s for run in runs if run.first_token_s is not None),
    )


class Bench:
    """Tests of one model. ``seed`` makes its prompts: other ones each time, for what a cache holds is not
    read."""

    def __init__(self, service: Service, model: str, seed: int) -> None:
        self._service = service
        self._model = model
        self._random = random.Random(seed)  # noqa: S311 - no secret

    def warm_up(self) -> None:
        """Load the model, and let it generate once."""
        self._run(self._prompt(_SHORT_TOKENS), 1)

    def reading(self, tokens: int, repetitions: int) -> Measured:
        """Prompts of so many tokens, and one token of an answer."""
        runs = [self._run(self._prompt(tokens), 1) for _ in range(repetitions)]
        return measured(f"pp{tokens}", runs, "prompt_eval")

    def generating(self, tokens: int, repetitions: int) -> Measured:
        """Answers of so many tokens to a short prompt, or of fewer where the model ends them."""
        runs = [self._run(self._prompt(_SHORT_TOKENS), tokens) for _ in range(repetitions)]
        return measured(f"tg{tokens}", runs, "eval")

    def _prompt(self, tokens: int) -> list[int]:
        text = " ".join(self._random.choices(_WORDS, k=tokens))
        told = self._service.post("/api/tokenize", {"model": self._model, "text": text})
        return list(told["tokens"][:tokens])

    def _run(self, prompt: Sequence[int], answer_tokens: int) -> Run:
        """The prompt as it is: no template, and no router between."""
        text = self._service.post("/api/detokenize", {"model": self._model, "tokens": prompt})["content"]
        body = {
            "model": self._model,
            "prompt": text,
            "raw": True,
            "options": {
                "num_predict": answer_tokens,
                "temperature": 1.0,
                "seed": self._random.randrange(2**31),
            },
        }
        started_s, first_s = time.monotonic(), None
        last: dict[str, Any] = {}
        for last in self._service.stream("/api/generate", body):
            if first_s is None and last.get("response"):
                first_s = time.monotonic() - started_s
        return Run(first_s, last)
