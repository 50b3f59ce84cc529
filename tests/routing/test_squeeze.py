import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.ollama.wire import ChatBody
from server.domain.chat import Message, ToolCall
from server.routing.outline import outline_of
from server.routing.results import Key, Kind, results_of
from server.routing.squeeze import Marks, Rung, Shortening, Squeezed, squeeze

CAPTURES = Path(__file__).resolve().parents[3] / "shared" / "cline-captures"
SYSTEM, TASK = Message("system", "You are an agent."), Message("user", "Mend the tests of stock.py.")


def count(text: str) -> int:
    return len(text) // 3


outline = lru_cache(maxsize=None)(outline_of)
"""What the service remembers from request to request."""


def run(messages: Sequence[Message], window: int, frame: int = 0) -> Squeezed:
    return squeeze(messages, frame, Marks.of(window), count, outline=outline)


def read(
    path: str, text: str, number: int, *, success: bool = True, words: str = "Reading."
) -> list[Message]:
    call = ToolCall("read_files", {"files": [{"path": path}]}, str(number))
    result = json.dumps([{"query": path, "result": text, "success": success}], separators=(",", ":"))
    return [
        Message("assistant", words, tool_calls=(call,)),
        Message("tool", result, tool_name="read_files", tool_call_id=str(number)),
    ]


def source(name: str, lines: int = 100) -> str:
    return "\n".join(
        f"def {name}_{number}(): return {number}" if number % 25 == 0 else f"# {name} {number}"
        for number in range(lines)
    )


def session(files: int, lines: int = 100, words: str = "Reading.") -> list[Message]:
    turns = [
        read(f"/p/f{number}.py", source(f"f{number}", lines), number, words=words) for number in range(files)
    ]
    return [SYSTEM, TASK, *(message for turn in turns for message in turn)]


def test_nothing_happens_while_it_fits() -> None:
    chat = session(6)
    tokens = run(chat, 1_000_000).tokens
    squeezed = run(chat, int(tokens / 0.75) + 1)
    assert squeezed.messages == tuple(chat)
    assert (squeezed.shortenings, squeezed.steps) == ((), 0)


def test_the_oldest_results_give_way_until_the_goal() -> None:
    chat = session(20)
    squeezed = run(chat, 8000)
    assert 3600 - 500 < squeezed.tokens <= 3600
    assert squeezed.steps == 1
    assert {one.rung for one in squeezed.shortenings} == {Rung.OUTLINE}
    places = [one.result.key.message for one in squeezed.shortenings]
    assert places == sorted(places)
    assert places == list(range(3, 39, 2))
    assert squeezed.messages[38:] == tuple(chat[38:])


def test_the_prefix_survives_from_turn_to_turn() -> None:
    chat = session(60)
    requests = [run(chat[:end], 10_000) for end in range(2, len(chat) + 1, 2)]
    broken = sum(
        later.messages[: len(earlier.messages)] != earlier.messages for earlier, later in pairwise(requests)
    )
    assert broken == requests[-1].steps
    assert 0 < broken <= 8
    assert all(request.tokens <= 9000 for request in requests)


def test_the_same_history_gives_the_same_bytes() -> None:
    chat = session(40)
    assert run(chat, 10_000) == run(list(chat), 10_000)


def test_an_older_copy_points_to_the_newest() -> None:
    old, new = source("old"), source("new")
    chat = [SYSTEM, TASK, *read("/p/a.py", old, 1), *read("/p/a.py", new, 2), *session(20)[2:]]
    squeezed = run(chat, 8000)
    pointer = next(one for one in squeezed.shortenings if one.result.text == old)
    assert pointer.rung is Rung.NEWER_COPY
    assert (
        pointer.text
        == "[Shortened: an older copy. /p/a.py was read or saved again; its newest text is further below.]"
    )


