"""The list of models that have a name before they are here."""

from pathlib import Path

import pytest

from server.catalogue import ModelName, Role
from server.catalogue.known import find_known, known_models
from server.config import ConfigError, Settings

MODELS = known_models()


def test_every_name_and_alias_stands_there_once() -> None:
    names = [
        ModelName.parse(name).full.casefold() for model in MODELS for name in (model.name, *model.aliases)
    ]
    assert len(names) == len(set(names))


def test_aliases_lead_to_their_model() -> None:
    for model in MODELS:
        for name in (model.name, *model.aliases, model.name.upper()):
            assert find_known(MODELS, ModelName.parse(name)) is model
    assert find_known(MODELS, ModelName.parse("nothing")) is None


def test_the_default_settings_find_what_the_list_saves() -> None:
    settings = Settings()
    for role, configured in ((Role.GENERATOR, settings.generator), (Role.HELPER, settings.helper)):
        [model] = [model for model in MODELS if model.role == role]
        assert model.model_name.is_same_as(ModelName.parse(configured.name))
        assert model.saved_as == configured.path.name


@pytest.mark.parametrize(
    "lines",
    ['file = "a"\nquant = "b"', "", 'file = "a"\nsha256 = "short"', 'file = "a"\ntypo = 1'],
)
def test_a_wrong_list_is_an_error(tmp_path: Path, lines: str) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text(f'[[model]]\nname = "x"\npurpose = "y"\nrepository = "a/b"\n{lines}\n')
    with pytest.raises(ConfigError, match=r"catalogue\.toml: model\.0"):
        known_models(file)


def test_without_the_list_there_are_no_names(tmp_path: Path) -> None:
    assert known_models(tmp_path / "missing.toml") == ()
