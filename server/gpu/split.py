"""How the layers of a model are shared out over several devices: pure."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from server.engine.gguf.header import GgufHeader
from server.gpu.compute import Shape
from server.gpu.plan import MemoryPlan, plan_beside_split, plan_layers

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Place:
    """A device that is to have a part: its name in the settings, what it has free (None: nobody knows), and
    what must stay free. ``on_gpu`` None: it is not known what computes there. ``share`` is its part by the
    settings; None: it goes by what is free. ``is_host``: tokens go in and come out here. ``number`` tells the
    devices of an rpc server apart that has more than one."""

    device: str
    free_bytes: int | None
    margin_bytes: int
    on_gpu: bool | None
    share: float | None = None
    is_host: bool = False
    number: int | None = None

    def __str__(self) -> str:
        return self.device if self.number is None else f"{self.device} (device {self.number})"


@dataclass(frozen=True, slots=True)
class Part:
    """So many ``layers`` of a model on a device, the output counting as one, and what that takes."""

    place: Place
    layers: int
    plan: MemoryPlan

    @property
    def device(self) -> str:
        """Its name in the settings."""
        return self.place.device

    @property
    def taken_bytes(self) -> int:
        """What it takes, without the margin."""
        return self.plan.taken_bytes

    @property
    def missing_bytes(self) -> int:
        """What the device has too little; 0 where it fits, or nobody knows."""
        free_bytes = self.place.free_bytes
        return 0 if free_bytes is None else max(self.plan.total_bytes - free_bytes, 0)

    def __str__(self) -> str:
        layers = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        return f"{self.place} {layers}, {-(-self.taken_bytes // _MIB)} MiB"


def split(header: GgufHeader, shape: Shape, places: Sequence[Place]) -> tuple[Part, ...]:
    """A part for each of ``places``, in their order, which is that of the layers.

    By the settings' shares, or else by the room that each has beside its margin and buffers; where a device
    has too little for that, each one after the other takes what it can. Some part may not fit all the same.
    """
    bounds = _by_weights(header, shape, places)
    parts = _parts(header, shape, places, bounds)
    if not any(part.missing_bytes for part in parts) or any(place.share is not None for place in places):
        return parts
    filled = _parts(header, shape, places, _filled(header, shape, places))
    return parts if any(part.missing_bytes for part in filled) else filled


def shortage(parts: Sequence[Part]) -> Part | None:
    """The part that lacks most; None where all fit."""
    worst = max(parts, key=lambda part: part.missing_bytes)
    return worst if worst.missing_bytes else None


def refusal_of_split(parts: Sequence[Part], setting: str) -> str:
    """Why they do not fit, with the numbers of each device, and the remedy."""
    return (
        f"does not fit its devices: {', '.join(map(_in_numbers, parts))}; lower {setting}.context, add a "
        f"device to {setting}.devices, or choose a smaller GGUF"
    )


def _in_numbers(part: Part) -> str:
    free_bytes = part.place.free_bytes
    free = "nobody knows what is free" if free_bytes is None else f"{free_bytes // _MIB} MiB are free"
    needed_mib = -(-part.plan.total_bytes // _MIB)
    return f"{part.place} needs {needed_mib} MiB for {part.layers} layers ({part.plan}) and {free}"


def _parts(
    header: GgufHeader, shape: Shape, places: Sequence[Place], bounds: Sequence[int]
) -> tuple[Part, ...]:
    """``bounds``: the first layer that each place no longer has."""
    starts = (0, *bounds)
    ranges = [range(start, end) for start, end in zip(starts, bounds, strict=False)]
    return tuple(
        Part(place, len(layers), _plan(header, shape, place, layers))
        for place, layers in zip(places, ranges, strict=True)
    )


def _plan(header: GgufHeader, shape: Shape, place: Place, layers: range) -> MemoryPlan:
    plan = plan_layers(header, shape, layers, margin_bytes=place.margin_bytes, on_gpu=place.on_gpu)
    if not place.is_host:
        return plan
    beside = plan_beside_split(header, shape)
    return replace(
        plan,
        weights_bytes=plan.weights_bytes + beside.weights_bytes,
        compute_bytes=max(plan.compute_bytes, beside.compute_bytes),
        output_bytes=beside.output_bytes,
    )


def _by_weights(header: GgufHeader, shape: Shape, places: Sequence[Place]) -> tuple[int, ...]:
    """Each layer goes where its middle lies, on a line on which each place has its weight."""
    weights = _weights(header, shape, places)
    ends = list(accumulate(weights))
    costs = [_plan_of(header, shape, layer) for layer in range(_count(header))]
    unit = ends[-1] / sum(costs)
    middles = [(end - cost / 2) * unit for end, cost in zip(accumulate(costs), costs, strict=True)]
    owners = [min(bisect_right(ends, middle), len(places) - 1) for middle in middles]
    return tuple(sum(owner <= number for owner in owners) for number in range(len(places)))


def _weights(header: GgufHeader, shape: Shape, places: Sequence[Place]) -> list[float]:
    if any(place.share is not None for place in places):
        return [place.share or 0 for place in places]
    buffers = [_plan(header, shape, place, range(1)).computing_bytes for place in places]
    rooms = [
        None if place.free_bytes is None else max(place.free_bytes - place.margin_bytes - buffer_bytes, 0)
        for place, buffer_bytes in zip(places, buffers, strict=True)
    ]
    usual = max((room for room in rooms if room is not None), default=0) or 1
    weights = [float(usual if room is None else room) for room in rooms]
    return weights if any(weights) else [1.0] * len(places)


def _filled(header: GgufHeader, shape: Shape, places: Sequence[Place]) -> tuple[int, ...]:
    """Each place takes as much as fits, the last one all that is left."""
    bounds: list[int] = []
    start, count = 0, _count(header)
    for place in places:
        end = start
        while (
            end < count
            and Part(place, 1, _plan(header, shape, place, range(start, end + 1))).missing_bytes == 0
        ):
            end += 1
        bounds.append(end)
        start = end
    bounds[-1] = count
    return tuple(bounds)


def _plan_of(header: GgufHeader, shape: Shape, layer: int) -> int:
    plan = plan_layers(header, shape, range(layer, layer + 1), margin_bytes=0, on_gpu=True)
    return max(plan.weights_bytes + plan.kv_bytes, 1)


def _count(header: GgufHeader) -> int:
    return (header.block_count or 0) + 1