def test_the_same_output_again() -> None:
    listing = "\n".join(f"file-{number}" for number in range(200))

    def ls(number: int) -> list[Message]:
        call = ToolCall("run_commands", {"commands": ["ls"]}, f"ls{number}")
        return [
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", listing, tool_name="run_commands", tool_call_id=f"ls{number}"),
        ]

    squeezed = run([SYSTEM, TASK, *ls(1), *session(12)[2:], *ls(2), *session(12)[2:]], 8000)
    assert squeezed.messages[3].content == (
        "[Shortened: the same text is further below, as the newest result of run_commands.]"
    )


def test_a_file_that_the_last_turns_name_stays_whole() -> None:
    chat = session(20, words="It goes on with f0.py.")
    squeezed = run(chat, 8000)
    assert squeezed.messages[3] == chat[3]
    assert squeezed.messages[5] != chat[5]


@pytest.mark.parametrize(
    "message",
    [
        Message(
            "tool",
            json.dumps([{"query": "x", "result": "y" * 3000, "success": False}]),
            tool_name="read_files",
        ),
        Message("tool", "Edited a.py\n" + "+ line\n" * 400, tool_name="editor"),
        Message("tool", "[outdated - see the latest file content] " + "x" * 3000, tool_name="read_files"),
        Message("user", "Context summary:\n" + "long ago\n" * 300),
    ],
)
def test_what_stays_although_it_is_old(message: Message) -> None:
    chat = session(20)
    calls = () if message.role == "user" else (ToolCall(message.tool_name or "", {}, "z"),)
    chat[2:2] = [Message("assistant", "Hm.", tool_calls=calls), message]
    squeezed = run(chat, 8000)
    assert squeezed.shortenings
    assert squeezed.messages[3] == message


def test_one_turn_is_enough_where_two_do_not_fit() -> None:
    chat = [SYSTEM, TASK, *read("/p/a.py", source("a", 400), 1), *read("/p/b.py", source("b", 400), 2)]
    whole = run(chat, 100_000).tokens
    squeezed = run(chat, int(whole * 0.95))
    assert [one.result.subject for one in squeezed.shortenings] == ["/p/a.py"]
    assert squeezed.messages[-1] == chat[-1]


def requests_of(folder: str) -> list[Any]:
    found = sorted((CAPTURES / folder).glob("[0-9][0-9][0-9].json"))
    if not found:
        pytest.skip("no recorded requests here")
    return [ChatBody.model_validate_json(path.read_bytes()).to_domain() for path in found]


@pytest.mark.parametrize(
    "folder",
    ["s1-small", "s2-big", "s3-error", "s6-yolo", "s9-subagents", "c1-classic-small", "c4-classic-compact"],
)
@pytest.mark.parametrize("window", [2048, 4096, 16_384, 32_768])
def test_no_protocol_breaks_in_recorded_sessions(folder: str, window: int) -> None:
    for request in requests_of(folder):
        check_protocol(request.messages, run(request.messages, window))


@pytest.mark.parametrize("window", [16_384, 32_768])
def test_a_recorded_session_is_read_once_and_little_more(window: int) -> None:
    """A token is three characters here; the model's own give 1.13 and 1.20."""
    read_tokens, before = 0, ()
    for request in requests_of("s2-big"):
        squeezed = run(request.messages, window, frame=3600)
        same = next(
            (
                place
                for place, pair in enumerate(zip(before, squeezed.messages, strict=False))
                if pair[0] != pair[1]
            ),
            len(before),
        )
        read_tokens += sum(count(message.content) + 6 for message in squeezed.messages[same:])
        before = squeezed.messages
        assert squeezed.tokens <= window
    whole = sum(count(message.content) + 6 for message in request.messages)
    assert read_tokens <= 1.25 * (whole + 3600)


