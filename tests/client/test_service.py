"""Whatever answers, or does not: errors are words."""

import json
import socket

import pytest

from server.client.errors import ClientError, NoSuchModel, NotThere, Refused
from server.client.service import Service
from tests.client.fake_service import Canned, fake_service

CHAT = "/api/chat"


def test_who_answers() -> None:
    with fake_service() as fake, Service(fake.url) as service:
        assert service.version() == "0.1.0"
        fake.answers["/api/version"] = Canned({"version": "0.32.15"})
        with pytest.raises(NotThere, match="an Ollama answers at http"):
            service.version()
        for other in (Canned("<html>", 404), Canned("[1]"), Canned("", 500)):
            fake.answers["/api/version"] = other
            with pytest.raises(NotThere, match="another program answers"):
                service.version()


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    service = Service(f"http://127.0.0.1:{port}")
    with service, pytest.raises(NotThere, match='Connection refused; start it with "llm-optimizer serve"'):
        service.version()


def test_somebody_who_never_says_anything() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = Service(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)
        with service, pytest.raises(Refused, match="silent for too long"):
            service.version()


def test_the_key_goes_along_and_is_asked_for() -> None:
    with fake_service() as fake:
        with Service(fake.url, "secret") as service:
            service.version()
        assert fake.asked[0].headers["Authorization"] == "Bearer secret"
        fake.answers["/api/version"] = Canned({"error": "unauthorized"}, 401)
        with (
            Service(fake.url) as service,
            pytest.raises(Refused, match=r"unauthorized; .*LLM_OPTIMIZER_API_KEY"),
        ):
            service.version()
        assert "Authorization" not in fake.asked[1].headers
    with pytest.raises(ClientError, match="LLM_OPTIMIZER_API_KEY"):
        Service("http://127.0.0.1:1", "schlüssel")


@pytest.mark.parametrize(
    ("canned", "words"),
    [
        (Canned({"error": "in Ollama's form"}, 400), "in Ollama's form"),
        (Canned({"error": {"message": "in OpenAI's form"}}, 400), "in OpenAI's form"),
        (Canned("<html>", 502), "502 Bad Gateway"),
        (Canned("no JSON"), "no JSON object came back: no JSON"),
        (Canned([{"message": {}, "done": False}, {"error": "in the middle"}]), "in the middle"),
        (Canned([{"message": {}, "done": False}]), "broke before the end"),
        (Canned([{"message": {}, "done": False}], promised_bytes=9), "the connection to http.* broke"),
    ],
)
def test_what_goes_wrong_with_a_stream(canned: Canned, words: str) -> None:
    with (
        fake_service({CHAT: canned}) as fake,
        Service(fake.url) as service,
        pytest.raises(Refused, match=words),
    ):
        list(service.stream(CHAT, {"model": "m"}))


def test_what_is_no_text_is_sent_all_the_same() -> None:
    with fake_service({CHAT: Canned({})}) as fake, Service(fake.url) as service:
        service.post(CHAT, {"a": "\udcff", "b": "\ud800", "c": "é"})
    assert json.loads(fake.asked[0].body)["c"] == "é"


def test_lines_end_at_line_feeds_only() -> None:
    text = "one\u2028two\x85three"
    lines = [{"message": {"content": text}, "done": False}, {"done": True}]
    with fake_service({CHAT: Canned(lines)}) as fake, Service(fake.url) as service:
        assert [*service.stream(CHAT, {})] == lines
    raw = '{"a": "' + text + '", "done": true}'
    with fake_service({CHAT: Canned(raw)}) as fake, Service(fake.url) as service:
        assert [*service.stream(CHAT, {})] == [{"a": text, "done": True}]


def test_a_name_that_nobody_has_is_told_with_those_that_are_alike() -> None:
    missing, tags = (
        Canned({"error": "model 'qwen3' not found"}, 404),
        Canned({"models": [{"name": "qwen3:4b"}]}),
    )
    answers = {"/api/show": missing, "/api/tags": tags}
    words = "model 'qwen3' not found; did you mean qwen3:4b\\?"
    with (
        fake_service(answers) as fake,
        Service(fake.url) as service,
        pytest.raises(NoSuchModel, match=words),
    ):
        service.post("/api/show", {"model": "qwen3"})
