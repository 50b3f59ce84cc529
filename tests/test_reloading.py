"""Reading the settings again, and what comes of it in the service."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.catalogue import Catalogue, Role, known
from server.config import ConfigError, Current, Settings, load_settings
from server.reloading import Reload, log_level


@pytest.fixture(autouse=True)
def _log_level_of_the_tests(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO)
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def settings(**flags: Any) -> Settings:
    return load_settings(None, {}, flags)


def refuse(_settings: Settings) -> Callable[[], None]:
    raise ConfigError("keys.toml: readable for everybody")


def reread(wanted: Callable[[], Settings], *parts: Any) -> Current:
    current = Current(settings())
    Reload(current, wanted, parts).run()
    return current


def wrong() -> Settings:
    return load_settings(None, {"STRATEGY_A_MAX": "many"}, {})


def test_new_settings_count_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    current = reread(lambda: settings(log_level="warning", router={"strategy_a_max": 5}), log_level)
    assert current.router.strategy_a_max == 5
    assert logging.getLogger().level == logging.WARNING
    assert "strategy_a_max = 5 (was 2000)" in caplog.text


def test_wrong_settings_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    applied: list[Settings] = []
    current = reread(wrong, lambda found: lambda: applied.append(found))
    assert (current.settings, applied) == (settings(), [])
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "all stays as it was" in record.getMessage()
    assert "STRATEGY_A_MAX" in record.getMessage()


def test_one_part_that_refuses_keeps_all_others_from_changing() -> None:
    applied: list[Settings] = []
    current = reread(
        lambda: settings(router={"strategy_a_max": 5}),
        lambda found: lambda: applied.append(found),
        refuse,
    )
    assert (current.settings, applied) == (settings(), [])


def test_what_needs_a_restart_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    reread(lambda: settings(helper={"slots": 2}))
    warning = next(record for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.getMessage() == "reload: only after a restart: helper.slots = 2 (was 4)"


def test_the_catalogue_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text("")
    monkeypatch.setattr(known.known_models, "__defaults__", (file,))
    catalogue = Catalogue(settings(models_dir=str(tmp_path)))
    file.write_text(
        '[[model]]\nname = "qwen2.5-coder:7b"\npurpose = "x"\nrepository = "a/b"\nfile = "c.gguf"\n'
        "parameters = { temperature = 0.25 }\n"
    )
    wanted = settings(models_dir=str(tmp_path), generator={"policy": "direct"})
    apply = catalogue.read_again(wanted)
    assert catalogue.known == ()
    apply()
    generator = catalogue.of(Role.GENERATOR)
    assert generator.recipe.parameters.temperature == 0.25
    assert generator.settings.policy == "direct"
    assert generator.settings.set_by_user == frozenset()
    assert catalogue.find("qwen2.5-coder:7b") is generator
    file.write_text("model = 5")
    with pytest.raises(ConfigError, match=r"catalogue\.toml: model: "):
        catalogue.read_again(wanted)
