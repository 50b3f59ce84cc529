"""How the text of an answer is handed out."""

import time

from server.domain.errors import RequestCancelled
from server.domain.generation import (
    EngineEvent,
    Finished,
    FinishReason,
    Generation,
    Sampling,
    TextDelta,
    Usage,
)
from server.engine.lane import Job, Lane

MINUTE_NS = 60 * 10**9
"""Less than any machine has been running, from whose start the clock counts."""


def lane_and_events(stop: tuple[str, ...] = ()) -> tuple[Lane, list[EngineEvent]]:
    events: list[EngineEvent] = []
    generation = Generation((1, 2), sampling=Sampling(), max_tokens=10, stop=stop)
    return Lane.of(Job(1, generation, events.append), 100), events


def texts(events: list[EngineEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


def test_the_first_text_goes_out_at_once_and_what_comes_soon_after_waits() -> None:
    lane, events = lane_and_events()
    for piece in (b"one ", b"two ", b"three "):
        lane.say(piece)
        lane.speak(pause_ns=MINUTE_NS)
    assert texts(events) == ["one "]
    lane.speak()
    assert texts(events) == ["one ", "two three "]


def test_text_goes_out_once_the_pause_is_over() -> None:
    lane, events = lane_and_events()
    for piece in (b"one ", b"two "):
        lane.say(piece)
        lane.speak(pause_ns=1)
        time.monotonic_ns()
    assert texts(events) == ["one ", "two "]


def test_nothing_is_held_back_at_the_end() -> None:
    lane, events = lane_and_events()
    for piece in (b"one ", b"two ", b"three"):
        lane.say(piece)
        lane.speak(pause_ns=MINUTE_NS)
    lane.finish(FinishReason.STOP)
    assert texts(events) == ["one ", "two three"]
    assert isinstance(events[-1], Finished)


def test_half_a_character_waits_for_its_other_half() -> None:
    lane, events = lane_and_events()
    first, second = "é".encode()[:1], "é".encode()[1:]
    lane.say(first)
    lane.speak()
    lane.say(second)
    lane.speak()
    assert texts(events) == ["é"]


def test_a_job_tells_what_it_has_cost_at_any_time() -> None:
    events: list[EngineEvent] = []
    job = Job(1, Generation((1, 2, 3), max_tokens=10), events.append)
    assert job.usage() == Usage(prompt_tokens=3)
    lane = Lane.of(job, 100)
    waiting = job.usage()
    assert waiting.queued_ns > 0
    assert (waiting.prefill_ns, waiting.generated_tokens) == (0, 0)
    lane.place(0, 2)
    lane.take(7, None)
    lane.take(8, None)
    assert (job.usage().cached_tokens, job.usage().generated_tokens) == (2, 2)
    lane.fail(RequestCancelled())
    ended = job.usage()
    assert ended.generated_tokens == 2
    # From then on it stays so, and nothing holds the lane with all its tokens.
    assert (job.usage(), job.lane) == (ended, None)
