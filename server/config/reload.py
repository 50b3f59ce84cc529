"""What a reload may change while the service runs, and what it only can tell of."""

from dataclasses import dataclass
from typing import Any

from server.config.options import OPTIONS, toml_text
from server.config.settings import Settings

RELOADABLE = frozenset(
    {
        "keep_alive",
        "drain_s",
        "log_level",
        "keys_file",
        "limits.body_mib",
        "limits.requests",
        "limits.answer_tokens",
        "generator.policy",
        "helper.policy",
        "router.strategy_a_max",
        "router.strategy_b_max",
        "router.token_estimator",
        "router.ahead_of_need",
        "router.summaries_by_helper",
        "router.max_ctx_size",
        "router.helper_timeout_s",
        "router.chunk_tokens",
        "router.summary_chars_max",
    }
)
"""Settings that are looked up at each use; all others have their effect at the start."""


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that has another value now."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key} = {toml_text(self.after)} (was {toml_text(self.before)})"


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The tree to go on with: the old one with the ``changed`` settings. ``waiting`` ones need a restart."""

    settings: Settings
    changed: tuple[Change, ...]
    waiting: tuple[Change, ...]


def reloaded(now: Settings, wanted: Settings) -> Reloaded:
    """What becomes of ``now`` when all is read again and comes out as ``wanted``."""
    changes = [
        Change(key, before, after)
        for key in OPTIONS
        if (before := _value(now, key)) != (after := _value(wanted, key))
    ]
    changed = tuple(change for change in changes if change.key in RELOADABLE)
    waiting = tuple(change for change in changes if change.key not in RELOADABLE)
    settings = now
    for change in changed:
        settings = _with(settings, change.key, change.after)
    return Reloaded(settings, changed, waiting)


def _value(settings: Settings, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(settings, section) if section else settings, name)


def _with(settings: Settings, key: str, value: Any) -> Settings:
    section, _, name = key.rpartition(".")
    if not section:
        return settings.model_copy(update={name: value})
    part = getattr(settings, section).model_copy(update={name: value})
    return settings.model_copy(update={section: part})
