"""The lines that the user greps for."""

import logging

import pytest

from server.domain.chat import Message
from server.routing.decide import Plan, Strategy
from server.routing.shorten import Shortened
from server.service.report import log_fallback, log_plan, log_summaries

ROUTE = "/api/chat"


@pytest.fixture(autouse=True)
def all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llm-optimizer")


def short(*summaries: str, reused: int = 0) -> Shortened:
    return Shortened((Message("user", "Hi"),) * 3, summaries, helper_ns=1, reused=reused)


def plan(strategy: Strategy, tokens: int = 1234) -> Plan:
    return Plan(strategy, tokens, "because")


@pytest.mark.parametrize(
    ("strategy", "stream", "line"),
    [
        (Strategy.A, True, "/api/chat: direto GPU0 (1234 tokens, stream=True)"),
        (Strategy.A, False, "/api/chat: direto GPU0 (1234 tokens, stream=False)"),
        (Strategy.B, True, "/api/chat: dual-GPU pipeline B (1234 tokens)"),
        (Strategy.B, False, "/api/chat: dual-GPU pipeline B (1234 tokens)"),
        (Strategy.C, True, "/api/chat: map-reduce pipeline C (1234 tokens)"),
        (Strategy.C, False, "/api/chat: map-reduce pipeline C (1234 tokens)"),
    ],
)
def test_the_plan(caplog: pytest.LogCaptureFixture, strategy: Strategy, stream: bool, line: str) -> None:
    log_plan(ROUTE, plan(strategy), stream=stream)
    assert caplog.messages == [line]


def test_another_route(caplog: pytest.LogCaptureFixture) -> None:
    log_plan("/v1/chat/completions", plan(Strategy.A), stream=True)
    assert caplog.messages == ["/v1/chat/completions: direto GPU0 (1234 tokens, stream=True)"]


def test_the_summary_of_b(caplog: pytest.LogCaptureFixture) -> None:
    log_summaries(Strategy.B, 9, short("x" * 321))
    assert caplog.messages == ["GPU1 summary: 321 chars"]


def test_the_summaries_of_b_cut_up(caplog: pytest.LogCaptureFixture) -> None:
    log_summaries(Strategy.B, 9, short("é" * 300, "x" * 400))
    assert caplog.messages == ["GPU1 summary: 300 chars", "GPU1 summary: 400 chars"]


def test_the_summaries_of_c(caplog: pytest.LogCaptureFixture) -> None:
    log_summaries(Strategy.C, 41, short("a", "b", "c", "d"))
    assert caplog.messages == ["map-reduce 41 → 3 msgs, 4 summaries"]


def test_summaries_of_earlier_turns(caplog: pytest.LogCaptureFixture) -> None:
    log_summaries(Strategy.B, 9, short("x" * 321, "y" * 12, reused=1))
    assert caplog.messages == ["1 summaries of earlier turns go on", "GPU1 summary: 12 chars"]


def test_a_fallback(caplog: pytest.LogCaptureFixture) -> None:
    log_fallback(ROUTE, plan(Strategy.C), "the helper failed: no memory")
    assert caplog.messages == [
        "/api/chat: fallback direto GPU0 (1234 tokens, pipeline C): the helper failed: no memory"
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
