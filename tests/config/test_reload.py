"""What a reload may change."""

from typing import Any

import pytest

from server.config import Settings, load_settings, reloaded
from server.config.options import OPTIONS
from server.config.reload import RELOADABLE


def settings(**flags: Any) -> Settings:
    return load_settings(None, {}, flags)


def test_every_reloadable_setting_is_one() -> None:
    assert set(OPTIONS) >= RELOADABLE


def test_without_a_change_there_is_none() -> None:
    outcome = reloaded(settings(), settings())
    assert (outcome.settings, outcome.changed, outcome.waiting) == (settings(), (), ())


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"log_level": "debug"}, 'log_level = "debug" (was "info")'),
        ({"router": {"strategy_a_max": 5}}, "router.strategy_a_max = 5 (was 2000)"),
        ({"generator": {"policy": "direct"}}, 'generator.policy = "direct" (was "auto")'),
    ],
)
def test_what_may_change_does(flags: dict[str, Any], text: str) -> None:
    outcome = reloaded(settings(), settings(**flags))
    assert [str(change) for change in outcome.changed] == [text]
    assert outcome.waiting == ()
    assert outcome.settings == settings(**flags)


def test_what_needs_a_restart_stays_and_is_named() -> None:
    now = settings()
    wanted = settings(listen=["127.0.0.1:9"], drain_s=7, generator={"context": 4096, "policy": "direct"})
    outcome = reloaded(now, wanted)
    assert [change.key for change in outcome.waiting] == ["listen", "generator.context"]
    assert [change.key for change in outcome.changed] == ["drain_s", "generator.policy"]
    assert outcome.settings.addresses == now.addresses
    assert outcome.settings.generator.context == now.generator.context
    assert (outcome.settings.drain_s, outcome.settings.generator.policy) == (7, "direct")
    assert outcome.settings.generator.path == now.generator.path
