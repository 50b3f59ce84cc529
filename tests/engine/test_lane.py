"""How the text of an answer is handed out."""

import time

from server.domain.generation import EngineEvent, Finished, FinishReason, Generation, Sampling, TextDelta
from server.engine.lane import Job, Lane

HOUR_NS = 3600 * 10**9


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
        lane.speak(pause_ns=HOUR_NS)
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
        lane.speak(pause_ns=HOUR_NS)
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
