"""The settings of one model."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from server.config.addresses import check_url
from server.config.checks import (
    MOST_TOKENS,
    check_abilities,
    check_keep_alive,
    check_model_name,
    check_path,
    conflict,
    file_or_unset,
)
from server.config.devices import (
    check_device,
    check_devices,
    check_shares,
    is_rpc,
    literal_address,
    names_a_card,
    refusal_of_public,
    split_endpoint,
)
from server.config.durations import parse_duration


class ModelSettings(BaseModel, frozen=True, extra="forbid"):
    """One model: which file it is, where it runs and how many requests it takes."""

    name: Annotated[str, AfterValidator(check_model_name)] = Field(
        description="Name that clients use for this model, as [host/][namespace/]model[:tag]. "
        "Without a tag it is the tag latest."
    )
    path: Annotated[Path, BeforeValidator(check_path)] = Field(
        description="The GGUF file. A relative path is taken from models_dir, and ~ is the home folder."
    )
    device: Annotated[str, AfterValidator(check_device)] = Field(
        description='Where the model runs: "cpu"; "cuda:N" for the CUDA device number N, such as "cuda:0"; '
        'an NVIDIA card by its UUID ("GPU-...") or PCI address ("0000:01:00.0"); or "vulkan:N" or "sycl:N" '
        "with a llama-cpp-python that was built for them.",
    )
    devices: Annotated[tuple[str, ...], AfterValidator(check_devices)] = Field(
        default=(),
        description="All devices that share the model, where one is too small: the first is of this machine "
        'and need not be written as device, too; the others are as well, or "rpc://HOST:PORT" for '
        "llama.cpp's ggml-rpc-server on another machine (see docs/rpc.md). Empty is device alone.",
    )
    device_shares: Annotated[tuple[int, ...], AfterValidator(check_shares)] = Field(
        default=(),
        description="How the layers are shared out, a number for each of devices: [1, 3] gives the second "
        "three quarters. Empty goes by what each has free.",
    )
    rpc_public: bool = Field(
        default=False,
        strict=True,
        description="Whether devices may name rpc servers on public addresses. Their protocol knows neither "
        "keys nor encryption: see docs/rpc.md before you set it.",
    )
    rpc_patience_s: int = Field(
        default=120,
        strict=True,
        ge=5,
        le=86_400,
        description="How long in seconds one step of a model that is split over rpc servers may take; after "
        "that they count as lost, and the service ends so that its supervisor starts it again.",
    )
    context: int = Field(
        strict=True,
        ge=256,
        le=MOST_TOKENS,
        description="Context window in tokens: prompt and answer together must fit into it.",
    )
    gpu_layers: int = Field(
        default=-1,
        strict=True,
        ge=-1,
        le=10_000,
        description="How many of the model's layers are kept on the CUDA device; -1 is all of them.",
    )
    kv_type: Literal["f16", "q8_0", "q4_0"] = Field(
        default="f16",
        description="Number format of the attention cache (KV). "
        "q8_0 takes about half of the memory of f16, and q4_0 about a quarter, at some loss of quality.",
    )
    flash_attention: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="FlashAttention, which takes less memory; auto is on wherever llama.cpp can. "
        "On the CPU, off makes the answer to one long chat faster, and several chats at once slower. "
        "A kv_type other than f16 needs it.",
    )
    threads: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=1024,
        description="CPU threads that compute for this model; 0 is one for each usable core.",
    )
    keep_alive: Annotated[str, BeforeValidator(check_keep_alive)] = Field(
        default="-1",
        description="How long the model stays loaded after its last request: a duration such as "
        '"5m" or "1h30m", or a number of seconds. Negative keeps it loaded for ever, '
        "and 0 unloads it at once.",
    )
    preload: bool = Field(
        default=True,
        strict=True,
        description="Load the model when the service starts; otherwise its first request does.",
    )
    slots: int = Field(
        default=8, strict=True, ge=1, le=64, description="How many answers are generated at the same time."
    )
    queue: int = Field(
        default=64,
        strict=True,
        ge=0,
        le=100_000,
        description="How many requests may wait for a slot; one more is refused with status 503.",
    )
    batch: int = Field(
        default=512,
        strict=True,
        # More than the most slots: each answer takes one token of a step, and prompts need room beside.
        ge=128,
        le=4096,
        description="How many prompt tokens are read in one step. "
        "More reads long prompts faster and takes more device memory.",
    )
    stall_ms: int = Field(
        default=250,
        strict=True,
        ge=10,
        le=60_000,
        description="Longest time in milliseconds that reading a new prompt should hold up the answers that "
        "are being generated: the prompt is read in pieces of about this length.",
    )
    draft: int = Field(
        default=63,
        strict=True,
        ge=0,
        le=64,
        description="Most tokens that are guessed at once when an answer repeats its prompt, and checked in "
        "one step; 0 switches it off. The text stays the same. More takes more device memory: "
        "4 bytes for each token of the vocabulary.",
    )
    host_cache_mib: int = Field(
        default=1024,
        strict=True,
        ge=0,
        le=MOST_TOKENS,
        description="Host memory in MiB for finished conversations that had to leave the device's memory, so "
        "that they need not be read again; 0 is none.",
    )
    memory_margin_mib: int = Field(
        strict=True,
        ge=0,
        le=MOST_TOKENS,
        description="Device memory in MiB that must stay free once the model is loaded. When other programs "
        "leave less than half of it, new work waits, and idle models are unloaded.",
    )
    fit: Literal["auto", "layers", "off"] = Field(
        default="auto",
        description="What to do when the device has too little free memory: auto gives up what you have not "
        "set, in the order draft, batch, kv_type, context; layers puts layers on the CPU, too, where that is "
        "not enough; off refuses to load the model. The log, /api/ps and /health/gpu say what was given up.",
    )
    policy: Literal["auto", "direct", "thresholds", "agent", "adaptive", "one-pass", "map-reduce"] = Field(
        default="direct",
        description="How chats with this model are routed: thresholds goes by the router's strategy_a_max "
        "and strategy_b_max; agent touches nothing until a chat outgrows the context window, and then "
        "shortens old tool results; auto is agent for coding agents and thresholds for all others; "
        "adaptive is agent likewise, and for others whatever gives the first token soonest; direct "
        "shortens nothing; one-pass and map-reduce shorten whatever may be. A request may ask for another "
        "by the header X-LLM-Optimizer-Policy.",
    )

    remote_url: Annotated[str, AfterValidator(check_url)] = Field(
        default="",
        description="Base URL of the server that runs this model elsewhere, such as "
        "http://192.168.1.20:8080/v1; empty: the model runs here. With it, nothing is loaded, and of the "
        "settings of this section count only name, context, slots, queue, policy and those that begin with "
        "remote_ (see docs/remote.md).",
    )
    remote_api: Literal["openai", "ollama"] = Field(
        default="openai",
        description="What the server at remote_url speaks: openai (vLLM, SGLang, llama-server, llm-optimizer "
        "and paid services; /v1 is put behind a URL that has no path), or ollama.",
    )
    remote_model: str = Field(
        default="", description="The model's name at remote_url; empty is the same name as here."
    )
    remote_key_file: Annotated[Path | None, BeforeValidator(file_or_unset)] = Field(
        default=None,
        description="File that holds the API key for remote_url and nothing else, which only this service's "
        "user may read; empty is no key. A relative path in a file is taken from that file's folder, and ~ "
        "is the home folder.",
    )
    remote_abilities: Annotated[tuple[str, ...], AfterValidator(check_abilities)] = Field(
        default=("tools",),
        description="What the model at remote_url can do beside chats: any of tools, thinking and insert. In "
        "the environment variable commas may part them.",
    )
    remote_count: Literal["auto", "estimate"] = Field(
        default="auto",
        description="How prompts for remote_url are counted: auto asks the server itself where it can "
        "(llm-optimizer, llama-server, vLLM, SGLang), which sends each prompt twice; estimate goes by their "
        "length.",
    )
    remote_first_token_s: int = Field(
        default=300,
        strict=True,
        ge=1,
        le=86_400,
        description="How long in seconds the server at remote_url may take until an answer's first token.",
    )
    remote_silence_s: int = Field(
        default=60,
        strict=True,
        ge=1,
        le=86_400,
        description="How long in seconds an answer from remote_url may stand still after its first token.",
    )
    remote_retries: int = Field(
        default=2,
        strict=True,
        ge=0,
        le=20,
        description="How often a request to remote_url is sent again that failed before its first token.",
    )

    @model_validator(mode="after")
    def _check_attention(self) -> Self:
        if self.flash_attention == "off" and self.kv_type != "f16":
            raise conflict("flash_attention", 'must be "auto" or "on" with', "kv_type")
        return self

    @model_validator(mode="after")
    def _check_split(self) -> Self:
        if self.devices and self.devices[0] != self.device:
            raise conflict("devices", "must begin with", "device")
        if self.device_shares and len(self.device_shares) != max(len(self.devices), 1):
            raise conflict("device_shares", "must hold a number for each of", "devices")
        if self.is_split and self.gpu_layers >= 0:
            raise conflict(
                "gpu_layers", "must be -1, for device_shares says who gets how much, with", "devices"
            )
        if self.is_split and self.fit == "layers":
            raise conflict("fit", 'must be "auto" or "off", for the CPU may be one of them, with', "devices")
        for device in self.rpc_servers:
            address = literal_address(split_endpoint(device)[0])
            refused = address and not self.rpc_public and refusal_of_public(device, address)
            if refused:
                raise conflict("devices", f"{refused}; now it is", "rpc_public")
        return self

    @property
    def is_split(self) -> bool:
        """Whether several devices share the model."""
        return len(self.devices) > 1 and not self.is_elsewhere

    @property
    def places(self) -> tuple[str, ...]:
        """The devices that have a part of the model."""
        return self.devices or (self.device,)

    @property
    def rpc_servers(self) -> tuple[str, ...]:
        """Those of them that are rpc servers."""
        return tuple(device for device in self.devices if is_rpc(device))

    @property
    def places_here(self) -> tuple[str, ...]:
        """Those of them that are of this machine."""
        return tuple(device for device in self.places if not is_rpc(device))

    @property
    def is_elsewhere(self) -> bool:
        """Whether another server runs the model."""
        return bool(self.remote_url)

    @property
    def is_preloaded(self) -> bool:
        """Whether the model is loaded when the service starts."""
        return self.preload and not self.is_elsewhere

    @property
    def where(self) -> str:
        """Where the model runs, for people."""
        return self.remote_url or " + ".join(self.places)

    @property
    def names_a_card(self) -> bool:
        """Whether one of ``places`` is the UUID or the PCI address of a card."""
        return any(names_a_card(device) for device in self.places)

    @property
    def set_by_user(self) -> frozenset[str]:
        """The settings that are no mere defaults, as :meth:`with_set` was told."""
        return frozenset(self.model_fields_set)

    def with_set(self, names: Collection[str]) -> Self:
        """The same settings, of which ``names`` count as set by the user, and no others."""
        return self.model_construct(set(names), **dict(self))

    @property
    def keep_alive_s(self) -> float:
        """``keep_alive`` in seconds; infinity for a model that stays loaded."""
        return parse_duration(self.keep_alive)
