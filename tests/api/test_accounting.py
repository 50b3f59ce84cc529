"""Every request's end is told exactly once, and as what it was."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.api.accounting import Accounting, account_of, ending_of
from server.domain.account import Account, Ending, Record, Visit, Work
from server.domain.errors import (
    DeviceShort,
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    NotSupported,
    PromptTooLong,
    QueueFull,
    RequestCancelled,
    ServiceError,
)
from server.domain.generation import Usage
from server.service.ledger import Ledger
from server.service.recent import Recent

App = Callable[[Scope, Receive, Send], Awaitable[None]]
HANG_UP: Message = {"type": "http.disconnect"}
BODY: Message = {"type": "http.request", "body": b"", "more_body": False}


async def answer(send: Send, status: int = 200, *, whole: bool = True) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"x", "more_body": not whole})


async def visit(app: App, *received: Message, request_id: str = "mine") -> list[Record]:
    """The records of one request that hears ``received``, whatever ``app`` raises."""
    ledger, told, mail = Ledger(), [], list(received)
    ledger.observe(told.append)
    headers = [(b"x-request-id", request_id.encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/chat",
        "headers": headers,
        "client": ("10.0.0.7", 4711),
    }

    async def receive() -> Message:
        return mail.pop(0)

    async def send(_message: Message) -> None:
        pass

    with contextlib.suppress(asyncio.CancelledError, ZeroDivisionError):
        await Accounting(app, ledger=ledger)(scope, receive, send)
    assert ledger.under_way() == ()
    return told


async def answered(_scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await answer(send)
    await receive()


async def cut_by_length(scope: Scope, _receive: Receive, send: Send) -> None:
    account_of(scope).work = Work(finish="length")
    await answer(send)


async def hung_up_on(_scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, whole=False)
    await receive()


async def hung_up_before(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    account_of(scope).error = RequestCancelled()
    await answer(send, 499)


async def stopped(_scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, whole=False)
    raise asyncio.CancelledError


async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ZeroDivisionError


async def broken_midway(_scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, whole=False)
    raise ZeroDivisionError


async def failed_in_a_stream(scope: Scope, _receive: Receive, send: Send) -> None:
    account_of(scope).error = EngineFailed("it broke")
    await answer(send)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("app", "received", "ending", "status"),
    [
        # A client that leaves when it has all is none that hung up.
        (answered, [BODY, HANG_UP], Ending.OK, 200),
        (cut_by_length, [], Ending.LENGTH, 200),
        (hung_up_on, [HANG_UP], Ending.CANCELLED, 200),
        (hung_up_before, [HANG_UP], Ending.CANCELLED, 499),
        (stopped, [], Ending.STOPPED, 200),
        (broken, [], Ending.INTERNAL, None),
        (broken_midway, [], Ending.INTERNAL, 200),
        (failed_in_a_stream, [], Ending.ENGINE_FAILED, 200),
    ],
)
async def test_each_end_is_told_once(
    app: App, received: list[Message], ending: Ending, status: int | None
) -> None:
    [record] = await visit(app, *received)
    assert (record.ending, record.status) == (ending, status)
    assert (record.visit.id, record.visit.method, record.visit.client) == ("mine", "POST", "10.0.0.7")
    assert record.total_s >= 0


@pytest.mark.anyio
async def test_an_id_of_another_form_is_replaced() -> None:
    [record] = await visit(answered, BODY, BODY, request_id="a b\nc")
    assert record.visit.id.startswith("req_")


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (InvalidRequest("no"), Ending.INVALID),
        (PromptTooLong(9, 8), Ending.TOO_LONG),
        (ModelNotFound("x"), Ending.NOT_FOUND),
        (NotSupported("no"), Ending.NOT_SUPPORTED),
        (QueueFull(), Ending.QUEUE_FULL),
        (DeviceShort("full"), Ending.MEMORY_SHORT),
        (ModelLoadFailed("no"), Ending.LOAD_FAILED),
        (EngineFailed("no"), Ending.ENGINE_FAILED),
        (RequestCancelled("the service is stopping"), Ending.STOPPED),
        (ServiceError("a bug"), Ending.INTERNAL),
    ],
)
def test_what_an_error_ends_as(error: ServiceError, ending: Ending) -> None:
    account = Account(error=error)
    assert ending_of(account, 500, gone=False, stopped=False, whole=True) is ending


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (204, Ending.OK),
        (400, Ending.INVALID),
        (403, Ending.REFUSED),
        (404, Ending.NOT_FOUND),
        (405, Ending.INVALID),
        (429, Ending.LIMITED),
        (500, Ending.INTERNAL),
        (503, Ending.UNAVAILABLE),
    ],
)
def test_what_a_status_without_an_error_is(status: int, ending: Ending) -> None:
    assert ending_of(Account(), status, gone=False, stopped=False, whole=True) is ending


@dataclass
class Half:
    """A generation of which a part has been seen."""

    submitted_ns: int
    seen: Usage = field(default_factory=Usage)

    def usage(self) -> Usage:
        return self.seen


def test_the_figures_of_an_answer_that_was_cut_off_are_in_its_record() -> None:
    ledger, recent = Ledger(), Recent()
    ledger.observe(recent.add)
    account = ledger.open(Visit("mine", arrived_ns=1_000_000_000))
    usage = Usage(
        prompt_tokens=50,
        cached_tokens=10,
        read_tokens=40,
        generated_tokens=5,
        guessed_tokens=4,
        accepted_tokens=3,
        queued_ns=500_000_000,
        prefill_ns=1_500_000_000,
        decode_ns=400_000_000,
    )
    account.work = Work(model="m", strategy="A")
    account.generating = Half(2_000_000_000, usage)
    ledger.close(account, "/api/chat", 200, Ending.CANCELLED)
    [record] = recent.records()
    assert record.work == Work(
        model="m",
        strategy="A",
        cached_tokens=10,
        read_tokens=40,
        generated_tokens=5,
        guessed_tokens=4,
        accepted_tokens=3,
        queue_s=0.5,
        first_token_s=3.0,
        token_gap_s=0.1,
    )


def test_without_a_token_there_is_no_time_of_the_first() -> None:
    account = Account(generating=Half(2_000_000_000, Usage(queued_ns=5, prefill_ns=7)))
    assert (account.work_so_far().first_token_s, account.work_so_far().token_gap_s) == (None, None)


def test_closing_twice_tells_nobody() -> None:
    ledger, recent = Ledger(), Recent()
    ledger.observe(recent.add)
    account = ledger.open(Visit())
    account.work = Work(model="m")
    assert ledger.under_way() == (account,)
    for _ in range(2):
        ledger.close(account, None, None, Ending.OK)
    assert recent.ended == 1


def test_an_observer_that_breaks_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def breaks(_record: Record) -> None:
        raise ZeroDivisionError

    ledger, recent = Ledger(), Recent()
    ledger.observe(breaks)
    ledger.observe(recent.add)
    account = ledger.open(Visit())
    account.work = Work(model="m")
    ledger.close(account, None, 200, Ending.OK)
    assert recent.ended == 1
    assert "an observer of requests broke" in caplog.text


def test_who_only_looks_is_not_remembered() -> None:
    recent, looked = Recent(), Record(Visit("look"), Work(), "/api/tags", 200, Ending.OK, None, 1.0)
    recent.add(looked)
    recent.add(replace(looked, visit=Visit("asked"), work=Work(model="m")))
    recent.add(replace(looked, visit=Visit("refused"), error="model is required"))
    assert [record.visit.id for record in recent.records()] == ["refused", "asked"]


def test_only_so_many_are_remembered_the_newest_first() -> None:
    recent = Recent(most=2)
    record = Record(Visit(), Work(model="m"), None, 200, Ending.OK, None, 1.0)
    for name in "abc":
        recent.add(replace(record, visit=Visit(name)))
    assert ([kept.visit.id for kept in recent.records()], recent.ended) == (["c", "b"], 3)
