"""What a run leaves on paper, and the files that its server gets."""

import tomllib
from pathlib import Path

import pytest

from bench.servers import PROJECT
from bench.soak.findings import Findings, Sample
from bench.soak.judging import MIB
from bench.soak.own_server import FIRST, KEYS, Reload, config_text, keys_text
from bench.soak.plans import Key
from bench.soak.process import Process
from bench.soak.report import BEGIN, Report, written_into
from server.config.keys import read_keys


def findings() -> Findings:
    found = Findings(first_token_s=[1.0, 2.0, 9.0], prompt_tokens=7, generated_tokens=8)
    found.outcomes.update({("/api/chat", "answered"): 3, ("/api/chat", "hung up at once"): 2})
    found.outcomes["/api/chat", "hung up in mid-stream"] += 1
    found.samples = [
        Sample(float(at), Process(900 * MIB, (100 + at) * MIB, 20, 9), 50 * MIB, 10 * MIB, 70_000)
        for at in range(20)
    ]
    return found


def report(found: Findings) -> Report:
    return Report("2026-01-02", 12.0, 16, {"CPU": "x"}, found)


def test_the_report_names_figures_and_limits() -> None:
    text = report(findings()).as_markdown()
    for words in (
        "### 2026-01-02, 12 minutes, 16 clients: all well",
        "| requests | 6 |  |",
        "median 2.00 s, longest 9.00 s",
        "| open files | 20, then 20; slope +0.0 an hour; its course: 20 20",
        "| resident memory, MiB | 106.0, then 118.0; slope +3600.0 an hour; its course: 100 101",
        "| address space, MiB | its course: 900 900",
        "| /api/chat | 3 |  | 3 |  |",
    ):
        assert words in text


def test_errors_make_it_bad_and_are_told() -> None:
    found = findings()
    found.fail("broken")
    found.fail("broken")
    text = report(found).as_markdown()
    assert "NOT well" in text
    assert "- 2 times: broken" in text


def test_the_newest_run_stands_first_on_the_page() -> None:
    page = written_into(f"# Head\n\n{BEGIN}\n### older\n", report(findings()))
    assert page.index("# Head") < page.index(BEGIN) < page.index("### 2026-01-02") < page.index("### older")
    with pytest.raises(ValueError, match="lacks the line"):
        written_into("# Head\n", report(findings()))
    assert BEGIN in (PROJECT / "docs" / "soak.md").read_text(encoding="utf-8")


def test_good_files_are_good_and_the_wrong_one_is_wrong_in_its_threshold(tmp_path: Path) -> None:
    good = tomllib.loads(config_text(tmp_path, FIRST))
    wrong = tomllib.loads(config_text(tmp_path, Reload(2000, "info", has_turn=True, wrong=True)))
    assert good["router"]["strategy_a_max"] == 2000
    assert wrong["router"]["strategy_a_max"] == "many"


@pytest.mark.parametrize("has_turn", [True, False])
def test_the_key_that_comes_and_goes(tmp_path: Path, has_turn: bool) -> None:
    file = tmp_path / "keys.toml"
    file.touch(mode=0o600)
    file.write_text(keys_text(has_turn=has_turn))
    names = {key.name for key in read_keys(file)}
    assert (Key.TURN in names) is has_turn
    assert {Key.USE, Key.ADMIN} <= names
    assert Key.WRONG not in names
    assert len(set(KEYS.values())) == len(KEYS)
