"""The parts of the check in their order."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.gpu_check import load, memory, speed
from bench.gpu_check.ballast import Ballast, ballast
from bench.gpu_check.build import Build
from bench.gpu_check.cards import GENERATOR, HELPER, used_bytes
from bench.gpu_check.parts import MIB, Clock, Faulty, Findings, Found, Skipped, mib
from bench.gpu_check.service import Refused, Service, environment, resident_bytes, service, settings
from bench.gpu_check.subjects import (
    BOTH_BYTES,
    HUGE_BYTES,
    HUGE_CONTEXT_TOKENS,
    ROOM_BYTES,
    Subject,
    write_huge,
)
from bench.machine import usable_cores
from server.config import Settings
from server.gpu.host import available_ram_bytes
from server.gpu.nvml import Nvml

NO_CARD, NOT_LOADED = "no NVIDIA card", "the model was not loaded"
BOTH, HEALTH = "both: generate at once", "both: health meanwhile"
REFUSED = "generator: refused where it cannot fit"
MOST_DRY_S = 120


@dataclass(frozen=True, slots=True)
class Setting:
    """What the parts work with. ``build`` None: the installed binding is used, without llama-bench."""

    subjects: Mapping[str, Subject]
    build: Build | None
    nvml: Nvml
    folder: Path
    clock: Clock

    @property
    def generator(self) -> Subject:
        """The big one."""
        return self.subjects[GENERATOR]

    @property
    def helper(self) -> Subject:
        """The small one."""
        return self.subjects[HELPER]

    @property
    def on_card(self) -> bool:
        """Whether there is one."""
        return self.generator.place.card is not None

    @property
    def python_path(self) -> Path | None:
        """Where the binding is."""
        return None if self.build is None else self.build.python_path

    @property
    def share_a_card(self) -> bool:
        """Whether both models are on the same one."""
        return self.generator.place == self.helper.place


def examine(setting: Setting, findings: Findings) -> None:
    """All parts. What one finds is no reason to leave out the next."""
    for subject in setting.subjects.values():
        findings.run(f"{subject.role}: plan against llama.cpp's words", partial(_dry, setting, subject))
    with contextlib.ExitStack() as stack:
        ballasts = _ballasts(setting, stack)
        _with_service(setting, findings, "service", partial(_memory_and_load, setting, findings, ballasts))
    if not setting.on_card:
        _refusal_without_card(setting, findings)
    # Guesses would be right all the time: weights at random write the same words over and over.
    alike = {"draft": 0, "threads": _threads(setting)}
    _with_service(setting, findings, "service without drafts", partial(_speed, setting, findings), **alike)


def _with_service(
    setting: Setting, findings: Findings, name: str, parts: Callable[[Service], None], **more: int
) -> None:
    """Run parts on a service of their own; ``more`` are settings of both models."""
    text = settings(setting.folder, setting.generator.keys(**more), setting.helper.keys(**more))
    with _started(setting, findings, name, text) as running:
        if running is not None:
            parts(running)
            findings.run(f"{name}: ends when told to", partial(_ends, running))


@contextlib.contextmanager
def _started(setting: Setting, findings: Findings, name: str, text: str) -> Iterator[Service | None]:
    with contextlib.ExitStack() as stack:
        started: list[Service] = []

        def start() -> Found:
            folder = setting.folder / "service"
            started.append(stack.enter_context(service(text, folder, setting.python_path, setting.clock)))
            seconds = time.monotonic() - began_s
            return Found(f"ready after {seconds:.1f} s, no model loaded yet", {"seconds": seconds})

        began_s = time.monotonic()
        findings.run(f"{name}: starts", start)
        yield started[0] if started else None


def _memory_and_load(
    setting: Setting, findings: Findings, ballasts: Mapping[str, Ballast], running: Service
) -> None:
    fill = partial(_fill, setting, findings, ballasts)
    for subject in (setting.generator, setting.helper):
        free_bytes = fill(subject.role, ROOM_BYTES[subject.role])
        _model(setting, findings, running, subject, is_short=free_bytes < ROOM_BYTES[subject.role])
    _short_memory(setting, findings, ballasts, running)
    if not setting.share_a_card:
        for role in (GENERATOR, HELPER):
            fill(role, ROOM_BYTES[role])
    elif fill(GENERATOR, sum(ROOM_BYTES.values())) < BOTH_BYTES:
        for name in (BOTH, HEALTH):
            findings.skip(name, f"one card without {mib(BOTH_BYTES)} cannot hold both")
        return
    _both(setting, findings, running)


def _fill(
    setting: Setting, findings: Findings, ballasts: Mapping[str, Ballast], role: str, wanted_bytes: int
) -> int:
    """Leave so much of the card of that role free; what is free then, as far as it is known."""
    left = [wanted_bytes]
    name = f"{role}: its card filled until {wanted_bytes // MIB} MiB are free"

    def part() -> Found:
        left[0] = free_bytes = ballasts[role].leave(wanted_bytes)
        short = "" if free_bytes >= wanted_bytes else "; others have the rest, or the card is smaller"
        return Found(f"{mib(free_bytes)} free{short}", {"free_bytes": free_bytes})

    if role in ballasts:
        findings.run(name, part)
    else:
        findings.skip(name, NO_CARD)
    return left[0]


def _model(
    setting: Setting, findings: Findings, running: Service, subject: Subject, *, is_short: bool
) -> None:
    """Load it, hold it against its plan, and see it go. ``is_short``: the card has less than it should."""
    rounds: list[memory.Round] = []

    def part() -> Found:
        try:
            rounds.append(memory.load_twice(running, subject.name, partial(_used, setting, running, subject)))
        except Refused as refusal:
            if is_short:
                raise Skipped(f"this card has no room for it: {refusal}") from refusal
            raise
        return Found(f"twice, {mib(rounds[0].taken_bytes)} of its device", {})

    plan, back = f"{subject.role}: plan against NVML", f"{subject.role}: memory comes back"
    if not findings.run(f"{subject.role}: loads and answers", part):
        findings.skip(plan, NOT_LOADED)
        findings.skip(back, NOT_LOADED)
        return
    if subject.place.card is None:
        findings.skip(plan, NO_CARD)
    else:
        findings.run(plan, partial(memory.judged_plan, rounds[0]))
    findings.run(back, partial(memory.judged_unload, rounds[0]))


def _short_memory(
    setting: Setting, findings: Findings, ballasts: Mapping[str, Ballast], running: Service
) -> None:
    """On the small card: a model that cannot fit, and another program that takes what is left."""
    taken_away = "helper: another program takes its memory"
    if HELPER not in ballasts:
        findings.skip(taken_away, NO_CARD)
        return
    if not setting.share_a_card:
        _fill(setting, findings, ballasts, GENERATOR, ROOM_BYTES[HELPER])
    findings.run(REFUSED, partial(memory.refused, running, setting.generator.name))
    less_bytes = Settings().helper.memory_margin_mib * MIB // 4
    part = partial(
        memory.gives_way,
        running,
        setting.helper.name,
        fill=partial(ballasts[HELPER].leave, less_bytes),
        release=partial(ballasts[HELPER].leave, ROOM_BYTES[HELPER]),
    )
    findings.run(taken_away, part)


def _refusal_without_card(setting: Setting, findings: Findings) -> None:
    """The computer's own memory in place of a card's."""
    if (available_ram_bytes() or HUGE_BYTES) >= HUGE_BYTES:
        findings.skip(REFUSED, "this computer has room for whatever could be asked for")
        return
    huge = {"path": str(write_huge(setting.folder)), "device": "cpu", "context": HUGE_CONTEXT_TOKENS}
    text = settings(setting.folder, huge, setting.helper.keys())
    with _started(setting, findings, "service with a huge window", text) as running:
        if running is not None:
            findings.run(REFUSED, partial(memory.refused, running, setting.generator.name))


def _both(setting: Setting, findings: Findings, running: Service) -> None:
    names = [subject.name for subject in setting.subjects.values()]
    loads: list[load.Load] = []

    def part() -> Found:
        alone = {name: load.alone(running, name) for name in names}
        loads.append(load.both_at_once(running, names, setting.clock))
        return load.judged_answers(loads[0], alone)

    findings.run(BOTH, part)
    if loads:
        findings.run(HEALTH, partial(load.judged_health, loads[0]))
    else:
        findings.skip(HEALTH, "the models did not generate")


def _speed(setting: Setting, findings: Findings, running: Service) -> None:
    for subject in setting.subjects.values():
        findings.run(
            f"{subject.role}: speed against llama-bench", partial(_against, setting, running, subject)
        )


def _against(setting: Setting, running: Service, subject: Subject) -> Found:
    if setting.build is None:
        raise Skipped("llama-bench is not built: the step build does that")
    bench = speed.Bench(
        program=setting.build.llama_bench,
        model=subject.path,
        kv_type=subject.kv_type,
        environment={**os.environ, **_shown(subject)},
        on_card=subject.place.card is not None,
        threads=_threads(setting),
    )
    return speed.compare(running, subject.name, bench, setting.clock)


def _threads(setting: Setting) -> int:
    """On the CPU a single one on both sides: who else works there then hardly matters."""
    return usable_cores() if setting.on_card else 1


def _dry(setting: Setting, subject: Subject) -> Found:
    device = "CUDA0" if subject.place.card else "CPU"
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_check.dry", device, str(subject.exact)],
        env={**environment(setting.python_path), **_shown(subject)},
        capture_output=True,
        text=True,
        timeout=min(MOST_DRY_S, setting.clock.left_s),
        check=False,
    )
    if done.returncode != 0:
        raise Faulty((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])
    found = json.loads(done.stdout)
    part = found["off_bytes"] / found["of_bytes"]
    said = (
        f"{found['within']} of {found['shapes']} shapes within 3 % or 64 MiB on {device}, dry; "
        f"the worst {found['off_bytes'] / MIB:+.1f} MiB ({part:+.1%})"
    )
    if found["within"] < found["shapes"]:
        raise Faulty(said, **found)
    return Found(said, found)


def _used(setting: Setting, running: Service, subject: Subject) -> int:
    card = subject.place.card
    return resident_bytes(running.process.pid) if card is None else used_bytes(setting.nvml, card)


def _ends(running: Service) -> Found:
    running.must_live()
    code = running.stop()
    if code != 0:
        raise Faulty(f"exit code {code}: {running.last_words()}")
    return Found("exit code 0", {})


def _ballasts(setting: Setting, stack: contextlib.ExitStack) -> dict[str, Ballast]:
    """One for each card, by the roles of the models on it."""
    cards = {subject.role: subject.place.card for subject in setting.subjects.values()}
    by_card: dict[str, Ballast] = {}
    for card in cards.values():
        if card is not None and card.pci_bus_id is not None and card.pci_bus_id not in by_card:
            by_card[card.pci_bus_id] = stack.enter_context(ballast(card.pci_bus_id))
    return {role: by_card[card.pci_bus_id] for role, card in cards.items() if card and card.pci_bus_id}


def _shown(subject: Subject) -> dict[str, str]:
    """Only its own card, which is CUDA's number 0 then."""
    return {"CUDA_VISIBLE_DEVICES": subject.place.device} if subject.place.card else {}
