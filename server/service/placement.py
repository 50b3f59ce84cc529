"""Where a model goes, and whether it fits there: settings, ggml's devices and NVML's readings together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from server.catalogue import Installed
from server.domain.errors import ModelLoadFailed
from server.engine.embeddings import embedding_batch
from server.engine.spec import Share, logit_rows, sequences_of
from server.gpu.compute import Shape, uses_flash_attention
from server.gpu.fit import Change, Ladders, Tuning, changes, fitting_plan, ladders, least, safer_bytes
from server.gpu.plan import MemoryPlan, plan_beside_gpu, plan_host_memory, plan_memory, refusal, sum_of
from server.service.crashes import Crash
from server.service.devices import Devices

if TYPE_CHECKING:
    from server.gpu.split import Part
    from server.service.rpc_servers import Server

MIB = 2**20

MOST_CRASHES = 3
"""After so many with less and less it is not for want of memory."""

_HOW_TO_FORGET = "it is tried again when that is forgotten: see llm-optimizer doctor"


class NoRoom(ModelLoadFailed):
    """The device lacks ``missing_bytes`` for the model; the text has all the numbers. ``device`` None: it is
    the model's only one."""

    def __init__(self, text: str, missing_bytes: int, device: str | None = None) -> None:
        super().__init__(text)
        self.missing_bytes = missing_bytes
        self.device = device


