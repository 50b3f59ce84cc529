"""The pages: what is served, and what a real Chromium makes of it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.api.health_answers import GpuHealth
from server.api.pages.feed import Feed
from server.domain.account import Ending, Visit, Work
from server.service.ledger import Ledger
from server.service.recent import Recent
from tests.gpu.fake_nvml import FakeNvml, compile_fake_nvml
from tests.pages.browser import CHROMIUM, Browser, browsing
from tests.running import RunningServer, embedded_config, serving

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package chromium)")
WIDTHS = (1280, 800, 360)
IS_LIVE = "document.querySelector('#connection').textContent === 'live'"
KEY = "a-key-of-this-test-and-no-other"
HOSTILE = "<img src=x onerror=document.title='broken'>"


def first_events(client: httpx.Client, count: int) -> list[dict[str, Any]]:
    with client.stream("GET", "/dashboard/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        return [json.loads(next(lines).removeprefix("data: ")) for _ in range(count)]


def test_programs_find_ollama_and_people_a_page(client: httpx.Client) -> None:
    assert client.get("/").text == "Ollama is running"
    page = client.get("/", headers={"accept": "text/html,application/xhtml+xml"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text == client.get("/dashboard").text
    assert page.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    "path", ["/dashboard", "/chat", "/pages/page.js", "/pages/style.css", "/pages/icon.svg"]
)
def test_nothing_from_elsewhere_may_be_loaded(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in answer.text
    assert "style=" not in answer.text


@pytest.mark.parametrize("name", ["..%2Froutes.py", "routes.py", "nothing.js", ".", "%00"])
def test_there_are_no_other_files(client: httpx.Client, name: str) -> None:
    assert client.get(f"/pages/{name}").status_code == 404


def test_what_has_ended_is_told_once(client: httpx.Client) -> None:
    client.post("/api/chat", json={"model": "nobody:7b", "messages": [{"role": "user", "content": "Hi"}]})
    first, second = first_events(client, 2)
    assert first["recent"][0]["ending"] == "not_found"
    assert second["recent"] is None
    assert {model["role"] for model in first["gpu"]["models"]} == {"generator", "helper"}


def test_two_who_look_see_the_same_moment() -> None:
    """A request that ends between two looks is under way in none of them and ended in the other."""

    async def looks() -> list[dict[str, Any]]:
        first = await anext(feed.events())
        ledger.close(account, "/api/chat", 200, Ending.OK)
        second = await anext(feed.events())
        return [json.loads(event.decode().removeprefix("data: ")) for event in (first, second)]

    ledger, recent = Ledger(), Recent()
    ledger.observe(recent.add)
    account = ledger.open(Visit("mine"))
    account.work = Work(model="m")
    gpu = GpuHealth.model_construct(devices=[], models=[], loading={}, guard={}, recent_faults=[])
    feed = Feed(lambda: gpu, ledger, recent)
    for event in asyncio.run(looks()):
        ids = [request["id"] for request in (*event["under_way"], *event["recent"])]
        assert ids == ["mine"]


@pytest.fixture(scope="module")
def cards_server(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """On two cards that are CUDA's in name only."""
    folder = tmp_path_factory.mktemp("cards")
    fake = FakeNvml(compile_fake_nvml(folder), folder / "script")
    fake.order("used 0 300", "used 1 100", "reasons 1 4")
    helper = {"path": str(embedded_model), "device": "cuda:1", "memory_margin_mib": 64}
    generator = {"device": "cuda:0", "memory_margin_mib": 256}
    config = embedded_config(embedded_model, helper=helper, generator=generator)
    with serving(folder, config, fake.environment(), module="tests.gpu.fake_cuda") as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@needs_chromium
