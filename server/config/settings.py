"""The settings tree: what can be set, what it means, what is allowed and what it is by default."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from server.config.addresses import check_listen, check_origins, split_address
from server.config.checks import MOST_TOKENS, check_keep_alive, conflict, file_or_unset, folder_or_unset
from server.config.model_settings import ModelSettings


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
        le=MOST_TOKENS,
        description="Longest answer in tokens, whatever a request asks for; 0 leaves it to the context "
        "window.",
    )


class RouterSettings(BaseModel, frozen=True, extra="forbid"):
    """When the helper shortens a chat, and how much."""

    strategy_a_max: int = Field(
        default=2000,
        strict=True,
        ge=0,
        le=MOST_TOKENS,
        description="A chat with fewer tokens that may be shortened, and that the generator has not read "
        "before, is answered by the generator alone (strategy A).",
    )
    strategy_b_max: int = Field(
        default=6000,
        strict=True,
        ge=0,
        le=MOST_TOKENS,
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
        le=MOST_TOKENS,
        description="Largest size in MiB of the helper's summaries in cache_dir, which are made once for "
        "each chat; those used longest ago go first, and 0 keeps none.",
    )
    originals_mib: int = Field(
        default=32,
        strict=True,
        ge=0,
        le=MOST_TOKENS,
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
        le=MOST_TOKENS,
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
        le=MOST_TOKENS,
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
            raise conflict("strategy_b_max", "must not be below", "strategy_a_max")
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

    listen: Annotated[tuple[str, ...], AfterValidator(check_listen)] = Field(
        default=("127.0.0.1:8512",),
        description="Addresses to listen on, each host:port, such as 127.0.0.1:8512 or [::1]:8512; "
        "several may stand side by side, and in the environment variable commas may part them. "
        "Port 0 takes a free one.",
    )
    origins: Annotated[tuple[str, ...], AfterValidator(check_origins)] = Field(
        default=(),
        description="Origins of web pages that may ask this server, such as https://chat.example.org, beside "
        "those of this machine, of apps and of VS Code; * stands for any text. In the environment variable "
        "commas may part them.",
    )
    keys_file: Annotated[Path | None, BeforeValidator(file_or_unset)] = Field(
        default=None,
        description="TOML file with the keys of those who may ask, a table for each (see docs/security.md); "
        "empty is no keys: then whoever reaches the server may use it, and this machine administers it. "
        "A relative path in a file is taken from that file's folder, and ~ is the home folder.",
    )
    models_dir: Annotated[Path | None, BeforeValidator(folder_or_unset)] = Field(
        default=None,
        description="Folder of the GGUF files, in which pulled and created models land too; any other GGUF "
        "in it is served under the name of its file. Empty is the folder models beside the package. "
        "A relative path in a file is taken from that file's folder, and ~ is the home folder.",
    )
    cache_dir: Annotated[Path | None, BeforeValidator(folder_or_unset)] = Field(
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
    keep_alive: Annotated[str, BeforeValidator(check_keep_alive)] = Field(
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
    capture_dir: Annotated[Path | None, BeforeValidator(folder_or_unset)] = Field(
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
            raise conflict("helper.name", "must be another model than", "generator.name")
        return self


def _full_name(name: str) -> str:
    folded = name.casefold()
    return folded if ":" in folded.rpartition("/")[2] else f"{folded}:latest"
