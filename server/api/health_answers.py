"""What ``/health`` and its like answer, as the schema in ``/openapi.json``. Null is what nobody knows."""

import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from server.catalogue import Role
from server.engine.figures import Figures
from server.engine.looks import CacheTiers

Bytes = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Health(BaseModel):
    """For whoever watches."""

    status: Literal["ok", "error"]
    faults: dict[str, str] = Field(
        default_factory=dict, description="Models whose engine broke down, and why."
    )
    lost: dict[str, str] = Field(
        default_factory=dict,
        description="Models whose rpc servers ended the service, until they are loaded again, and why. All "
        "others answer.",
    )


class Ready(BaseModel):
    """For whoever sends requests."""

    ready: bool
    not_loaded: list[str] = Field(description="Models that are loaded at the start and are not there yet.")
    faults: dict[str, str]


class Process(BaseModel):
    """Who uses a card."""

    pid: int
    name: str | None
    memory_bytes: Bytes | None
    ours: bool = Field(description="It is this service.")


class Margin(BaseModel):
    """The memory of a device that has models on it."""

    level: Literal["calm", "wait", "rest", "spill", "leave"] = Field(
        description="calm: enough is free. wait: new work waits. rest: reading ahead stops, too. spill: "
        "finished conversations go to host memory, too. leave: models that nobody uses are unloaded, too."
    )
    free_bytes: Bytes | None
    margin_bytes: Bytes = Field(description="What memory_margin_mib says should stay free.")
    fault: str | None = Field(description="Why the device cannot be used: requests for it are refused.")


class CardPlan(BaseModel):
    """What was planned for the models on a card, against what the service takes of it."""

    planned_bytes: Bytes
    actual_bytes: Bytes | None = Field(description="As the driver says: with what CUDA takes for itself.")
    difference_bytes: int | None


class Card(BaseModel):
    """An NVIDIA card."""

    index: int = Field(description="As nvidia-smi counts.")
    device: str | None = Field(description='As the settings call it: "cuda:0".')
    uuid: str | None
    pci_bus_id: str | None
    name: str | None
    compute_capability: str | None
    memory_total_bytes: Bytes | None
    memory_used_bytes: Bytes | None
    memory_free_bytes: Bytes | None
    memory_own_bytes: Bytes | None = Field(description="Taken by this service.")
    memory_others_bytes: Bytes | None = Field(description="Taken by others, the driver included.")
    plan: CardPlan | None = Field(
        description="Null where it is not known which device of the settings it is."
    )
    margin: Margin | None = Field(description="Null where no model is on it, or it is not known which it is.")
    models: list[str]
    processes: list[Process] | None
    utilisation_percent: int | None
    temperature_c: int | None
    power_w: float | None
    power_limit_w: float | None
    clock_mhz: int | None
    clock_max_mhz: int | None
    memory_clock_mhz: int | None
    memory_clock_max_mhz: int | None
    clock_reasons: list[str] | None = Field(description="Why the clocks are below their maximum.")
    fault: str | None = Field(description="Why the card cannot be used.")


class GivenUp(BaseModel):
    """A setting that gave way."""

    setting: str
    wished: int | str
    planned: int | str
    effect: str


class Reduced(BaseModel):
    """What a model does without."""

    reason: str
    settings: list[GivenUp]


class ModelPlan(BaseModel):
    """The memory that was planned for a model."""

    weights_bytes: Bytes
    kv_bytes: Bytes
    compute_bytes: Bytes
    output_bytes: Bytes
    scratch_bytes: Bytes
    device_bytes: Bytes = Field(description="What of all these lies on the device.")
    margin_bytes: Bytes
    host_bytes: Bytes = Field(description="Host memory of a model on a card; 0 for one on the CPU.")


class SplitPart(BaseModel):
    """What a device has of a model that several share."""

    device: str = Field(description="As the settings call it.")
    number: int | None = Field(description="Which one behind an rpc server that has several.")
    layers: int = Field(description="The output counts as one.")
    bytes: Bytes
    free_bytes: Bytes | None = Field(description="What the device had free before.")


class LoadedModel(BaseModel):
    """A loaded model and its engine."""

    name: str
    role: Role | None
    device: str
    expires_at: datetime.datetime | None = Field(description="When it is unloaded; null: it stays.")
    slots: int
    running: int
    queued: int
    context_tokens: int
    cells_in_use: int
    kept_sequences: int
    kept_tokens: int
    fault: str | None
    reduced: Reduced | None
    split: list[SplitPart] | None = Field(description="Null for a model that one device has alone.")
    plan: ModelPlan
    cache: CacheTiers
    figures: Figures


class RemoteHealth(BaseModel):
    """A model that another server runs."""

    name: str
    role: Role | None
    host: str
    api: str
    model: str = Field(description="Its name there.")
    context_tokens: int
    slots: int
    running: int
    queued: int
    is_up: bool = Field(description="The server has answered, and did so the last time.")
    fault: str | None = Field(description="What went wrong the last time.")
    retry_in_s: float = Field(description="After failures in a row it is left alone for so long.")
    seen_at: datetime.datetime | None = Field(description="When it answered last.")
    counts_exactly: bool = Field(description="It counts tokens for us; else they are estimated.")
    failures: int = Field(description="Tries that have failed since the start.")
    times_left_alone: int
    figures: Figures


class PastFault(BaseModel):
    """What went wrong."""

    at: datetime.datetime
    where: str = Field(description="A device, a model or the service.")
    text: str


class GpuHealth(BaseModel):
    """Cards, models, memory, and what went wrong lately."""

    available: bool = Field(description="Whether there are cards to tell of.")
    reason: str | None = Field(description="Why there are none, or why they are told of as they were.")
    seen_at: datetime.datetime | None = Field(description="When the cards were looked at.")
    devices: list[Card]
    models: list[LoadedModel]
    remote: list[RemoteHealth] = Field(description="Models that other servers run.")
    loading: dict[str, Share] = Field(description="The part of the weights that is there.")
    guard: dict[str, Margin] = Field(description="By device as the settings call it, the CPU included.")
    recent_faults: list[PastFault] = Field(description="The newest first, 50 at most.")