def test_the_dashboard_shows_what_happens(cards_server: RunningServer, browser: Browser) -> None:
    with cards_server.client() as client:
        body = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
        client.post("/api/chat", json={**body, "options": {"num_predict": 3}})
        client.post("/api/chat", json=body, headers={"x-llm-optimizer-policy": HOSTILE})
    browser.open(f"{cards_server.url}/")
    browser.until(IS_LIVE)
    for part in ("ours", "others", "free", "plan"):
        assert browser.evaluate(f"document.querySelectorAll('#cards .bar .{part}').length") == 2, part
    cards = browser.evaluate("document.querySelector('#cards').innerText")
    assert "RTX 2060 SUPER room enough" in cards
    assert "cuda:1: smollm2:135m-helper" in cards
    assert "slowed: power limit" in cards
    rows = browser.until("document.querySelector('#requests tbody').innerText")
    assert "smollm2:135m" in rows
    browser.evaluate("document.querySelector('#requests button.link').click()")
    assert HOSTILE in browser.until("document.querySelector('#requests .details').innerText")
    assert browser.evaluate("document.title") == "llm-optimizer"
    assert browser.complaints == []
    assert all(url.startswith(cards_server.url) for url in browser.requested if url != "about:blank")


@needs_chromium
def test_with_keys_the_page_asks_for_one(embedded_model: Path, browser: Browser, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[me]\nkey = "{KEY}"\n')
    keys.chmod(0o600)
    config = f'keys_file = "{keys}"\n{embedded_config(embedded_model, helper={"preload": False})}'
    with serving(tmp_path, config) as server:
        browser.open(f"{server.url}/")
        browser.until("document.querySelector('#key-dialog')?.open")
        browser.evaluate(
            f"document.querySelector('#key').value = '{KEY}'; document.querySelector('dialog button').click()"
        )
        browser.until(IS_LIVE)
        browser.until("!!document.querySelector('#models button')")
        browser.evaluate("document.querySelector('#models button').click()")
        assert "admin" in browser.until("document.querySelector('#model-note').textContent")


@needs_chromium
def test_a_button_unloads_a_model(cards_server: RunningServer, browser: Browser) -> None:
    browser.open(f"{cards_server.url}/dashboard")
    browser.until("document.querySelectorAll('#models tbody tr').length === 2")
    browser.evaluate(
        "[...document.querySelectorAll('#models tr')].find((row) => row.innerText.includes('helper'))"
        ".querySelector('button').click()"
    )
    browser.until("document.querySelectorAll('#models tbody tr').length === 1")


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("path", ["/dashboard", "/chat"])
def test_it_fits_every_window(cards_server: RunningServer, browser: Browser, path: str, dark: bool) -> None:
    colours = set()
    for width in WIDTHS:
        browser.open(f"{cards_server.url}{path}", width=width, dark=dark)
        browser.until("document.querySelector('main').innerText.length > 20")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        colours.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == {"rgb(17, 21, 27)" if dark else "rgb(246, 247, 249)"}


@needs_chromium
def test_the_playground_answers_each_way(cards_server: RunningServer, browser: Browser) -> None:
    browser.open(f"{cards_server.url}/chat")
    browser.until("document.querySelector('#model').options.length")
    notes = " ".join(f"Part {number} was built without a word." for number in range(90))
    browser.evaluate(
        f"document.querySelector('#prompt').value = {json.dumps(notes + chr(10) * 2 + 'What was built?')};"
        "document.querySelector('#most').value = 3;"
        "document.querySelectorAll('[name=way]').forEach((box) => {"
        "  box.checked = ['direct', 'one-pass'].includes(box.value); });"
        "document.querySelector('#run').click()"
    )
    browser.until("document.querySelector('#note').textContent === 'Done.'")
    direct, one_pass = browser.evaluate(
        "[...document.querySelectorAll('#answers .more')].map((line) => line.textContent)"
    )
    assert direct.startswith("A ")
    # The model is too small to be relied on to sum up.
    assert one_pass.startswith("B ") or "The helper failed" in one_pass
    assert browser.complaints == []
