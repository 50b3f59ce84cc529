"""What people see of the findings."""

import pytest

from server.doctor.check import fault, ok
from server.doctor.examination import Report
from server.doctor.facts import Planned
from server.doctor.report import show

MIB = 2**20
LONG = "CMAKE_ARGS=" + "x" * 200
PLAN = (
    Planned(
        "generator", "a-model:7b", "cuda:0", 4096, 5 * MIB, 3 * MIB, MIB // 2, MIB, 10 * MIB, 12 * MIB - 1
    ),
    Planned("helper", "b", "cuda:1", total_bytes=9 * MIB, free_bytes=2 * MIB, refusal="needs 9 MiB"),
    Planned("helper", "c", "cpu", refusal="is not there", unreadable=True),
    Planned("helper", "d", "cpu", running=True, loaded=True),
)


def shown(report: Report, capsys: pytest.CaptureFixture[str]) -> list[str]:
    show(report)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_line_for_each_check_with_its_remedy_below(capsys: pytest.CaptureFixture[str]) -> None:
    checks = (ok("binding", "all is well"), fault("port", "is [taken]", LONG, subject="127.0.0.1:1"))
    assert shown(Report(checks, ()), capsys) == [
        "ok       binding           all is well",
        "fault    port 127.0.0.1:1  is [taken]",
        f"                           -> {LONG}",
        "",
        "1 faults, 0 warnings, 1 ok",
    ]


def test_the_plan_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert [" ".join(line.split()) for line in shown(Report((), PLAN), capsys)][1:-2] == [
        "Plan (MiB)",
        "role model device context weights KV compute margin total free fits",
        "generator a-model:7b cuda:0 4096 5 3 1 1 10 11 yes",
        "helper b cuda:1 - - - - - 9 2 NO",
        "helper c cpu - - - - - - - ?",
        "helper d cpu - - - - - - - loaded",
    ]
