"""What a model takes of its device, against the plan, and whether it comes back."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.figures import plan_is_near
from bench.gpu_check.parts import MIB, Faulty, Found, Skipped, mib
from bench.gpu_check.service import Refused, Service

PROMPT_TOKENS, TOKENS = 1100, 32
"""More than two whole batches: everything that computing takes is taken then."""

LEFT_OVER_BYTES, LEFT_OVER_PART = 64 * MIB, 0.5
"""The smaller one is what may stay behind; the part tells something where a model takes little."""

SETTLE_S = 1.0
GUARD_S = 15.0


@dataclass(frozen=True, slots=True)
class Round:
    """Bytes of the device in use: before the model was there, with it, and after it had left.

    ``planned_bytes`` is what the service counted on; ``reduced`` says what it did without.
    """

    before_bytes: int
    with_model_bytes: int
    after_bytes: int
    planned_bytes: int
    reduced: str | None

    @property
    def taken_bytes(self) -> int:
        """By the model."""
        return self.with_model_bytes - self.before_bytes


def load_twice(service: Service, model: str, used_bytes: Callable[[], int]) -> Round:
    """The second time counts: CUDA's context and the kernels, which stay, are there from the first."""
    service.ask(model, PROMPT_TOKENS, TOKENS)
    service.unload(model)
    time.sleep(SETTLE_S)
    before_bytes = used_bytes()
    service.ask(model, PROMPT_TOKENS, TOKENS)
    with_model_bytes, told = used_bytes(), service.loaded()[model]
    service.unload(model)
    time.sleep(SETTLE_S)
    service.must_live()
    reduced = told["reduced"]
    given_up = reduced and ", ".join(
        f"{one['setting']} {one['wished']} → {one['planned']}" for one in reduced["settings"]
    )
    planned_bytes = told["size_vram"] or told["size"]
    return Round(before_bytes, with_model_bytes, used_bytes(), planned_bytes, given_up)


def judged_plan(found: Round) -> Found:
    """Raises Faulty where the plan is further off than it may be."""
    off_bytes = found.planned_bytes - found.taken_bytes
    figures: dict[str, float | str | None] = {
        "planned_bytes": found.planned_bytes,
        "taken_bytes": found.taken_bytes,
        "reduced": found.reduced,
    }
    without = f"; without {found.reduced}" if found.reduced else ""
    said = (
        f"planned {mib(found.planned_bytes)}, NVML {mib(found.taken_bytes)}, "
        f"off {off_bytes / MIB:+.0f} MiB{without}"
    )
    if not plan_is_near(found.planned_bytes, found.taken_bytes):
        raise Faulty(f"{said}; more than 3 % and 64 MiB", **figures)
    return Found(said, figures)


def judged_unload(found: Round) -> Found:
    """Raises Faulty where memory did not come back."""
    left_bytes = found.after_bytes - found.before_bytes
    figures: dict[str, float | str | None] = {"taken_bytes": found.taken_bytes, "left_bytes": left_bytes}
    said = f"{mib(found.taken_bytes)} taken, {mib(left_bytes)} not given back"
    allowed_bytes = min(LEFT_OVER_BYTES, LEFT_OVER_PART * found.taken_bytes)
    if left_bytes > allowed_bytes:
        raise Faulty(f"{said}; more than {mib(allowed_bytes)}", **figures)
    return Found(said, figures)


def refused(service: Service, model: str) -> Found:
    """A model that does not fit: the service must say so, with numbers, and live on."""
    try:
        service.ask(model, 8, 1)
    except Refused as refusal:
        service.must_live()
        healthy = service.get("/health").status_code
        if "MiB" not in refusal.error or "free" not in refusal.error:
            raise Faulty(f"refused without the numbers: {refusal}") from refusal
        figures: dict[str, float | str | None] = {"status": refusal.status, "health_status": healthy}
        return Found(f"{refusal.status}, alive, /health {healthy}: {refusal.error}", figures)
    service.unload(model)
    raise Skipped(f"{model} fits: there is more memory than this part reckons with")


def gives_way(service: Service, model: str, fill: Callable[[], int], release: Callable[[], int]) -> Found:
    """Another program takes nearly all that is left beside an idle model; then it gives it back."""
    service.ask(model, 8, 1)
    free_bytes = fill()
    seen, end_s = set[str](), time.monotonic() + GUARD_S
    while time.monotonic() < end_s and model in service.loaded():
        seen |= {told["level"] for told in service.get("/health/gpu").json()["guard"].values()}
        time.sleep(0.2)
    service.must_live()
    left = model not in service.loaded()
    release()
    answer = service.ask(model, 8, 8)
    said = (
        f"{mib(free_bytes)} left free: the guard went {', '.join(sorted(seen)) or 'nowhere'}, "
        f"the model {'left' if left else 'stayed'}; afterwards it answered {answer.tokens} tokens"
    )
    if not seen - {"calm"} and not left:
        raise Faulty(f"{said}; nothing gave way")
    return Found(said, {"free_bytes": free_bytes, "left": str(left)})
