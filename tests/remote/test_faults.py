"""All that can go wrong with another server, over real sockets."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable

import pytest

from server.domain.errors import (
    InvalidRequest,
    RemoteAway,
    RemoteFailed,
    ServiceError,
)
from server.remote import RemoteModel
from server.remote.breaker import FAILURES
from tests.remote.asking import answer, error_of, spec_of, text_of, with_model
from tests.remote.scripted import Call, Scripted, hello


def refused(call: Call) -> None:
    call.status(400, {"error": {"message": "temperature is above 2"}})


def unknown_key(call: Call) -> None:
    call.status(401, {"error": {"message": "Incorrect API key"}})


def unknown_model(call: Call) -> None:
    call.status(404, {"detail": "Not Found"})


def busy(call: Call) -> None:
    call.status(503, {"error": "overloaded"}, retry_after="0")


def broken(call: Call) -> None:
    call.status(500, None)


def hangs_up_at_once(call: Call) -> None:
    call.hang_up()


def ends_before_a_word(call: Call) -> None:
    call.begin()


def breaks_off(call: Call) -> None:
    call.begin()
    call.words("Half")
    call.hang_up()


def tells_an_error(call: Call) -> None:
    call.begin()
    call.words("Half")
    call.event({"error": {"message": "CUDA out of memory"}})


def talks_nonsense(call: Call) -> None:
    call.begin()
    call.event("<html>")


def is_something_else(call: Call) -> None:
    call.begin()
    call.event({"choices": ["Hello"]})


def sends_elsewhere(call: Call) -> None:
    call.status(307, None, location="http://127.0.0.1:1/v1/chat/completions")


@pytest.mark.parametrize(
    ("script", "kind", "words", "tries"),
    [
        (refused, InvalidRequest, "refuses the request: temperature is above 2", 1),
        (unknown_key, RemoteFailed, "Incorrect API key.*remote_key_file", 1),
        (unknown_model, RemoteFailed, "has no model far.*Not Found.*remote_model", 1),
        (busy, RemoteAway, "takes nothing for now.*overloaded", 3),
        (broken, RemoteFailed, "status 500", 3),
        (hangs_up_at_once, RemoteFailed, "broke the connection off", 3),
        (ends_before_a_word, RemoteFailed, "in its middle", 3),
        (breaks_off, RemoteFailed, "127.0.0.1:.*broke the connection off|in its middle", 1),
        (tells_an_error, RemoteFailed, "CUDA out of memory", 1),
        (talks_nonsense, RemoteFailed, "no JSON object", 1),
        (is_something_else, RemoteFailed, "none of this API", 1),
        (sends_elsewhere, RemoteFailed, "status 307", 1),
    ],
)
def test_what_goes_wrong_is_told_and_tried_again_only_before_the_first_word(
    far: Scripted, script: Callable[[Call], None], kind: type[ServiceError], words: str, tries: int
) -> None:
    far.scripts = [script]
    with pytest.raises(kind, match=words):
        with_model(spec_of(far), answer)
    assert len(far.asked) == tries


@pytest.mark.parametrize("script", [busy, broken, hangs_up_at_once, ends_before_a_word])
def test_another_try_succeeds(far: Scripted, script: Callable[[Call], None]) -> None:
    far.scripts = [script, hello]
    parts = with_model(spec_of(far), answer)
    assert text_of(parts) == "Hello there"
    assert len(far.asked) == 2


def test_nobody_is_there(far: Scripted) -> None:
    spec = spec_of(far)
    far.server_close()
    with pytest.raises(RemoteAway, match="cannot be reached"):
        with_model(dataclasses.replace(spec, url="http://127.0.0.1:1/v1", retries=0), answer)


def test_silence_before_and_after_the_first_word(far: Scripted) -> None:
    patience = threading.Event()

    def says_nothing(call: Call) -> None:
        call.begin()
        patience.wait(10)

    def falls_silent(call: Call) -> None:
        call.begin()
        call.words("Half")
        patience.wait(10)

    try:
        far.scripts = [says_nothing]
        with pytest.raises(RemoteFailed, match=r"nothing for 0\.2 s.*remote_first_token_s"):
            with_model(spec_of(far, first_token_s=0.2), answer)
        far.scripts = [falls_silent]
        with pytest.raises(RemoteFailed, match=r"nothing for 0\.2 s.*remote_silence_s"):
            with_model(spec_of(far, silence_s=0.2), answer)
    finally:
        patience.set()


def test_after_failures_in_a_row_it_is_left_alone_and_then_tried_again(far: Scripted) -> None:
    far.scripts = [broken]

    async def work(model: RemoteModel) -> None:
        for _ in range(FAILURES):
            assert isinstance(await error_of(model), RemoteFailed)
        asked = len(far.asked)
        assert asked == FAILURES
        error = await error_of(model)
        assert isinstance(error, RemoteAway)
        assert "tried again in" in str(error)
        assert "status 500" in str(error)
        assert len(far.asked) == asked
        assert model.state.fault is not None
        assert model.state.times_left_alone == 1
        far.scripts = [hello]
        await asyncio.sleep(model.state.retry_in_s)
        assert text_of(await answer(model)) == "Hello there"
        assert model.state.fault is None

    with_model(spec_of(far, retries=0), work)


def test_a_look_closes_it_again(far: Scripted) -> None:
    far.scripts = [broken]

    async def work(model: RemoteModel) -> None:
        for _ in range(FAILURES):
            await error_of(model)
        assert await model.look() == ("far",)
        assert model.state.is_up
        far.looks = unknown_key
        assert await model.look() == ()
        assert "remote_key_file" in str(model.state.fault)

    with_model(spec_of(far, retries=0), work)


def test_the_clients_own_mistakes_do_not_count_against_the_server(far: Scripted) -> None:
    far.scripts = [refused]

    async def work(model: RemoteModel) -> None:
        for _ in range(2 * FAILURES):
            assert isinstance(await error_of(model), InvalidRequest)
        assert model.state.fault is None

    with_model(spec_of(far), work)
