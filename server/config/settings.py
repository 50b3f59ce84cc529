"""The settings tree: what can be set, what it means, what is allowed and what it is by default."""

import ipaddress
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from server.config.addresses import check_url
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
from server.config.durations import format_duration, parse_duration

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_MODEL_NAME = re.compile(
    r"([a-z]+://)?(([A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}/)?[A-Za-z0-9_][A-Za-z0-9_-]{0,79}/)?"
    rf"{_PART}(:{_PART})?"
)
_ORIGIN = re.compile(r"\*|[A-Za-z*][A-Za-z0-9+.*-]*://[^\s/]+")
_LARGEST_PORT = 65535
_MOST_TOKENS = 1_048_576
REMOTE_ABILITIES = ("tools", "thinking", "insert")
"""In Ollama's words."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; the brackets of an IPv6 host are taken off."""
    host, colon, port = address.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > _LARGEST_PORT:
        raise ValueError(_no_address(address))
    try:
        if host.startswith("[") and host.endswith("]"):
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        if re.fullmatch(r"[0-9.]+", host):
            return str(ipaddress.IPv4Address(host)), int(port)
    except ValueError:
        raise ValueError(_no_address(address)) from None
    if not _HOST.fullmatch(host):
        raise ValueError(_no_address(address))
    return host.lower(), int(port)


def _no_address(address: str) -> str:
    return f'"{address}" must be host:port, such as 127.0.0.1:8512 or [::1]:8512'


def _check_listen(addresses: tuple[str, ...]) -> tuple[str, ...]:
    if not addresses:
        raise ValueError("must hold at least one host:port")
    if len({split_address(address) for address in addresses}) < len(addresses):
        raise ValueError("must not hold the same address twice")
    return addresses


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    wrong = next((origin for origin in origins if not _ORIGIN.fullmatch(origin)), None)
    if wrong is not None:
        raise ValueError(f'must hold origins such as https://chat.example.org or "*", and "{wrong}" is none')
    return origins


def _check_model_name(name: str) -> str:
    if not _MODEL_NAME.fullmatch(name):
        raise ValueError("must be a model name, such as qwen3:1.7b or namespace/model:tag")
    return name