def check_protocol(before: Sequence[Message], squeezed: Squeezed) -> None:
    """What code keeps word for word, whatever the conversation."""
    after = squeezed.messages
    assert len(after) == len(before)
    shortened = {one.result.key: one for one in squeezed.shortenings}
    results = {result.key: result for result in results_of(before)}
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        assert replace(new, content="") == replace(old, content="")
        touched = [key for key in shortened if key.message == place]
        if not touched:
            assert new == old
        assert old.role in ("tool", "user") or new == old
    tasks = [place for place, message in enumerate(before) if message.role == "user"][:1]
    assert all(after[place] == before[place] for place in tasks)
    for key, one in shortened.items():
        assert one.result == results[key]
        assert one.result.kind is not Kind.EDIT
        assert not one.result.failed
        assert len(one.text) < len(one.result.text)
    answers = [place for place, message in enumerate(before) if message.role == "assistant"]
    if answers:
        assert all(key.message < answers[-1] for key in shortened)
    for old, new in zip(before, after, strict=True):
        assert users_words(old) == users_words(new)
        if old.content.startswith("[{") and results_of([old]):
            assert shape(old.content) == shape(new.content)


def users_words(message: Message) -> str:
    """A user's message without the results and surroundings in it."""
    if message.role != "user":
        return ""
    content = message.content
    for result in results_of([message]):
        content = content.replace(result.text, "")
    return re.sub(r"\s+", " ", content)


def shape(content: str) -> Any:
    try:
        items = json.loads(content)
    except ValueError:
        return None
    return [
        {key: value for key, value in item.items() if key != "result"}
        for item in items
        if isinstance(item, dict)
    ]


TEXTS = st.one_of(
    st.text(max_size=40),
    st.integers(0, 300).map(lambda lines: source("any", lines)),
    st.sampled_from(["ERROR failed\n" * 60, "x" * 2000, "[Shortened: x]", "\n" * 500]),
)
PATHS = st.sampled_from(["a.py", "/p/b.go", "c", "", "d.md:1-3"])
TOOLS = st.sampled_from(["read_files", "run_commands", "editor", "search", ""])


@st.composite
def turns(draw: st.DrawFn) -> list[Message]:
    tool, path, text, number = draw(TOOLS), draw(PATHS), draw(TEXTS), str(draw(st.integers(0, 9)))
    answer = Message("assistant", draw(TEXTS), tool_calls=(ToolCall(tool, {"path": path}, number),))
    form = draw(st.sampled_from(["json", "plain", "xml", "talk"]))
    if form == "json":
        item = {"query": path, "result": text, "success": draw(st.booleans())}
        return [answer, Message("tool", json.dumps([item] * draw(st.integers(1, 3))), tool_call_id=number)]
    if form == "plain":
        return [answer, Message("tool", text, tool_name=tool, tool_call_id=draw(st.none() | st.just(number)))]
    if form == "xml":
        place = f"<environment_details>\n{text}</environment_details>"
        body = f"[{tool or 'ls'} for '{path}'] Result:\n{text}\n{place}"
        return [replace(answer, tool_calls=()), Message("user", body)]
    return [replace(answer, tool_calls=()), Message("user", text)]


@settings(max_examples=200, deadline=None)
@given(st.lists(turns(), max_size=12), st.integers(100, 20_000))
def test_whatever_the_conversation(made: list[list[Message]], window: int) -> None:
    chat = [SYSTEM, TASK, *(message for turn in made for message in turn)]
    squeezed = run(chat, window)
    check_protocol(chat, squeezed)
    assert squeezed.tokens <= run(chat, 10_000_000).tokens
    assert run(chat, window) == squeezed


@settings(max_examples=100, deadline=None)
@given(st.lists(turns(), min_size=1, max_size=10), st.integers(100, 5000))
def test_what_was_shortened_stays_shortened(made: list[list[Message]], window: int) -> None:
    """The next turn adds to the shortenings, or leaves less of one."""
    chat = [SYSTEM, TASK, *(message for turn in made for message in turn)]
    before: dict[Key, Shortening] = {}
    for end in [place for place, message in enumerate(chat) if message.role == "assistant"][1:]:
        now = {one.result.key: one for one in run(chat[:end], window).shortenings}
        assert before.keys() <= now.keys()
        assert all(
            now[key].rung is Rung.NOTE or now[key] == one.with_units(now[key].units)
            for key, one in before.items()
        )
        before = now


