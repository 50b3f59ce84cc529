"""The configuration file for Ray Serve, and the command that looks at it; without Ray."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.cluster.__main__ import main
from server.cluster.checking import checked
from server.cluster.installed import NotInstalled
from server.cluster.terms import Terms, terms_of
from server.config import ConfigError
from tests.running import PROJECT

SAMPLE = PROJECT / "docs" / "cluster" / "serve.yaml"


def changed(tmp_path: Path, change: Callable[[Any], None]) -> tuple[str, ...]:
    """What is said of the sample after a change."""
    read = yaml.safe_load(SAMPLE.read_text())
    change(read)
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(read))
    return checked(file).faults


def test_the_sample_is_right_and_says_what_it_means() -> None:
    findings = checked(SAMPLE)
    assert findings.faults == ()
    assert findings.notes == (
        "every machine reads /etc/llm-optimizer/config.toml; requests are routed by prefix",
    )


def test_the_sample_shows_every_argument_with_its_default() -> None:
    args = yaml.safe_load(SAMPLE.read_text())["applications"][0]["args"]
    assert list(args) == list(Terms.model_fields)
    assert terms_of({**args, "config": None}) == Terms()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda read: read["applications"][0]["args"].update(spil=1), "args.spil"),
        (lambda read: read["applications"][0]["args"].update(attempts=0), "but it is 0"),
        (lambda read: read["applications"][0]["args"].update(policy="best"), "args.policy"),
        (lambda read: read["applications"][0]["args"].update(listen="here"), "args.listen"),
        (lambda read: read["http_options"].update(port=9), "let both say the same"),
        (lambda read: read.pop("http_options"), None),
        (lambda read: read["applications"][0].update(route_prefix="/llm"), "route_prefix must be /"),
        (lambda read: read["applications"][0].update(import_path="x:y"), "no application has import_path"),
        (lambda read: read.pop("applications"), "no list of applications"),
        (lambda read: read["applications"][0]["deployments"][0].update(name="Gate"), "there is no Gate"),
        (
            lambda read: [
                read["applications"][0]["deployments"][1].pop(key)
                for key in ("max_replicas_per_node", "ray_actor_options")
            ],
            "share its cards",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change: Callable[[Any], None], words: str | None) -> None:
    faults = changed(tmp_path, change)
    assert (words is None and faults == ()) or any(words in fault for fault in faults if words)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in checked(tmp_path / "none.yaml").faults[0]
    (tmp_path / "bad.yaml").write_text("a: [")
    assert "cannot be read" in checked(tmp_path / "bad.yaml").faults[0]


def test_arguments_that_are_none_name_those_that_are() -> None:
    with pytest.raises(ConfigError, match="args may be: config, listen, policy"):
        terms_of({"config_file": "x"})


def test_the_command_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(SAMPLE)]) == 0
    assert "routed by prefix" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "none.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_without_ray_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["run"]) == 1
    said = capsys.readouterr().err
    assert "make cluster" in said
    assert "llm-optimizer[cluster]" in said
    assert main(["run", "--policy", "best"]) == 2
    assert "args.policy" in capsys.readouterr().err


def test_without_ray_serves_own_import_says_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "server.cluster.app", raising=False)
    with pytest.raises(NotInstalled, match="make cluster"):
        __import__("server.cluster.app")
