"""What is counted, without a server: totals that never go down, labels that stay few, cards as they are."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from server.domain.account import Ending, Record, ShortenedItem, Visit, Work
from server.engine.figures import Figures
from server.gpu.nvml import GpuProcess, GpuReading
from server.service.devices import Seen
from server.service.gauges import cards
from server.service.helped import HelperFigures
from server.service.metrics import Names, RequestMetrics
from server.service.tally import Tally

WORK = Work(
    model="m", strategy="B", planned="B", tokens_received=900, tokens_sent=300, queue_s=0.25, load_s=0.0
)
RECORD = Record(Visit("mine", "POST"), WORK, "/api/chat", 200, Ending.OK, None, 4.0)


def value(metrics: RequestMetrics, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(metrics)
    return registry.get_sample_value(name, labels)


def test_a_request_is_counted_with_what_it_took() -> None:
    metrics = RequestMetrics(Names())
    metrics.add(replace(RECORD, work=replace(WORK, first_token_s=1.5)))
    metrics.add(replace(RECORD, ending=Ending.CANCELLED))
    labels = {"route": "/api/chat", "model": "m", "strategy": "B"}
    assert value(metrics, "llm_optimizer_requests_total", **labels, outcome="ok") == 1
    assert value(metrics, "llm_optimizer_requests_total", **labels, outcome="cancelled") == 1
    assert value(metrics, "llm_optimizer_prompt_tokens_received_total", model="m") == 1800
    assert value(metrics, "llm_optimizer_prompt_tokens_sent_total", model="m") == 600
    assert value(metrics, "llm_optimizer_request_duration_seconds_sum", route="/api/chat", model="m") == 8
    # Without a token there is no time of the first.
    assert value(metrics, "llm_optimizer_time_to_first_token_seconds_count", model="m", strategy="B") == 1
    assert value(metrics, "llm_optimizer_queue_seconds_bucket", model="m", le="0.2") == 0
    assert value(metrics, "llm_optimizer_queue_seconds_bucket", model="m", le="0.5") == 2


def test_a_helper_that_failed_and_results_that_gave_way_are_counted() -> None:
    items = (ShortenedItem(3, "newer copy", 900, 80, "0af"), ShortenedItem(5, "outline", 900, 80, "1af"))
    metrics = RequestMetrics(Names())
    metrics.add(replace(RECORD, work=replace(WORK, strategy="A", planned="C", fallback="it took too long")))
    metrics.add(replace(RECORD, work=replace(WORK, shortened=items, dropped_messages=4)))
    assert value(metrics, "llm_optimizer_fallbacks_total", planned="C") == 1
    assert value(metrics, "llm_optimizer_shortened_results_total", how="newer_copy") == 1
    assert value(metrics, "llm_optimizer_dropped_messages_total") == 4


def test_the_times_at_which_series_began_are_left_out() -> None:
    metrics = RequestMetrics(Names())
    metrics.add(RECORD)
    names = {sample.name for metric in metrics.collect() for sample in metric.samples}
    assert "llm_optimizer_requests_total" in names
    assert not [name for name in names if name.endswith("_created")]


def test_beyond_so_many_models_they_share_a_label() -> None:
    names = Names(most=2)
    assert [names.label(name) for name in ("a", "b", "c", "a", None, "d")] == [
        *("a", "b", "other", "a", "none", "other")
    ]


def test_a_request_that_no_route_took_says_so() -> None:
    metrics = RequestMetrics(Names())
    metrics.add(replace(RECORD, work=Work(), route=None, ending=Ending.NOT_FOUND))
    labels = {"route": "unmatched", "model": "none", "strategy": "none", "outcome": "not_found"}
    assert value(metrics, "llm_optimizer_requests_total", **labels) == 1
    assert value(metrics, "llm_optimizer_prompt_tokens_sent_total", model="none") is None


def test_totals_outlive_the_engine_that_counted_them() -> None:
    tally, first, second = Tally(), Figures(), Figures()
    tally.begin("m", first)
    first.generated_tokens += 5
    first.gap_s.see(0.03)
    tally.end(first)
    tally.begin("m", second)
    second.generated_tokens += 2
    second.gap_s.see(0.3)
    total = tally.totals()["m"]
    assert total.generated_tokens == 7
    assert sum(total.gap_s.counts) == 2
    assert total.gap_s.total_s == pytest.approx(0.33)
    assert total.gap_s.longest_s == 0.3
    # A second engine under the same name is told from the first, though both have counted nothing.
    tally.begin("n", Figures())
    assert set(tally.totals()) == {"m", "n"}


def test_the_helpers_time_is_counted_where_it_fails_too() -> None:
    helped = HelperFigures()
    with pytest.raises(ZeroDivisionError), helped.working(ahead=False):
        raise ZeroDivisionError
    with helped.working(ahead=True):
        pass
    assert helped.request_s > 0
    assert helped.ahead_s > 0


def of(metrics: list[Metric], name: str) -> dict[str, float]:
    [metric] = [metric for metric in metrics if metric.name == f"llm_optimizer_gpu_{name}"]
    return {sample.labels["gpu"]: sample.value for sample in metric.samples}


def test_the_cards_as_the_driver_tells_of_them() -> None:
    processes = (GpuProcess(7, "server", 4_000), GpuProcess(8, "game", 1_000))
    known = GpuReading(
        0,
        memory_total_bytes=8_000,
        memory_used_bytes=5_500,
        utilisation_percent=40,
        temperature_c=61,
        power_w=90.5,
        clock_mhz=1500,
        processes=processes,
    )
    lost = GpuReading(1, name="lost one", fault="GPU is lost")
    seen = Seen(cards=(known, lost), names=("cuda:0", None))
    metrics = list(cards(seen, {"cuda:0"}, own_pid=7))
    # What is not known has no series, and is not 0.
    assert of(metrics, "memory_used_bytes") == {"0": 5_500}
    assert of(metrics, "memory_own_bytes") == {"0": 4_000}
    assert of(metrics, "memory_others_bytes") == {"0": 1_500}
    assert of(metrics, "utilisation_ratio") == {"0": 0.4}
    assert of(metrics, "temperature_celsius") == {"0": 61}
    assert of(metrics, "power_watts") == {"0": 90.5}
    assert of(metrics, "clock_hertz") == {"0": 1.5e9}
    assert of(metrics, "fault") == {"0": 0, "1": 1}
    [known_cards] = [metric for metric in metrics if metric.name == "llm_optimizer_gpu"]
    assert [sample.labels["device"] for sample in known_cards.samples] == ["cuda:0", ""]


def test_memory_of_ours_is_unknown_where_the_driver_keeps_it_to_itself() -> None:
    hidden = GpuReading(0, memory_used_bytes=10, processes=(GpuProcess(7, None, None),))
    # In a container the driver knows us by another number.
    renamed = GpuReading(1, memory_used_bytes=10, processes=(GpuProcess(4711, None, 9),))
    seen = Seen(cards=(hidden, renamed), names=("cuda:0", "cuda:1"))
    metrics = list(cards(seen, {"cuda:0", "cuda:1"}, own_pid=7))
    assert of(metrics, "memory_own_bytes") == of(metrics, "memory_others_bytes") == {}
