"""The table, the JSON, the README's list and the command line."""

import json
import re
from pathlib import Path

import pytest

from bench.__main__ import main, parser, repeating
from bench.figures import Bar, Better, Measured
from bench.machine import ProcessorTime, processor_time, share_of_others
from bench.report import Result, as_json, table
from bench.scenarios import SCENARIOS, markdown
from bench.stage import Scenario, Stage
from tests.running import PROJECT

FASTER = Bar(Better.LOWER, 0.7)


async def never(_stage: Stage) -> Measured:
    raise NotImplementedError


def scenario(name: str, bar: Bar = FASTER) -> Scenario:
    return Scenario(name, f"what {name} does", "first token, s", bar, 5, never)


RESULTS = (
    Result(scenario("good"), Measured((0.5, 0.5), (1.0, 2.0), notes=("1 repetition was run again",))),
    Result(scenario("bad"), Measured((1234.5,), (1000.0,)), others=0.31),
    Result(scenario("missing"), None, "skipped: there is no recorded session"),
    Result(scenario("divided"), Measured((0.1,), (9.0,), (1.0,))),
)


def test_the_table_has_a_line_for_each_result_and_the_notes_below() -> None:
    lines = table(RESULTS).splitlines()

    assert re.split(r"\s{2,}", lines[0]) == [
        "scenario", "figure", "ours", "llama-server", "ratio", "quartiles", "bar", "met"
    ]  # fmt: skip
    cells = [re.split(r"\s{2,}", line) for line in lines[1:5]]
    assert cells[0][2:] == ["0.500", "1.50", "0.33", "0.31 to 0.44", "≤ 0.70", "yes"]
    assert cells[1][2:] == ["1234", "1000", "1.23", "1.23 to 1.23", "≤ 0.70", "NO"]
    assert cells[2][2:] == ["-", "-", "-", "-", "≤ 0.70", "-"]
    assert cells[3][2:] == ["0.100", "9.00", "0.10", "0.10 to 0.10", "≤ 0.70", "yes"]
    assert lines[5:] == [
        "notes:",
        "  good: 1 repetition was run again",
        "  bad: other programs took 31% of the cores",
        "  missing: skipped: there is no recorded session",
    ]


def test_the_json_has_every_repetition_and_what_it_holds_for() -> None:
    body = json.loads(as_json(RESULTS, "a-model", {"cores": "2"}))

    assert (body["model"], body["machine"]) == ("a-model", {"cores": "2"})
    assert body["scenarios"]["good"]["ours"] == [0.5, 0.5]
    assert body["scenarios"]["good"]["met"] is True
    assert body["scenarios"]["bad"]["others"] == 0.31
    assert body["scenarios"]["missing"]["skipped"] == "skipped: there is no recorded session"
    assert body["scenarios"]["divided"]["divided_by"] == [1.0]
    assert body["scenarios"]["divided"]["ratio"] == 0.1


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.plot import draw

    draw(RESULTS, "a-model", tmp_path / "a.png")

    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_readme_lists_the_scenarios_as_the_code_has_them() -> None:
    readme = (PROJECT / "bench" / "README.md").read_text(encoding="utf-8")

    assert f"<!-- scenarios -->\n{markdown()}<!-- /scenarios -->" in readme
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.parametrize(
    "arguments",
    [["--scenario", "nothing"], ["--repetitions", "0"], ["--threads", "many"], ["a.gguf"]],
    ids=" ".join,
)
def test_wrong_arguments_end_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)

    assert ended.value.code == 2
    assert "usage: python -m bench" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "repetitions"), [([], 5), (["--quick"], 2), (["--quick", "--repetitions", "4"], 4)]
)
def test_repetitions_are_the_flags_or_the_scenarios_own(flags: list[str], repetitions: int) -> None:
    stage = Stage(Path("m"), Path("b"), 2, 0, False, 8192, None, None, Path("f"))  # type: ignore[arg-type]

    assert repeating(stage, scenario("any"), parser().parse_args(flags)).repetitions == repetitions


def test_a_missing_model_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho 'version: 1.2.3'\n")
    program.chmod(0o755)

    status = main(["--llama-server", str(program), "--model", str(tmp_path / "none.gguf")])

    assert status == 1
    assert re.fullmatch(r"error: .*none\.gguf.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("busy_s", "own_s", "share"),
    [(10.0, 10.0, 0.0), (15.0, 10.0, 0.25), (20.0, 0.0, 1.0), (10.0, 11.0, 0.0)],
    ids=["only we", "others beside us", "only others", "clocks that differ a little"],
)
def test_the_share_of_others_is_what_was_used_and_not_by_us(
    busy_s: float, own_s: float, share: float
) -> None:
    before = ProcessorTime(1000.0, 500.0, 3.0)

    assert share_of_others(before, ProcessorTime(1020.0, 500.0 + busy_s, 3.0 + own_s)) == share


def test_no_time_has_no_share() -> None:
    now = processor_time()

    assert 0.0 <= now.own_s <= now.busy_s <= now.total_s
    assert share_of_others(now, now) == 0.0
