"""Who counts tokens for a model that is elsewhere."""

import asyncio

import pytest

from server.remote import RemoteModel
from server.remote.counting import estimated
from tests.remote.asking import HI, spec_of, with_model
from tests.remote.scripted import Call, Scripted


def test_tokens_are_estimated_where_nobody_counts(far: Scripted) -> None:
    async def work(model: RemoteModel) -> None:
        prompt = await asyncio.to_thread(model.prompt, HI, (), None)
        assert not prompt.is_exact
        assert prompt.size_tokens > estimated("Hi")
        asked = len(far.counted)
        await asyncio.to_thread(model.count, "some words")
        assert len(far.counted) == asked

    with_model(spec_of(far), work)


@pytest.mark.parametrize("exact", [True, False])
def test_the_server_counts_where_it_can(far: Scripted, exact: bool) -> None:
    def vllm(call: Call) -> None:
        if call.path == "/tokenize":
            call.status(200, {"count": 42, "max_model_len": 100, "tokens": [1]})
        else:
            call.status(404, {"detail": "Not Found"})

    far.counts = vllm

    async def work(model: RemoteModel) -> None:
        prompt = await asyncio.to_thread(model.prompt, HI, (), None)
        assert prompt.is_exact is exact
        assert (prompt.size_tokens == 42) is exact

    with_model(spec_of(far, exact=exact), work)
    assert bool(far.counted) is exact


def test_a_server_that_stops_counting_is_estimated_for(far: Scripted) -> None:
    far.counts = lambda call: call.status(200, {"tokens": [1, 2, 3], "prompt": "x"})

    async def work(model: RemoteModel) -> None:
        prompt = await asyncio.to_thread(model.prompt, HI, (), None)
        assert (prompt.size_tokens, prompt.is_exact) == (3, True)
        far.counts = lambda call: call.status(500)
        prompt = await asyncio.to_thread(model.prompt, HI, (), None)
        assert not prompt.is_exact

    with_model(spec_of(far), work)
