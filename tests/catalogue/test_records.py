"""Models that nobody configured: records, aliases, files that lie there."""

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from server.catalogue import Catalogue, Entry, ModelName, Parameters, Recipe, Record, Role
from server.catalogue.records import CannotWrite, Example
from server.config import Settings
from server.domain.errors import InvalidRequest, ModelNotFound
from tests.engine.gguf_files import Tensor, write_gguf

PLAIN = {"general.architecture": "llama", "llama.context_length": 4096}


def gguf(path: Path, name: str = "tiny") -> Path:
    path.parent.mkdir(exist_ok=True)
    return write_gguf(path, {**PLAIN, "general.name": name}, (Tensor("token_embd.weight", (64, 100)),))


def settings(folder: Path, **generator: Any) -> Settings:
    model = {"context": 2048, "memory_margin_mib": 64, "device": "cpu"}
    return Settings.model_validate(
        {
            "models_dir": str(folder / "models"),
            "generator": {"name": "big:7b", "path": str(folder / "big.gguf"), **model, **generator},
            "helper": {"name": "small", "path": str(folder / "small.gguf"), **model},
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    gguf(tmp_path / "big.gguf", "big")
    gguf(tmp_path / "small.gguf", "small")
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.fixture
def catalogue(folder: Path) -> Catalogue:
    return Catalogue(settings(folder))


def own(catalogue: Catalogue, name: str, **recipe: Any) -> Entry:
    """A model with a file of its own."""
    parsed = ModelName.parse(name)
    path = gguf(catalogue.path_for(parsed, "0" * 64), name)
    return catalogue.add(catalogue.record_of_file(parsed, path, "test", recipe=Recipe(**recipe)))


def alias(catalogue: Catalogue, name: str, of: str, **recipe: Any) -> Entry:
    entry = catalogue.find(of)
    wanted = Recipe(**recipe).over(entry.recipe)
    return catalogue.add(catalogue.record_over(entry, ModelName.parse(name), wanted, "test"))


def names(catalogue: Catalogue) -> list[str]:
    return sorted(model.entry.name.display for model in catalogue.installed())


def test_a_model_of_its_own_runs_as_the_generator_does(catalogue: Catalogue) -> None:
    entry = own(catalogue, "me/x:q4")
    assert entry.role is None
    assert not entry.is_configured
    assert entry.section == "generator"
    assert entry.settings.path == catalogue.models_dir / "me+x@q4.gguf"
    assert (entry.settings.device, entry.settings.context) == ("cpu", 2048)
    assert (entry.settings.keep_alive_s, entry.settings.preload) == (300, False)
    installed = catalogue.inspect(entry)
    assert installed.digest == hashlib.sha256(entry.settings.path.read_bytes()).hexdigest()
    assert names(catalogue) == ["big:7b", "me/x:q4", "small:latest"]


def test_its_window_is_what_it_asks_for_within_what_it_was_trained_for(catalogue: Catalogue) -> None:
    for asked, got in ((None, 2048), (1024, 1024), (3000, 3000), (100_000, 4096), (1, 256)):
        entry = own(catalogue, "x", parameters=Parameters(num_ctx=asked))
        assert catalogue.inspect(entry).window_tokens == got


def test_an_alias_of_a_configured_model_is_that_model(catalogue: Catalogue) -> None:
    entry = alias(catalogue, "coder", "BIG:7b", system="Be terse.", parameters=Parameters(num_ctx=3000))
    base = catalogue.of(Role.GENERATOR)
    assert (entry.role, entry.weights, entry.settings.path) == (
        Role.GENERATOR,
        base.weights,
        base.settings.path,
    )
    assert not entry.is_configured
    assert entry.settings.context == 3000
    assert catalogue.of(Role.GENERATOR) == base
    assert catalogue.inspect(entry).digest == catalogue.inspect(base).digest
    smaller = alias(catalogue, "coder-small", "big:7b", parameters=Parameters(num_ctx=300))
    assert smaller.settings.context == 2048


def test_an_alias_of_an_alias_adds_to_it(catalogue: Catalogue) -> None:
    alias(
        catalogue,
        "one",
        "big:7b",
        system="One.",
        parameters=Parameters(temperature=0.1, top_k=5),
        messages=(Example(role="user", content="Hi"),),
        license=("MIT",),
    )
    two = alias(catalogue, "two", "one", system="Two.", parameters=Parameters(top_k=7, stop=["x"]))
    assert two.recipe.system == "Two."
    assert two.recipe.parameters.given == {"temperature": 0.1, "top_k": 7, "stop": ["x"]}
    assert two.recipe.messages == (Example(role="user", content="Hi"),)
    assert two.recipe.license == ("MIT",)
    assert two.weights == catalogue.of(Role.GENERATOR).weights


def test_a_restart_finds_everything_again(catalogue: Catalogue, folder: Path) -> None:
    first = own(catalogue, "me/x:q4", system="X.", parameters=Parameters(seed=7))
    second = alias(catalogue, "Y", "me/x:q4", parameters=Parameters(seed=8))
    third = alias(catalogue, "coder", "big:7b", messages=(Example(role="assistant", content="…\n"),))
    assert first.weights == second.weights != third.weights
    again = Catalogue(settings(folder))
    assert [again.find(name) for name in ("me/x:q4", "y", "coder")] == [first, second, third]
    assert (
        names(again) == names(catalogue) == ["Y:latest", "big:7b", "coder:latest", "me/x:q4", "small:latest"]
    )


def test_what_another_program_records_counts_at_once(catalogue: Catalogue, folder: Path) -> None:
    own(catalogue, "mine")
    records = folder / "models" / "catalogue"
    other = Catalogue(settings(folder))
    own(other, "theirs", system="Terse.")
    assert catalogue.find("theirs").recipe.system == "Terse."
    # Two changes in one tick of the clock leave the same time.
    just_now_ns = time.time_ns() + 10**9
    os.utime(records, ns=(just_now_ns, just_now_ns))
    assert catalogue.look_up(ModelName.parse("later")) is None
    own(other, "later", system="Late.")
    os.utime(records, ns=(just_now_ns, just_now_ns))
    assert catalogue.find("later").recipe.system == "Late."
    other.remove(other.find("mine"))
    assert catalogue.look_up(ModelName.parse("mine")) is None


def test_records_that_nobody_changed_are_not_read_again(catalogue: Catalogue, folder: Path) -> None:
    own(catalogue, "mine", system="Terse.")
    records = folder / "models" / "catalogue"
    long_ago_ns = time.time_ns() - 10**9
    os.utime(records, ns=(long_ago_ns, long_ago_ns))
    catalogue.find("mine")
    (records / "mine@latest.json").write_text("damaged in its place, which leaves the folder's time")
    assert catalogue.find("mine").recipe.system == "Terse."


def test_unknown_parameters_are_kept_and_damaged_records_are_left_out(
    catalogue: Catalogue, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own(catalogue, "x")
    records = folder / "models" / "catalogue"
    good = json.loads((records / "x@latest.json").read_text())
    for name, change in (
        ("num-gpu", {"parameters": {"num_gpu": 3, "top_k": 4}}),
        ("wrong-type", {"parameters": {"top_k": "four"}}),
        ("outside", {"file": "../x.gguf"}),
        ("up", {"file": ".."}),
        ("no-weights", {"file": None}),
        ("two-weights", {"base": "big:7b"}),
        ("no-digest", {"sha256": "abc"}),
    ):
        record = {**good, "name": name, **change}
        (records / f"{name}.json").write_text(json.dumps(record))
    (records / "torn.json").write_text('{"name": "to')
    (records / "bytes.json").write_bytes(b"\xff\xfe")
    with caplog.at_level(logging.WARNING):
        again = Catalogue(settings(folder))
    assert again.find("num-gpu").recipe.parameters.given == {"top_k": 4, "num_gpu": 3}
    assert names(again) == ["big:7b", "num-gpu:latest", "small:latest", "x:latest"]
    left_out = [record.message for record in caplog.records if "is left out" in record.message]
    assert len(left_out) == 8


def test_the_settings_hide_a_record_of_their_name_and_say_so(
    catalogue: Catalogue, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own(catalogue, "x")
    alias(catalogue, "coder", "big:7b")
    with caplog.at_level(logging.WARNING):
        again = Catalogue(settings(folder, name="x"))
    assert again.find("x").role is Role.GENERATOR
    assert names(again) == ["small:latest", "x:latest"]
    with pytest.raises(ModelNotFound):
        again.find("coder")
    assert "the record of x:latest has no effect" in caplog.text
    assert "coder:latest is not served: no configured model is big:7b" in caplog.text


def test_a_name_of_the_settings_cannot_be_taken_or_removed(catalogue: Catalogue) -> None:
    record = catalogue.record_over(catalogue.find("small"), ModelName.parse("BIG:7B"), Recipe(), "test")
    with pytest.raises(InvalidRequest, match=r"is the generator of the settings .* generator\.name"):
        catalogue.add(record)
    with pytest.raises(InvalidRequest, match=r'"small:latest" is the helper of the settings'):
        catalogue.remove(catalogue.find("small"))


def test_a_file_goes_with_the_last_model_that_uses_it(catalogue: Catalogue) -> None:
    path = own(catalogue, "x").settings.path
    alias(catalogue, "y", "x")
    catalogue.remove(catalogue.find("x"))
    assert path.exists()
    assert names(catalogue) == ["big:7b", "small:latest", "y:latest"]
    catalogue.remove(catalogue.find("y"))
    assert not path.exists()
    alias(catalogue, "coder", "big:7b")
    catalogue.remove(catalogue.find("coder"))
    assert names(catalogue) == ["big:7b", "small:latest"]
    assert list((catalogue.models_dir / "catalogue").iterdir()) == []


def test_a_model_in_place_of_another_takes_its_file_away(catalogue: Catalogue) -> None:
    path = own(catalogue, "x").settings.path
    alias(catalogue, "x", "big:7b")
    assert not path.exists()
    assert catalogue.find("x").role is Role.GENERATOR


def test_a_file_that_others_use_is_not_written_over(catalogue: Catalogue) -> None:
    path = own(catalogue, "x").settings.path
    assert catalogue.path_for(ModelName.parse("x"), "a" * 64) == path
    alias(catalogue, "y", "x")
    other = catalogue.path_for(ModelName.parse("x"), "a" * 64)
    assert other.name == f"x@latest~{'a' * 12}.gguf"
    assert catalogue.path_for(ModelName.parse("big:7b"), "a" * 64) == catalogue.find("big:7b").settings.path


def test_a_file_that_lies_there_is_served_under_its_own_name(
    catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    for file in ("Tiny-Q8_0.gguf", "tiny.q8_0.GGUF", "---.gguf", "notes.txt"):
        gguf(catalogue.models_dir / file)
    write_gguf(catalogue.models_dir / "mmproj-tiny.gguf", {"general.architecture": "clip"})
    (catalogue.models_dir / "big.gguf").symlink_to(catalogue.find("big:7b").settings.path)
    entry = catalogue.find("TINY:Q8_0")
    assert (entry.role, entry.record, entry.settings.path.name) == (None, None, "Tiny-Q8_0.gguf")
    assert names(catalogue) == ["big:7b", "small:latest", "tiny:q8_0"]
    assert names(catalogue) == ["big:7b", "small:latest", "tiny:q8_0"]
    told = [record.message for record in caplog.records if "is not served" in record.message]
    assert len(told) == 2
    catalogue.remove(entry)
    assert not (catalogue.models_dir / "Tiny-Q8_0.gguf").exists()


def test_a_file_that_lies_there_stays_when_it_gets_an_alias(catalogue: Catalogue, folder: Path) -> None:
    path = gguf(catalogue.models_dir / "tiny.gguf")
    entry = alias(catalogue, "mine", "tiny", system="Mine.")
    assert names(catalogue) == ["big:7b", "mine:latest", "small:latest", "tiny:latest"]
    again = Catalogue(settings(folder))
    assert names(again) == names(catalogue)
    assert again.find("tiny").weights == again.find("mine").weights == entry.weights == str(path)
    assert again.inspect(again.find("tiny")).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_was_exchanged_is_not_told_by_its_old_digest(catalogue: Catalogue) -> None:
    entry = own(catalogue, "x")
    before = catalogue.inspect(entry).digest
    with entry.settings.path.open("ab") as file:
        file.write(b"more")
    assert catalogue.inspect(entry).digest != before


def test_known_models_bring_their_makers_advice(folder: Path) -> None:
    catalogue = Catalogue(settings(folder, name="qwen3:8b"))
    assert catalogue.find("qwen3:8b").recipe.parameters.given == {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }
    assert catalogue.find("small").recipe == Recipe()


def test_a_folder_that_cannot_be_written_names_the_setting(folder: Path) -> None:
    (folder / "models").rmdir()
    (folder / "models").write_text("a file")
    catalogue = Catalogue(settings(folder))
    assert names(catalogue) == ["big:7b", "small:latest"]
    with pytest.raises(
        CannotWrite, match=r"models_dir = \S+models cannot be written: .*; let models_dir name"
    ):
        alias(catalogue, "coder", "big:7b")
    with pytest.raises(CannotWrite):
        catalogue.path_for(ModelName.parse("x"), "a" * 64)


def test_a_crash_while_writing_leaves_the_old_record(
    catalogue: Catalogue, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias(catalogue, "coder", "big:7b", system="Old.")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            alias(catalogue, "coder", "big:7b", system="New.")
    assert Catalogue(settings(folder)).find("coder").recipe.system == "Old."
    assert [path.name for path in (folder / "models" / "catalogue").iterdir()] == ["coder@latest.json"]


def test_a_record_without_weights_is_none() -> None:
    with pytest.raises(ValueError, match="needs either base or file"):
        Record.model_validate({"name": "x", "modified_at": "2026-01-01T00:00:00Z"})


def test_a_file_that_the_settings_name_never_goes(catalogue: Catalogue, folder: Path) -> None:
    path = own(catalogue, "x").settings.path
    again = Catalogue(settings(folder, path=str(path)))
    again.remove(again.find("x"))
    assert path.exists()
    assert names(again) == ["big:7b", "small:latest"]


@pytest.mark.parametrize(
    ("parameters", "device", "layers"),
    [
        ({}, "cuda:0", -1),
        ({"num_gpu": 0}, "cpu", -1),
        ({"num_gpu": 0, "main_gpu": 1}, "cpu", -1),
        ({"num_gpu": 12}, "cuda:0", 12),
        ({"num_gpu": -1}, "cuda:0", -1),
        ({"num_gpu": 99, "main_gpu": 1}, "cuda:1", 99),
        ({"main_gpu": 1}, "cuda:1", -1),
    ],
)
def test_where_a_model_runs(folder: Path, parameters: dict[str, int], device: str, layers: int) -> None:
    catalogue = Catalogue(settings(folder, device="cuda:0"))
    placed = own(catalogue, "placed", parameters=parameters).settings
    assert (placed.device, placed.gpu_layers) == (device, layers)
    plain = own(catalogue, "plain").settings
    assert (plain.device, plain.gpu_layers) == ("cuda:0", -1)


def test_what_a_further_model_was_given_counts_as_set_and_the_generators_window_does_not(
    folder: Path,
) -> None:
    catalogue = Catalogue(settings(folder, batch=256))
    assert catalogue.of(Role.GENERATOR).settings.set_by_user >= {"batch", "context", "device"}

    plain = own(catalogue, "plain").settings.set_by_user
    assert "batch" in plain
    assert not plain & {"context", "gpu_layers"}
    asked = own(catalogue, "asked", parameters=Parameters(num_ctx=1024, num_gpu=3)).settings
    assert asked.set_by_user >= {"context", "gpu_layers", "batch"}
    same = alias(catalogue, "same", "big:7b").settings
    assert same.set_by_user == catalogue.of(Role.GENERATOR).settings.set_by_user


def test_all_names_over_the_same_weights_run_in_the_same_place(folder: Path) -> None:
    catalogue = Catalogue(settings(folder, device="cuda:0"))
    own(catalogue, "plain")
    other = alias(catalogue, "other", "plain", parameters={"num_gpu": 0})
    assert other.settings.device == catalogue.find("plain").settings.device == "cpu"


def test_an_alias_of_a_configured_model_stays_where_that_is(folder: Path) -> None:
    catalogue = Catalogue(settings(folder, device="cuda:0"))
    assert alias(catalogue, "mine", "big:7b", parameters={"num_gpu": 0}).settings.device == "cuda:0"
