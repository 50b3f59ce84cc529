"""Model files as they lie there: whole, cut short, missing, or another one than it should be."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.tiny_models import write_bert, write_llama
from server.catalogue import Catalogue, Record
from server.catalogue.digests import expected_digest
from server.catalogue.known import find_known, known_models
from server.config import load_settings
from server.doctor.check import Check, Status
from server.doctor.models import judge_model, look_at_models, smallest_model

OTHER = "0" * 64

Open = Callable[..., Catalogue]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """A catalogue over a folder; the generator and the helper as the settings given say."""

    def with_settings(**settings: str) -> Catalogue:
        defaults = {"generator.path": "tiny.gguf", "helper.path": "tiny.gguf"}
        flags: dict[str, dict[str, str]] = {}
        for key, value in {**defaults, **settings}.items():
            section, _, name = key.partition(".")
            flags.setdefault(section, {})[name] = value
        own = tmp_path / "models"
        own.mkdir(exist_ok=True)
        models = {role: {**flags[role], "path": str(own / flags[role]["path"])} for role in flags}
        return Catalogue(load_settings(None, {}, {"models_dir": str(own), **models}))

    return with_settings


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return write_llama(tmp_path / "models" / "tiny.gguf")


def judged(catalogue: Catalogue, *, verify: bool = False) -> dict[str | None, Check]:
    checks = [
        judge_model(sight, find_known(catalogue.known, sight.entry.name), catalogue.models_dir)
        for sight in look_at_models(catalogue, verify=verify)
    ]
    return {check.subject: check for check in checks}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_model_of_which_nothing_is_known_is_told_with_its_digest(opened: Open, tiny: Path) -> None:
    assert "sha256" not in judged(opened())["generator"].found
    told = judged(opened(), verify=True)["generator"]
    assert told.status is Status.OK
    assert f"sha256 {digest(tiny)}, nothing here to hold it against" in told.found


def test_a_small_file_is_held_against_the_sums_beside_it(opened: Open, tiny: Path) -> None:
    sums = tiny.with_name("SHA256SUMS")
    sums.write_text(f"# ours\n{digest(tiny).upper()} *tiny.gguf\n")
    assert f"sha256 as in {sums}" in judged(opened())["generator"].found
    sums.write_text(f"{OTHER}  tiny.gguf\n")
    wrong = judged(opened())["helper"]
    assert wrong.status is Status.FAULT
    assert f"its sha256 is {digest(tiny)}, and by {sums} it should be {OTHER}" in wrong.found
    assert wrong.remedy == "remove the file, then ollama pull qwen3:1.7b, or let helper.path name a GGUF"


def test_a_large_file_is_read_only_on_demand(
    opened: Open, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.doctor.models._CHEAP_BYTES", 10)
    tiny.with_name("SHA256SUMS").write_text(f"{OTHER}  tiny.gguf\n")
    assert "sha256 not checked (--verify)" in judged(opened())["generator"].found
    assert judged(opened(), verify=True)["generator"].status is Status.FAULT


def test_the_list_speaks_of_files_with_its_own_names_alone(opened: Open) -> None:
    entry = opened(**{"generator.path": "qwen2.5-coder-7b-instruct-q4_k_m.gguf"}).configured[0]
    known = find_known(known_models(), entry.name)
    assert known is not None
    known = known.model_copy(update={"sha256": OTHER})
    assert getattr(expected_digest(entry, known), "source", None) == "models/catalogue.toml"
    assert expected_digest(opened(**{"generator.path": "mine.gguf"}).configured[0], known) is None


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (
            {"generator.path": "qwen2.5-coder-7b-instruct-q4_k_m.gguf"},
            ".venv/bin/python scripts/download_models.py generator",
        ),
        (
            {"generator.path": "elsewhere/qwen2.5-coder-7b-instruct-q4_k_m.gguf"},
            ".venv/bin/python scripts/download_models.py generator --dir {models}/elsewhere",
        ),
        (
            {"generator.name": "qwen3:4b", "generator.path": "my.gguf"},
            "ollama pull qwen3:4b, or let generator.path name a GGUF",
        ),
        (
            {"generator.name": "mine", "generator.path": "my.gguf"},
            "put the GGUF there, or let generator.path name one",
        ),
        (
            {"generator.name": "smollm2:135m", "generator.path": "SmolLM2-135M-Instruct.Q4_1.gguf"},
            "make install, which puts it into",
        ),
    ],
)
def test_a_missing_model_is_a_fault_with_what_brings_it(
    opened: Open, tmp_path: Path, settings: dict[str, str], remedy: str
) -> None:
    check = judged(opened(**settings))["generator"]
    assert check.status is Status.FAULT
    assert check.found == f"{tmp_path}/models/{settings['generator.path']} does not exist"
    assert (check.remedy or "").startswith(remedy.format(models=tmp_path / "models"))


def test_a_file_that_was_cut_short_is_a_fault(opened: Open, tiny: Path) -> None:
    content = tiny.read_bytes()
    tiny.write_bytes(content[: len(content) // 2])
    check = judged(opened())["generator"]
    assert check.status is Status.FAULT
    assert "truncated" in check.found
    assert (check.remedy or "").startswith("remove the file, then ")


def test_a_pulled_model_that_is_not_what_was_pulled_is_a_warning(opened: Open, tiny: Path) -> None:
    catalogue = opened()
    copy = shutil.copy(tiny, tiny.with_name("pulled.gguf"))
    record = Record(name="pulled", file=copy.name, sha256=OTHER, modified_at="2025-01-01T00:00:00Z")  # type: ignore[arg-type]
    catalogue.add(record)
    check = judged(catalogue)["pulled:latest"]
    assert check.status is Status.WARNING
    assert "by the record of its download" in check.found
    assert check.remedy is not None
    assert "ollama pull pulled:latest" in check.remedy


def test_the_smallest_model_that_answers_is_tried(
    opened: Open, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = tmp_path / "embedded.gguf"
    monkeypatch.setattr("server.doctor.models.EMBEDDED", embedded)
    write_bert(tiny.with_name("vectors.gguf"))
    assert smallest_model(opened()) == tiny
    tiny.unlink()
    assert smallest_model(opened()) is None
    write_llama(embedded)
    assert smallest_model(opened()) == embedded


def test_the_sums_of_the_project_name_the_files_of_the_list() -> None:
    lines = (Path(__file__).parents[2] / "models" / "SHA256SUMS").read_text().splitlines()
    assert {model.saved_as for model in known_models() if model.role} <= {line.split()[1] for line in lines}
