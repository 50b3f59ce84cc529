"""``/metrics`` of a running server: every end of a request once, and series that stay few."""

import shutil
import subprocess

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly_parsed
from prometheus_client.parser import text_string_to_metric_families

from tests.api.asking import GENERATOR, HELPER, chat, chat_body, eventually, settled

REQUESTS = "llm_optimizer_requests_total"
OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


class Scrape:
    """One look at ``/metrics``."""

    def __init__(self, client: httpx.Client) -> None:
        response = client.get("/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = text_string_to_metric_families(response.text)
        samples = [sample for family in families for sample in family.samples]
        self.values = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples}

    def sum(self, name: str, **labels: str) -> float:
        """All series of that name with these labels, among others."""
        return sum(
            value
            for (found, having), value in self.values.items()
            if found == name and labels.items() <= dict(having).items()
        )


class Rise:
    """How much series have risen since this was made."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._before = Scrape(client)

    def of(self, name: str, **labels: str) -> float:
        return Scrape(self._client).sum(name, **labels) - self._before.sum(name, **labels)


@pytest.fixture
def rise(client: httpx.Client) -> Rise:
    return Rise(client)


def test_an_answer_is_counted_with_its_tokens_and_times(client: httpx.Client, rise: Rise) -> None:
    answer = settled(chat, client, options={"num_predict": 3, "temperature": 0})
    ours = {"model": GENERATOR, "strategy": "A"}
    assert rise.of(REQUESTS, route="/api/chat", outcome="length", **ours) == 2
    assert rise.of("llm_optimizer_time_to_first_token_seconds_count", **ours) == 2
    assert rise.of("llm_optimizer_request_duration_seconds_count", route="/api/chat", model=GENERATOR) == 2
    assert rise.of("llm_optimizer_queue_seconds_count", model=GENERATOR) == 2
    prompt = answer["prompt_eval_count"]
    assert rise.of("llm_optimizer_prompt_tokens_received_total", model=GENERATOR) == 2 * prompt
    assert rise.of("llm_optimizer_generated_tokens_total", model=GENERATOR) == 6
    assert rise.of("llm_optimizer_inter_token_seconds_count", model=GENERATOR) == 4
    read = rise.of("llm_optimizer_prefilled_tokens_total", model=GENERATOR)
    cached = rise.of("llm_optimizer_cached_tokens_total", model=GENERATOR)
    assert prompt <= read + cached <= 2 * prompt
    assert cached >= prompt - 1


@pytest.mark.parametrize(
    ("path", "body", "route", "outcome"),
    [
        ("/api/chat", {"model": "nobody/knows-this"}, "/api/chat", "not_found"),
        ("/v1/chat/completions", {"model": GENERATOR, "messages": 5}, "/v1/chat/completions", "invalid"),
        ("/v1/messages", {"model": GENERATOR, "max_tokens": 0}, "/v1/messages", "invalid"),
        ("/api/embed", {"model": GENERATOR, "input": "x"}, "/api/embed", "invalid"),
        ("/v1/nothing-of-that-name", {}, "unmatched", "not_found"),
    ],
)
def test_refusals_are_counted_once(
    client: httpx.Client, path: str, body: dict[str, object], route: str, outcome: str
) -> None:
    rise = Rise(client)
    assert client.post(path, json={"messages": [{"role": "user", "content": "x"}], **body}).is_client_error
    assert rise.of(REQUESTS, route=route, outcome=outcome) == 1


def test_a_foreign_host_is_counted_as_refused(client: httpx.Client, rise: Rise) -> None:
    assert client.get("/api/tags", headers={"Host": "evil.example.org"}).status_code == 403
    assert rise.of(REQUESTS, outcome="refused") == 1


def test_a_prompt_that_does_not_fit_is_counted_as_such(client: httpx.Client, rise: Rise) -> None:
    body = chat_body(messages=[{"role": "user", "content": "word " * 9000}])
    response = client.post("/api/chat", json=body, headers={"X-LLM-Optimizer-Policy": "direct"})
    assert response.status_code == 400
    assert rise.of(REQUESTS, route="/api/chat", model=GENERATOR, outcome="too_long") == 1


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_a_client_that_hangs_up_is_counted_once_with_what_it_got(
    client: httpx.Client, rise: Rise, path: str
) -> None:
    body = {**chat_body(stream=True), "max_tokens": 5000, "options": {"num_predict": 5000}}
    with client.stream("POST", path, json=body) as stream:
        next(stream.iter_lines())
    assert eventually(lambda: rise.of(REQUESTS, route=path, outcome="cancelled") == 1)
    assert rise.of(REQUESTS, route=path) == 1


def test_names_that_clients_make_up_make_no_series(client: httpx.Client) -> None:
    def ask(number: int) -> None:
        chat(client, model=f"made-up-{number}")
        client.get(f"/made/up/{number}")
        client.get(f"/v1/models/made-up-{number}")
        client.request("PROPFIND", "/api/tags")
        client.get(f"/api/router/original/{number}")

    ask(0)
    before = set(Scrape(client).values)
    for number in range(1, 6):
        ask(number)
    assert set(Scrape(client).values) == before
    assert "made-up" not in client.get("/metrics").text


def test_the_models_as_they_are(client: httpx.Client) -> None:
    # Whoever hung up in a test before has left once the engine's step has ended.
    assert eventually(lambda: Scrape(client).sum("llm_optimizer_requests_running") == 0)
    seen = Scrape(client)
    for model in (GENERATOR, HELPER):
        assert seen.sum("llm_optimizer_model_loaded", model=model, device="cpu") == 1
        assert seen.sum("llm_optimizer_model_context_tokens", model=model) == 8192
    assert seen.sum("llm_optimizer_requests_in_progress") >= 1
    assert seen.sum("llm_optimizer_build_info") == 1
    tiers = {
        dict(labels)["tier"] for name, labels in seen.values if name == "llm_optimizer_prefix_cache_bytes"
    }
    assert tiers == {"device", "host", "disk"}


def test_open_metrics_for_whoever_asks_for_it(client: httpx.Client) -> None:
    response = client.get("/metrics", headers=OPEN_METRICS)
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    # This parser is strict: units, suffixes and the end are as the standard wants them.
    names = {family.name for family in strictly_parsed(response.text)}
    assert {"llm_optimizer_requests", "llm_optimizer_inter_token_seconds", "llm_optimizer_build"} <= names


def test_prometheus_itself_finds_nothing_to_complain_about(client: httpx.Client) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: the package prometheus)")
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=client.get("/metrics").text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