@dataclass(frozen=True, slots=True)
class Reduced:
    """What a model has to do without, because all of it did not fit; ``reason`` has the numbers."""

    reason: str
    settings: tuple[Change, ...]

    def __str__(self) -> str:
        given_up = ", ".join(f"{one.setting} {one.wished} → {one.planned}" for one in self.settings)
        return f"{given_up}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Placement:
    """``device`` in ggml's words (``CPU``, ``CUDA0``), how the model is to be loaded, and the plan for that
    device's memory.

    ``host_bytes`` is what stays in the computer's own memory. ``reduced`` None: all is as the settings say.
    ``split``: the parts of a model that several devices share, the plan being that of the first of them.
    """

    device: str
    tuning: Tuning
    plan: MemoryPlan
    host_bytes: int
    reduced: Reduced | None = None
    split: "Split | None" = None

    @property
    def context_tokens(self) -> int:
        """The window."""
        return self.tuning.context

    @property
    def size_bytes(self) -> int:
        """What the model takes, wherever."""
        return self.host_bytes + self.vram_bytes

    @property
    def vram_bytes(self) -> int:
        """What it takes of GPUs, and of other machines; 0 on the CPU."""
        if self.split is not None:
            return sum(part.taken_bytes for part in self.split.parts if part.device != "cpu")
        return 0 if self.device == "CPU" else self.plan.total_bytes - self.plan.margin_bytes

    def taken_on(self, device: str) -> int:
        """What it takes of a card that it is on, by the card's name in the settings."""
        return self.vram_bytes if self.split is None else self.split.plan_on(device).taken_bytes

    @property
    def freed_bytes(self) -> int:
        """What its device has more once the model is gone. Mapped weights never count as taken on the CPU."""
        return self.plan.working_bytes if self.device == "CPU" else self.vram_bytes

    def freed_on(self, device: str) -> int:
        """The same for each of the devices that it is on, by their names in the settings."""
        if self.split is None:
            return self.freed_bytes
        plan = self.split.plan_on(device)
        return plan.working_bytes if device == "cpu" else plan.taken_bytes


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of a model in the order of their layers, as they are planned and as the engine is told."""

    parts: "tuple[Part, ...]"
    shares: tuple[Share, ...]
    servers: "tuple[Server, ...]"

    def plan_on(self, device: str) -> MemoryPlan:
        """What it takes of a device, which may be several behind a server."""
        plans = [part.plan for part in self.parts if part.device == device]
        return sum_of(plans)

    @property
    def taken_bytes(self) -> dict[str, int]:
        """What it takes of each device."""
        return {part.device: self.plan_on(part.device).taken_bytes for part in self.parts}

    def __str__(self) -> str:
        return "; ".join(map(str, self.parts))


Needs = Callable[[Tuning], MemoryPlan]


class Placements:
    """Checks a model against the device that its settings name, before anything is allocated."""

    def __init__(self, devices: Devices) -> None:
        self.devices = devices

    def place(self, installed: Installed, *, whole: bool = False, crash: Crash | None = None) -> Placement:
        """Where the model goes, and with what it has to do there; ``whole`` gives up nothing to fit.

        ``crash`` is what came of loading it before: then it has to do with less than that time.

        Raises:
            NoRoom: the device has too little free memory.
            ModelLoadFailed: the device is not there, or what may be given up does not make a crash unlikely.
        """
        entry = installed.entry
        device, wished = self.devices.ggml_name(entry.settings.device, entry.section), wished_of(installed)
        steps, needs = steps_of(installed, wished), partial(_plan, installed, device)
        safe = wished if crash is None else safer_of(installed, wished, steps, needs, crash)
        placement = _placement(installed, device, safe)
        free_bytes = self.devices.free_bytes(installed.entry.settings.device)
        refused = _refusal(installed, placement.plan, free_bytes)
        if refused is None or free_bytes is None:
            reduced = None if crash is None else reduced_of(installed, safe, str(crash))
            return replace(placement, reduced=reduced)
        steps = {} if whole else steps
        found = fitting_plan(wished, steps, needs, free_bytes)
        if found is None:
            raise _no_room(installed, refused, needs(least(wished, steps)), free_bytes, steps)
        # What comes after the numbers is a remedy, and has been applied.
        reason = refused.partition(";")[0]
        return replace(_placement(installed, device, found), reduced=reduced_of(installed, found, reason))

    def regrow(
        self,
        installed: Installed,
        before: Placement,
        context_tokens: int,
        crashes: Iterable[Crash] = (),
    ) -> Placement:
        """The same place with a larger window. ``crashes``: what came of taking so much before.

        Raises:
            NoRoom: what it takes more is not free.
            ModelLoadFailed: about as much has ended the service before.
        """
        after = _placement(installed, before.device, replace(before.tuning, context=context_tokens))
        for crash in crashes:
            if after.plan.total_bytes > safer_bytes(crash.least_bytes):
                raise ModelLoadFailed(f"{crash}; {_HOW_TO_FORGET}")
        more = MemoryPlan(
            weights_bytes=0,
            kv_bytes=after.plan.kv_bytes - before.plan.kv_bytes,
            compute_bytes=after.plan.compute_bytes - before.plan.compute_bytes,
            scratch_bytes=after.plan.scratch_bytes - before.plan.scratch_bytes,
            margin_bytes=after.plan.margin_bytes,
        )
        free_bytes = self.devices.free_bytes(installed.entry.settings.device)
        refused = _refusal(installed, more, free_bytes)
        if refused is not None:
            raise _no_room(installed, refused, more, free_bytes or 0, {})
        reason = before.reduced and before.reduced.reason
        return replace(after, reduced=reduced_of(installed, after.tuning, reason) if reason else None)


def wished_of(installed: Installed) -> Tuning:
    """What the settings say."""
    settings = installed.entry.settings
    return Tuning(
        settings.draft, settings.batch, settings.kv_type, installed.window_tokens, settings.gpu_layers
    )


def steps_of(installed: Installed, wished: Tuning) -> Ladders:
    """What may be given up: nothing that the user has set, and of a model that embeds nothing but tokens."""
    settings = installed.entry.settings
    if settings.fit == "off":
        return {}
    on_gpu = settings.device != "cpu"
    out_of_question = {"draft", "kv_type"} if installed.embeds else set()
    return ladders(
        installed.header,
        wished,
        flash_attention=uses_flash_attention(installed.header, settings.flash_attention, on_gpu=on_gpu),
        kept=settings.set_by_user | out_of_question,
        spills=settings.fit == "layers" and on_gpu,
    )


def safer_of(installed: Installed, wished: Tuning, steps: Ladders, needs: Needs, crash: Crash) -> Tuning:
    """The best that leaves away enough of what ended the service."""
    safer = None
    if crash.times < MOST_CRASHES:
        safer = fitting_plan(wished, steps, needs, safer_bytes(crash.least_bytes))
    if safer is not None:
        return safer
    if crash.shared and crash.times == 1:
        # Perhaps it had no part in it: a model that nothing can be taken from is not refused for that.
        return wished
    entry = installed.entry
    raise ModelLoadFailed(
        f"model '{entry.name.display}' is not loaded again: {crash}, and no more of it may be given up. "
        f"Lower {entry.section}.context or what else it sets, or choose a smaller GGUF; {_HOW_TO_FORGET}"
    )


def _placement(installed: Installed, device: str, tuning: Tuning) -> Placement:
    plan = _plan(installed, device, tuning)
    if device == "CPU":
        return Placement(device, tuning, plan, plan.total_bytes - plan.margin_bytes)
    beside = plan_beside_gpu(installed.header, shape_of(installed, tuning))
    return Placement(device, tuning, plan, beside.total_bytes)


def _plan(installed: Installed, device: str, tuning: Tuning) -> MemoryPlan:
    margin_bytes = installed.entry.settings.memory_margin_mib * MIB
    plan_for = plan_host_memory if device == "CPU" else plan_memory
    return plan_for(installed.header, shape_of(installed, tuning), margin_bytes=margin_bytes)


def shape_of(installed: Installed, tuning: Tuning) -> Shape:
    """What the model is loaded with, as far as memory depends on it."""
    settings = installed.entry.settings
    if installed.embeds:
        batch_tokens, sequences = embedding_batch(installed.header, tuning.batch, tuning.context)
        context_tokens, output_tokens = max(tuning.context, batch_tokens), batch_tokens
    else:
        context_tokens, batch_tokens = tuning.context, tuning.batch
        sequences, output_tokens = sequences_of(settings.slots), logit_rows(settings.slots, tuning.draft)
    return Shape(
        context_tokens=context_tokens,
        batch_tokens=batch_tokens,
        output_tokens=output_tokens,
        sequences=sequences,
        kv_type=tuning.kv_type,
        flash_attention=settings.flash_attention,
        gpu_layers=tuning.gpu_layers,
        embeds=installed.embeds,
    )


def _refusal(installed: Installed, plan: MemoryPlan, free_bytes: int | None) -> str | None:
    return refusal(plan, free_bytes, installed.entry.settings.device, installed.entry.section)


def _no_room(
    installed: Installed, refused: str, smallest: MemoryPlan, free_bytes: int, steps: Ladders
) -> NoRoom:
    text = f"model '{installed.entry.name.display}' {refused}"
    if steps:
        given_up = ", ".join(f"{name} = {ladder[0]}" for name, ladder in steps.items())
        text += f". Even with {given_up} it needs {-(-smallest.total_bytes // MIB)} MiB ({smallest})"
    return NoRoom(text, smallest.total_bytes - free_bytes)


def reduced_of(installed: Installed, tuning: Tuning, reason: str) -> Reduced | None:
    """Where ``tuning`` falls short of the settings; None: nowhere. A window may have grown beyond them."""
    wished = wished_of(installed)
    wished = replace(wished, context=max(wished.context, tuning.context))
    section = installed.entry.section
    given_up = tuple(replace(one, setting=f"{section}.{one.setting}") for one in changes(wished, tuning))
    return Reduced(reason, given_up) if given_up else None
