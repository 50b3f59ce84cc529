"""Dashboard, alert rules and documentation speak of what a running server really exports."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.api.asking import chat
from tests.running import PROJECT

MONITORING = PROJECT / "docs" / "monitoring"
RULES, CONFIG = MONITORING / "alerts.yml", MONITORING / "prometheus.yml"
DASHBOARD = MONITORING / "grafana-dashboard.json"
RULE_TESTS = PROJECT / "tests" / "monitoring" / "alerts_test.yml"
OPERATIONS = PROJECT / "docs" / "operations.md"

NAME = re.compile(r"\b(?:llm_optimizer|process)_[a-z0-9_]+")
LABELS = re.compile(r"\b(?:by|on) \(([^)]*)\)|([a-z_]+)(?:=~|!~|!=|=)\"")
ROW = re.compile(r"^\| `(llm_optimizer_\w+)` \| (\w+) \| ([\w, ]*) \| (.+) \|$", re.MULTILINE)
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}
OF_PROMETHEUS = {"le", "job", "instance"}


@pytest.fixture(scope="module")
def families(client: httpx.Client) -> list[Metric]:
    chat(client)
    return list(text_string_to_metric_families(client.get("/metrics").text))


@pytest.fixture(scope="module")
def names(families: list[Metric]) -> set[str]:
    return {family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, ("",))}


def documented() -> dict[str, tuple[str, set[str], str]]:
    rows = ROW.findall(OPERATIONS.read_text(encoding="utf-8"))
    return {name: (kind, set(filter(None, labels.split(", "))), text) for name, kind, labels, text in rows}


def dashboard() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return told


def dashboard_queries() -> Iterator[str]:
    told = dashboard()
    for panel in told["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (one["expr"] for one in told["annotations"]["list"])
    variables = told["templating"]["list"]
    yield from (one["query"]["query"] for one in variables if one["type"] == "query")


def rule_queries() -> Iterator[str]:
    """Without a reader of YAML: what stands between ``expr`` and the next key."""
    yield from re.findall(
        r"^ +expr: (.*?)(?=^ +\w+:)", RULES.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: the package prometheus)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("queries", [dashboard_queries, rule_queries])
def test_every_query_names_only_what_is_exported(queries: Any, names: set[str]) -> None:
    used = {name for query in queries() for name in NAME.findall(query)}
    assert len(used) > 8
    assert used - names == set()


@pytest.mark.parametrize("queries", [dashboard_queries, rule_queries])
def test_every_query_names_only_labels_that_there_are(queries: Any) -> None:
    known = OF_PROMETHEUS.union(*(labels for _, labels, _ in documented().values()))
    found = [LABELS.findall(query) for query in queries()]
    used = {label for one in found for group, single in one for label in (single, *group.split(", "))}
    assert used - {""} - known == set()


def test_the_documented_metrics_are_the_exported_ones(families: list[Metric]) -> None:
    exported = {
        family.name + "_total" * (family.type == "counter"): (family.type, family.documentation)
        for family in families
        if family.name.startswith("llm_optimizer_")
    }
    assert {name: (kind, text) for name, (kind, _, text) in documented().items()} == exported


def test_the_documented_labels_are_the_exported_ones(families: list[Metric]) -> None:
    told = documented()
    for family in families:
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if labels:
            assert told[family.name + "_total" * (family.type == "counter")][1] == labels


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    told = dashboard()
    assert (told["uid"], told["title"]) == ("llm-optimizer", "llm-optimizer")
    numbers = [panel["id"] for panel in told["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [panel["gridPos"] for panel in told["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    taken = [(x, y) for place in places for x in _span(place, "x", "w") for y in _span(place, "y", "h")]
    assert len(set(taken)) == len(taken)
    shown = [panel for panel in told["panels"] if panel["type"] != "row"]
    assert all(panel["targets"] and panel["fieldConfig"]["defaults"]["unit"] for panel in shown)
    # Wherever it is imported, the data source is chosen there.
    assert {panel["datasource"]["uid"] for panel in shown} == {"${datasource}"}


def _span(place: dict[str, int], start: str, length: str) -> range:
    return range(place[start], place[start] + place[length])


def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


def test_the_rules_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", str(RULE_TESTS))


def test_every_rule_is_tested() -> None:
    rules = set(re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8")))
    assert rules == set(re.findall(r"LlmOptimizer\w+", RULE_TESTS.read_text(encoding="utf-8")))


def test_prometheus_takes_the_configuration() -> None:
    promtool("check", "config", "--syntax-only", str(CONFIG))
