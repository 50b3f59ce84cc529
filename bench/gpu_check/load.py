"""Both models generate at once, and meanwhile somebody asks how the service is."""

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.gpu_check.parts import Clock, Faulty, Found
from bench.gpu_check.service import Answer, Service

SECONDS = 8
EVERY_S = 0.05
PROMPT_TOKENS, TOKENS = 64, 128
HEALTH = ("/health", "/health/gpu")
LIMIT_MS = 50
PART_WITHIN = 0.95


@dataclass(frozen=True, slots=True)
class Load:
    """``answers`` of each model, and for each route how long its answers took, in milliseconds."""

    answers: Mapping[str, Sequence[Answer]]
    health_ms: Mapping[str, Sequence[float]]


def both_at_once(service: Service, models: Sequence[str], clock: Clock) -> Load:
    """Keep every model busy for some seconds. Raises Faulty for an answer that fails."""
    end_s = time.monotonic() + min(SECONDS, clock.left_s / 2)
    over = threading.Event()
    with ThreadPoolExecutor(len(models) + 1) as threads:
        health = threads.submit(_watch, service, over)
        talks = {model: threads.submit(_talk, service, model, end_s) for model in models}
        try:
            answers = {model: talk.result() for model, talk in talks.items()}
        finally:
            over.set()
        return Load(answers, health.result())


def alone(service: Service, model: str) -> float:
    """Tokens a second of one answer while nobody else asks."""
    service.ask(model, PROMPT_TOKENS, 8)
    return service.ask(model, PROMPT_TOKENS, TOKENS).rate


def judged_answers(load: Load, alone: Mapping[str, float]) -> Found:
    """The rate of each model beside the other, and alone. Raises Faulty where one hardly said anything."""
    rates = {model: statistics.median(one.rate for one in said) for model, said in load.answers.items()}
    figures: dict[str, float | str | None] = {}
    for model, rate in rates.items():
        figures |= {f"{model} tokens_per_s": rate, f"{model} tokens_per_s_alone": alone[model]}
    said = "; ".join(
        f"{model} {rate:.1f} tokens/s (alone {alone[model]:.1f}), {len(load.answers[model])} answers"
        for model, rate in rates.items()
    )
    silent = [model for model, rate in rates.items() if not rate]
    if silent:
        raise Faulty(f"{said}; nothing of {', '.join(silent)}", **figures)
    return Found(said, figures)


def judged_health(load: Load) -> Found:
    """Raises Faulty where too many answers took longer than they may."""
    figures: dict[str, float | str | None] = {}
    parts, slow = [], []
    for route, times_ms in load.health_ms.items():
        most = _quantile(times_ms, PART_WITHIN)
        figures |= {f"{route} median_ms": statistics.median(times_ms), f"{route} p95_ms": most}
        figures |= {f"{route} max_ms": max(times_ms), f"{route} answers": len(times_ms)}
        parts.append(
            f"{route} median {statistics.median(times_ms):.1f} ms, 95 % within {most:.1f}, "
            f"longest {max(times_ms):.1f} of {len(times_ms)}"
        )
        slow += [route] * (most > LIMIT_MS)
    said = "; ".join(parts)
    if slow:
        raise Faulty(f"{said}; {' and '.join(slow)} should take less than {LIMIT_MS} ms", **figures)
    return Found(said, figures)


def _talk(service: Service, model: str, end_s: float) -> list[Answer]:
    answers = []
    while time.monotonic() < end_s:
        answers.append(service.ask(model, PROMPT_TOKENS, TOKENS))
    return answers


def _watch(service: Service, over: threading.Event) -> dict[str, list[float]]:
    times_ms: dict[str, list[float]] = {route: [] for route in HEALTH}
    with service.client() as client:
        client.get(HEALTH[0])
        while not over.is_set():
            for route, times in times_ms.items():
                started_s = time.perf_counter()
                client.get(route).raise_for_status()
                times.append((time.perf_counter() - started_s) * 1e3)
            over.wait(EVERY_S)
    return times_ms


def _quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]
