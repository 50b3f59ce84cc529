"""The access line: its words, its fields, and that it quotes nobody."""

import json
import logging
from dataclasses import replace

import pytest

from server.domain.account import Ending, Record, Visit, Work
from server.logs import JsonLines, PlainLines
from server.service.access import access_fields, access_line, log_access, without_values

VISIT = Visit("req_1", "POST", "/api/chat", "127.0.0.1")
WORK = Work(
    model="m",
    strategy="A",
    planned="A",
    finish="stop",
    tokens_received=33,
    tokens_sent=33,
    cached_tokens=32,
    read_tokens=1,
    generated_tokens=7,
    guessed_tokens=4,
    accepted_tokens=2,
    first_token_s=0.4567,
)
ANSWERED = Record(VISIT, WORK, "/api/chat", 200, Ending.OK, None, 1.234)


def test_an_answer_with_its_figures() -> None:
    assert access_line(ANSWERED) == (
        "/api/chat: m A, 33 tokens received, 33 sent, 32 cached, 7 generated, first token 0.46 s, stop, "
        "1.23 s, id req_1"
    )


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            replace(ANSWERED, ending=Ending.CANCELLED, work=replace(WORK, finish=None)),
            "/api/chat: m A, 33 tokens received, 33 sent, 32 cached, 7 generated, first token 0.46 s, "
            "cancelled, 1.23 s, id req_1",
        ),
        (
            Record(VISIT, Work(), "/api/chat", 404, Ending.NOT_FOUND, "model 'x' not found", 0.001),
            "/api/chat: POST, 404 not_found: model 'x' not found, 0.00 s, id req_1",
        ),
        (
            Record(Visit("a", "GET", "/api/tags"), Work(), "/api/tags", 200, Ending.OK, None, 0.01),
            "/api/tags: GET, 200 ok, 0.01 s, id a",
        ),
        # Where nothing has the path, the line says what it was.
        (
            Record(Visit("a", "GET", "/nothing"), Work(), None, 404, Ending.NOT_FOUND, None, 0.01),
            "/nothing: GET, 404 not_found, 0.01 s, id a",
        ),
        (
            Record(
                VISIT,
                Work(model="e", tokens_received=9, tokens_sent=9),
                "/api/embed",
                200,
                Ending.OK,
                None,
                1.0,
            ),
            "/api/embed: e, 9 tokens received, 9 sent, 200 ok, 1.00 s, id req_1",
        ),
    ],
)
def test_every_other_end(record: Record, line: str) -> None:
    assert access_line(record) == line


def test_the_fields_are_the_same_for_programs() -> None:
    told = access_fields(ANSWERED)
    assert {name: told[name] for name in ("id", "route", "status", "outcome", "model", "strategy")} == {
        **{"id": "req_1", "route": "/api/chat", "status": 200, "outcome": "ok", "model": "m", "strategy": "A"}
    }
    assert (told["tokens_prefilled"], told["tokens_drafted"], told["tokens_accepted"]) == (1, 4, 2)
    assert (told["shortened"], told["total_s"]) == (0, 1.234)
    assert "error" not in told
    assert "model" not in access_fields(replace(ANSWERED, work=Work()))


@pytest.mark.parametrize(
    ("text", "logged"),
    [
        ('messages must be an array, but it is "CANARY"', "messages must be an array, …"),
        ('messages.0.content holds {"text":"CANARY"}, which is no block', "messages.0.content holds …"),
        ('a block of the type "a CANARY"; a system prompt has only text', "a block of the type …"),
        ('modalities must be ["text"], but it is ["CANARY"]', "modalities must be …"),
        ('tool_choice names "look", which is none of the tools', None),
        ("prompt is too long: 9 tokens exceed the context window of 8 tokens", None),
        ("model 'nope' not found", None),
        ('invalid format: "one \\"two\\" CANARY', "invalid format: …"),
    ],
)
def test_an_error_is_logged_without_what_it_quotes(text: str, logged: str | None) -> None:
    assert without_values(text) == (logged or text)


@pytest.mark.parametrize(
    ("ending", "status", "route", "level"),
    [
        (Ending.OK, 200, "/api/chat", "INFO"),
        (Ending.OK, 200, "/metrics", "DEBUG"),
        (Ending.UNAVAILABLE, 503, "/health/ready", "INFO"),
        (Ending.INVALID, 400, "/api/chat", "INFO"),
        (Ending.INTERNAL, 500, "/api/chat", "ERROR"),
        (Ending.ENGINE_FAILED, 200, "/api/chat", "WARNING"),
    ],
)
def test_what_is_how_important(
    caplog: pytest.LogCaptureFixture, ending: Ending, status: int, route: str, level: str
) -> None:
    caplog.set_level(logging.DEBUG, "llm-optimizer")
    log_access(replace(ANSWERED, ending=ending, status=status, route=route))
    assert [record.levelname for record in caplog.records] == [level]


def message(text: str, **more: object) -> logging.LogRecord:
    record = logging.LogRecord("llm-optimizer", logging.INFO, "file.py", 1, "%s", (text,), None)
    record.created = 1_700_000_000.25
    record.__dict__.update(more)
    return record


def test_json_lines_have_the_fields_as_keys() -> None:
    line = JsonLines().format(message("a → b", fields={"id": "req_1", "total_s": 0.5}))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "llm-optimizer",
        "message": "a → b",
        "id": "req_1",
        "total_s": 0.5,
    }


def test_a_traceback_is_in_the_same_object() -> None:
    bug = ZeroDivisionError("nothing")
    told = json.loads(JsonLines().format(message("a bug", exc_info=(type(bug), bug, None))))
    assert (told["message"], told["exception"]) == ("a bug", "ZeroDivisionError: nothing")


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\u2028b", "a\x1b[31mb", "a\x85b"])
def test_what_a_client_sends_cannot_begin_a_line_or_paint_it(text: str) -> None:
    for form in (JsonLines(), PlainLines()):
        line = form.format(message(text))
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line
    assert json.loads(JsonLines().format(message(text)))["message"] == text