def _check_abilities(abilities: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [ability for ability in abilities if ability not in REMOTE_ABILITIES]
    if wrong:
        raise ValueError(f'must hold only {", ".join(REMOTE_ABILITIES)}, and "{wrong[0]}" is none of them')
    return tuple(dict.fromkeys(abilities))


def _check_keep_alive(value: Any) -> str:
    try:
        seconds = parse_duration(value)
    except (TypeError, ValueError):
        raise ValueError(
            'must be a duration such as "5m" or "1h30m", a number of seconds, or negative to stay loaded'
        ) from None
    return value if isinstance(value, str) else format_duration(seconds)


def _check_path(value: Any) -> Any:
    # An empty text would become the path ".", and a zero byte fails only when the file is opened.
    if isinstance(value, str | Path) and (str(value) in {"", "."} or "\0" in str(value)):
        raise ValueError("must be the path of a GGUF file")
    return value


def _empty_is_unset(value: Any) -> Any:
    return _path_or_unset(value, "folder")


def _file_or_unset(value: Any) -> Any:
    return _path_or_unset(value, "file")


def _path_or_unset(value: Any, kind: str) -> Any:
    if value == "":
        return None
    if isinstance(value, str | Path) and "\0" in str(value):
        raise ValueError(f"must be the path of a {kind}")
    return value


class ModelSettings(BaseModel, frozen=True, extra="forbid"):
    """One model: which file it is, where it runs and how many requests it takes."""

    name: Annotated[str, AfterValidator(_check_model_name)] = Field(
        description="Name that clients use for this model, as [host/][namespace/]model[:tag]. "
        "Without a tag it is the tag latest."
    )
    path: Annotated[Path, BeforeValidator(_check_path)] = Field(
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
        le=_MOST_TOKENS,
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
    keep_alive: Annotated[str, BeforeValidator(_check_keep_alive)] = Field(
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
        le=_MOST_TOKENS,
        description="Host memory in MiB for finished conversations that had to leave the device's memory, so "
        "that they need not be read again; 0 is none.",
    )
    memory_margin_mib: int = Field(
        strict=True,
        ge=0,
        le=_MOST_TOKENS,
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
    remote_key_file: Annotated[Path | None, BeforeValidator(_file_or_unset)] = Field(
        default=None,
        description="File that holds the API key for remote_url and nothing else, which only this service's "
        "user may read; empty is no key. A relative path in a file is taken from that file's folder, and ~ "
        "is the home folder.",
    )
    remote_abilities: Annotated[tuple[str, ...], AfterValidator(_check_abilities)] = Field(
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
            raise _conflict("flash_attention", 'must be "auto" or "on" with', "kv_type")
        return self

    @model_validator(mode="after")
    def _check_split(self) -> Self:
        if self.devices and self.devices[0] != self.device:
            raise _conflict("devices", "must begin with", "device")
        if self.device_shares and len(self.device_shares) != max(len(self.devices), 1):
            raise _conflict("device_shares", "must hold a number for each of", "devices")
        if self.is_split and self.gpu_layers >= 0:
            raise _conflict(
                "gpu_layers", "must be -1, for device_shares says who gets how much, with", "devices"
            )
        if self.is_split and self.fit == "layers":
            raise _conflict("fit", 'must be "auto" or "off", for the CPU may be one of them, with', "devices")
        for device in self.rpc_servers:
            address = literal_address(split_endpoint(device)[0])
            refused = address and not self.rpc_public and refusal_of_public(device, address)
            if refused:
                raise _conflict("devices", f"{refused}; now it is", "rpc_public")
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


class LimitSettings(BaseModel, frozen=True, extra="forbid"):
    """What one who asks may take; a key of keys_file may have limits of its own."""

    body_mib: int = Field(
        default=32,
        strict=True,
        ge=1,
        le=2048,
        description="Largest size in MiB of a request's body, as it comes and unpacked; files that are "
        "uploaded for a new model are not counted.",
    )
    requests: int = Field(
        default=256,
        strict=True,
        ge=1,
        le=100_000,
        description="How many requests of each key, or without keys of each client's address, are worked on "
        "or wait at the same time; one more is refused with status 429.",
    )
    answer_tokens: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=_MOST_TOKENS,
        description="Longest answer in tokens, whatever a request asks for; 0 leaves it to the context "
        "window.",
    )


class RouterSettings(BaseModel, frozen=True, extra="forbid"):
    """When the helper shortens a chat, and how much."""

    strategy_a_max: int = Field(
        default=2000,
        strict=True,
        ge=0,
        le=_MOST_TOKENS,
        description="A chat with fewer tokens that may be shortened, and that the generator has not read "
        "before, is answered by the generator alone (strategy A).",
    )
    strategy_b_max: int = Field(
        default=6000,
        strict=True,
        ge=0,
        le=_MOST_TOKENS,
        description="Up to so many of those tokens the helper shortens a chat in one pass (strategy B); "
        "a longer one is shortened piece by piece (strategy C). It must not be below strategy_a_max.",
    )
    token_estimator: Literal["tokenizer", "chars"] = Field(
        default="tokenizer",
        description="What the two thresholds are held against: tokens as the generator's tokenizer counts "
        "them, or the characters of the whole chat / 4.",
    )
    summaries_mib: int = Field(
        default=64,
        strict=True,
        ge=0,
        le=_MOST_TOKENS,
        description="Largest size in MiB of the helper's summaries in cache_dir, which are made once for "
        "each chat; those used longest ago go first, and 0 keeps none.",
    )
    originals_mib: int = Field(
        default=32,
        strict=True,
        ge=0,
        le=_MOST_TOKENS,
        description="Host memory in MiB for texts that were shortened, to be looked up at "
        "/api/router/original; 0 keeps none.",
    )
    ahead_of_need: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether the helper reads old tool results of long agent sessions while nobody waits for "
        "it, so that summaries are ready when the window is full; auto does so where it has a device of its "
        "own.",
    )
    summaries_by_helper: bool = Field(
        default=False,
        strict=True,
        description="Whether the helper itself answers programs that ask the generator for a summary, "
        "a title or a commit message.",
    )
    max_ctx_size: int = Field(
        default=32_768,
        strict=True,
        ge=256,
        le=_MOST_TOKENS,
        description="Largest context window in tokens that a request may ask for with num_ctx.",
    )
    helper_timeout_s: float = Field(
        default=60.0,
        strict=True,
        gt=0,
        le=86_400,
        description="Longest time in seconds that the helper may take to shorten a chat; "
        "after that the generator answers without it. Fractions are allowed.",
    )
    chunk_tokens: int = Field(
        default=3000,
        strict=True,
        ge=64,
        le=_MOST_TOKENS,
        description="Largest piece in tokens that strategy C hands to the helper at once. "
        "It must fit into the helper's context with its summary.",
    )
    summary_chars_max: int = Field(
        default=500,
        strict=True,
        ge=100,
        le=1_000_000,
        description="Longest summary, in characters, that the helper may write of one piece.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.strategy_b_max < self.strategy_a_max:
            raise _conflict("strategy_b_max", "must not be below", "strategy_a_max")
        return self


_GENERATOR = ModelSettings(
    name="qwen2.5-coder:7b",
    path=Path("qwen2.5-coder-7b-instruct-q4_k_m.gguf"),
    device="cuda:0",
    context=32_768,
    memory_margin_mib=256,
    policy="auto",
)
_HELPER = ModelSettings(
    name="qwen3:1.7b",
    path=Path("qwen3-1.7b-q4_k_m.gguf"),
    device="cuda:1",
    context=4096,
    kv_type="q8_0",
    slots=4,
    draft=0,
    memory_margin_mib=64,
)


class Settings(BaseModel, frozen=True, extra="forbid"):
    """All settings of the service, read at its start; some are read again by a reload."""

    listen: Annotated[tuple[str, ...], AfterValidator(_check_listen)] = Field(
        default=("127.0.0.1:8512",),
        description="Addresses to listen on, each host:port, such as 127.0.0.1:8512 or [::1]:8512; "
        "several may stand side by side, and in the environment variable commas may part them. "
        "Port 0 takes a free one.",
    )
    origins: Annotated[tuple[str, ...], AfterValidator(_check_origins)] = Field(
        default=(),
        description="Origins of web pages that may ask this server, such as https://chat.example.org, beside "
        "those of this machine, of apps and of VS Code; * stands for any text. In the environment variable "
        "commas may part them.",
    )
    keys_file: Annotated[Path | None, BeforeValidator(_file_or_unset)] = Field(
        default=None,
        description="TOML file with the keys of those who may ask, a table for each (see docs/security.md); "
        "empty is no keys: then whoever reaches the server may use it, and this machine administers it. "
        "A relative path in a file is taken from that file's folder, and ~ is the home folder.",
    )
    models_dir: Annotated[Path | None, BeforeValidator(_empty_is_unset)] = Field(
        default=None,
        description="Folder of the GGUF files, in which pulled and created models land too; any other GGUF "
        "in it is served under the name of its file. Empty is the folder models beside the package. "
        "A relative path in a file is taken from that file's folder, and ~ is the home folder.",
    )
    cache_dir: Annotated[Path | None, BeforeValidator(_empty_is_unset)] = Field(
        default=None,
        description="Folder for system prompts that were read once, so that they need not be read again "
        "after a restart, and for notes of what ended the service; empty is the folder llm-optimizer in the "
        "user's cache folder. It holds the prompts' text. "
        "A relative path in a file is taken from that file's folder, and ~ is the home folder.",
    )
    disk_cache_mib: int = Field(
        default=4096,
        strict=True,
        ge=0,
        le=1_073_741_824,
        description="Largest size of the prompts in cache_dir in MiB; the least recently used go first, and "
        "0 keeps none.",
    )
    keep_alive: Annotated[str, BeforeValidator(_check_keep_alive)] = Field(
        default="5m",
        description="How long a model beside the two stays loaded after its last request; written as "
        "generator.keep_alive is.",
    )
    drain_s: int = Field(
        default=30,
        strict=True,
        ge=0,
        le=86_400,
        description="How long in seconds answers under way may go on after SIGTERM, while new requests are "
        "refused with status 503; 0 ends them at once, and so does a second signal, or Ctrl-C.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important messages that are still logged."
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="How messages are written: text is a line for people, json an object in a line, with the "
        "figures of each request as keys of their own.",
    )
    capture_dir: Annotated[Path | None, BeforeValidator(_empty_is_unset)] = Field(
        default=None,
        description="Folder in which each request that is answered by a model is kept as it came, to be "
        "replayed; empty keeps none. The files hold the prompts, only this service's user may read them, and "
        "keys in their headers are blanked. A relative path in a file is taken from that file's folder.",
    )
    capture_mib: int = Field(
        default=256,
        strict=True,
        ge=1,
        le=1_073_741_824,
        description="Largest size of capture_dir in MiB; the oldest requests go first.",
    )
    generator: ModelSettings = Field(default=_GENERATOR, description="The big model: it writes the answers.")
    helper: ModelSettings = Field(
        default=_HELPER, description="The small model: it shortens what the generator must read."
    )
    limits: LimitSettings = Field(
        default=LimitSettings(),
        description="What one who asks may take. A key of keys_file may have limits of its own.",
    )
    router: RouterSettings = Field(
        default=RouterSettings(), description="When the helper shortens a chat, and how much."
    )

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """``listen`` as hosts, without brackets, and ports."""
        return tuple(split_address(address) for address in self.listen)

    @property
    def resolved_models_dir(self) -> Path:
        """The folder of the GGUF files, whether it was set or not."""
        return self.models_dir or Path(__file__).resolve().parents[2] / "models"

    @property
    def has_split_models(self) -> bool:
        """Whether several devices share a model."""
        return self.generator.is_split or self.helper.is_split

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if _full_name(self.generator.name) == _full_name(self.helper.name):
            raise _conflict("helper.name", "must be another model than", "generator.name")
        return self


def _full_name(name: str) -> str:
    folded = name.casefold()
    return folded if ":" in folded.rpartition("/")[2] else f"{folded}:latest"


def _conflict(key: str, rule: str, other: str) -> PydanticCustomError:
    """A fault between two settings of a section, in parts: the loader adds where each value came from."""
    return PydanticCustomError("conflict", "{key} {rule} {other}", {"key": key, "rule": rule, "other": other})