def make(number: int, lines: int = 150) -> list[Message]:
    """A turn in which a command tells much."""
    call = ToolCall("run_commands", {"commands": [f"make {number}"]}, f"make{number}")
    log = "\n".join(f"{number}: step {line} of the build is done" for line in range(lines))
    result = json.dumps([{"query": f"make {number}", "result": log, "success": True}])
    return [
        Message("assistant", "I build it.", tool_calls=(call,)),
        Message("tool", result, tool_name="run_commands", tool_call_id=f"make{number}"),
    ]


def test_the_helpers_words_stand_below_the_outline_of_a_log() -> None:
    chat = [SYSTEM, TASK, *(message for number in range(12) for message in make(number))]
    words = {"make 0": "All of it was built.", "make 1": "It was built again."}
    squeezed = squeeze(chat, 0, Marks.of(12_000), count, words_of=lambda result: words.get(result.subject))
    plain = run(chat, 12_000)
    first, second, third = squeezed.shortenings[:3]
    assert [one.rung for one in (first, second, third)] == [Rung.SUMMARY, Rung.SUMMARY, Rung.OUTLINE]
    assert plain.shortenings[0].outline is not None
    assert first.text.startswith(plain.shortenings[0].outline.text(0))
    assert "<summary>\nAll of it was built.\n</summary>" in first.text
    assert json.loads(squeezed.messages[3].content)[0]["result"] == first.text
    assert third.outline == plain.shortenings[2].outline


def test_the_oldest_summaries_become_a_note_as_well() -> None:
    chat = [SYSTEM, TASK, *(message for number in range(60) for message in make(number))]
    squeezed = squeeze(chat, 0, Marks.of(7000), count, words_of=lambda result: "It was built. " * 30)
    assert Rung.NOTE in {one.rung for one in squeezed.shortenings}
    assert squeezed.tokens <= 0.95 * 7000


def figures(number: int) -> list[Message]:
    """A turn that reads a file whose names and numbers are in no definition."""
    text = "\n".join(
        f"call({10_000 + 100 * number + line}, some_name_{line}) and then more" for line in range(60)
    )
    return read(f"/p/l{number}.py", text, number)


FIGURES = [SYSTEM, TASK, *(message for number in range(12) for message in figures(number))]


def to(goal: int, limit: int = 9950, brim: int = 9990) -> Squeezed:
    return squeeze(FIGURES, 0, Marks(9700, goal, limit, brim), count, outline=outline)


def numbers_in(one: Shortening) -> int:
    return len(re.findall(r"\b1\d{4}\b", one.text))


def test_outlines_say_what_the_others_mention_as_far_as_the_goal_has_room() -> None:
    all_of_it, some, least = to(7500), to(6000), to(4000)
    assert len(all_of_it.shortenings) < len(some.shortenings) == len(least.shortenings) == 10
    assert all(numbers_in(one) == 60 for one in all_of_it.shortenings)
    assert 5950 < some.tokens <= 6000
    # Of numbers that cost the same those of the newest results stay.
    kept = [numbers_in(one) for one in some.shortenings]
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (5, 60)
    assert all(numbers_in(one) == 5 for one in least.shortenings)
    assert all("some_name_30" in one.text for one in (*some.shortenings, *least.shortenings))


def test_names_go_where_it_would_not_fit_otherwise() -> None:
    assert all("some_name_30" in one.text for one in to(1000, limit=9690, brim=9690).shortenings)
    assert not any("some_name_30" in one.text for one in to(1000, limit=1100, brim=9690).shortenings)


def test_a_note_stays_a_note() -> None:
    chat = session(90)
    before: dict[Key, Rung] = {}
    for end in range(150, len(chat) + 1, 4):
        rungs = {one.result.key: one.rung for one in run(chat[:end], 6000).shortenings}
        assert all(rungs[key] is Rung.NOTE for key, rung in before.items() if rung is Rung.NOTE)
        before = rungs
    assert Rung.NOTE in before.values()
