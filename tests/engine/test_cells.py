"""Where prompts that were read once are found again: other lanes, host memory, disk.

On a tiny model that reads fast, or on the embedded one where texts are compared.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.tiny_models import write_llama
from server.domain.generation import Sampling
from server.engine.engine import Engine
from server.engine.llamacpp.library import Library
from server.engine.spec import EngineSpec
from tests.engine.comparing import first_difference
from tests.engine.listening import Listener, ask, chat

MIB = 2**20
SYSTEM = "<|im_start|>system\n" + "You are careful with rule number forty-two. " * 40 + "<|im_end|>\n"
LOADS = Callable[..., Engine]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model") / "llama.gguf")


@pytest.fixture
def load(library: Library, tiny_model: Path) -> Iterator[LOADS]:
    """Engines that end with the test."""
    loaded: list[Engine] = []

    def load_one(context_tokens: int = 16384, path: Path = tiny_model, **wishes: object) -> Engine:
        spec = EngineSpec(path, "CPU", context_tokens, **{"slots": 4, **wishes})  # type: ignore[arg-type]
        loaded.append(Engine.load(library, spec))
        return loaded[-1]

    yield load_one
    for engine in loaded:
        engine.close()


def story(name: str, words: int = 120) -> str:
    """A prompt of about three tokens a word that no other begins like."""
    return f"{name}: " + " ".join(f"{name} {number}" for number in range(words // 3))


def cached(answer: Listener) -> int:
    return answer.finished().usage.cached_tokens


def wait_until_idle(engine: Engine) -> None:
    deadline = time.monotonic() + 60
    while engine.state.running or engine.state.queued:
        assert time.monotonic() < deadline, engine.state
        time.sleep(0.01)


def held_in_native_cache(engine: Engine) -> int:
    """Positions that llama.cpp itself says are in its sequences. Only while the engine is idle."""
    opened = engine._opened.result()
    return sum(opened.context.held_tokens(sequence) for sequence in range(engine.spec.sequences))


def test_what_several_begin_with_is_read_once(load: LOADS) -> None:
    engine = load()
    prompts = [SYSTEM + chat(f"Question {number}?") for number in range(4)]
    answers = [ask(engine, prompt, 4) for prompt in prompts]
    lengths = [answer.finished().usage.prompt_tokens for answer in answers]
    beginning = len(engine.model.tokenize(SYSTEM, add_special=True))
    assert beginning > 256
    assert engine.figures.read_tokens < beginning + sum(length - beginning for length in lengths) + 40
    assert sorted(map(cached, answers))[1] >= beginning - 1


def test_who_waits_for_a_beginning_goes_on_when_its_reader_leaves(load: LOADS) -> None:
    engine = load()
    first = ask(engine, SYSTEM + story("alpha", 1500), 4)
    second = ask(engine, SYSTEM + story("beta", 60), 4)
    while not engine.figures.steps:
        time.sleep(0.005)
    assert first.job
    engine.cancel(first.job)
    first.failed()
    assert second.finished().usage.generated_tokens == 4
    wait_until_idle(engine)


def test_a_conversation_that_had_to_go_comes_back_from_host_memory(load: LOADS, embedded_model: Path) -> None:
    small = load(768, path=embedded_model, host_cache_bytes=256 * MIB)
    roomy = load(4096, path=embedded_model)
    names = ["alpha", "beta", "gamma"]
    turns = {name: [ask(engine, story(name, 300), 4) for engine in (small, roomy)] for name in names}
    for answers in turns.values():
        for answer in answers:
            answer.finished()
    assert small.figures.evictions > 0, "nothing was tested"
    assert small.tiers.ram_bytes > 0
    for name in names:
        texts = [ask(engine, story(name, 300) + " and next", 8, alternatives=8) for engine in (small, roomy)]
        assert cached(texts[0]) >= 256
        assert first_difference(texts[0], texts[1]) is None
    assert small.figures.restored_tokens > 500


def test_without_host_memory_it_is_read_again(load: LOADS) -> None:
    engine = load(1024)
    for name in ("alpha", "beta", "gamma", "delta", "alpha"):
        answer = ask(engine, story(name), 4)
        assert cached(answer) < 20
    assert engine.figures.evictions > 0
    assert engine.tiers.ram_bytes == 0


def test_a_larger_window_does_not_lose_what_was_read(load: LOADS) -> None:
    engine = load(1024, host_cache_bytes=256 * MIB)
    ask(engine, story("alpha"), 4).finished()
    running = ask(engine, story("beta"), 60)
    running.begun.wait(60)
    engine.grow(2048)
    running.finished()
    assert cached(ask(engine, story("alpha") + " and next", 4)) >= 256
    assert engine.figures.restored_tokens > 500


def kept_in(folder: Path) -> dict[str, Any]:
    return {"cache_dir": folder, "disk_cache_bytes": 512 * MIB, "digest": "m"}


def lasting(engine: Engine, question: str, **wishes: object) -> Listener:
    prompt = SYSTEM + chat(question)
    tokens = engine.model.tokenize(prompt, add_special=True)
    return ask(engine, prompt, 4, lasting_tokens=engine.model.first_message_end(tokens), **wishes)


def test_a_system_prompt_outlives_the_process(load: LOADS, embedded_model: Path, tmp_path: Path) -> None:
    wishes = {**kept_in(tmp_path), "path": embedded_model}
    first = load(**wishes)
    before = lasting(first, "One?", alternatives=8)
    assert cached(before) == 0
    first.close()
    assert len(list(tmp_path.glob("*.kvstate"))) == 1
    second = load(**wishes)
    after = lasting(second, "One?", alternatives=8)
    assert cached(after) > 256
    assert second.figures.restored_tokens == cached(after)
    assert first_difference(before, after) is None
    assert cached(lasting(second, "Two?")) >= cached(after)


def test_a_system_prompt_is_written_once_nobody_has_asked_for_a_while(
    load: LOADS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine.engine.TIDY_AFTER_S", 0.5)
    engine = load(**kept_in(tmp_path))
    for question in ("One?", "Two?", "Three?"):
        lasting(engine, question).finished()
        assert engine.tiers.disk_bytes == 0, "the next turn does not wait for a write"
    deadline = time.monotonic() + 60
    while engine.tiers.disk_bytes == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def saved(library: Library, embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the state of a system prompt, read by the embedded model."""
    folder = tmp_path_factory.mktemp("saved")
    engine = Engine.load(library, EngineSpec(embedded_model, "CPU", 16384, slots=4, **kept_in(folder)))
    lasting(engine, "One?").finished()
    engine.close()
    return folder


@pytest.mark.parametrize(
    "other",
    [
        {"digest": "another model"},
        {"kv_type": "q8_0"},
        {"flash_attention": "off"},
        {"context_tokens": 256},
    ],
    ids=str,
)
def test_a_state_that_does_not_match_is_left_alone(
    load: LOADS, embedded_model: Path, saved: Path, tmp_path: Path, other: dict[str, object]
) -> None:
    folder = shutil.copytree(saved, tmp_path / "saved")
    assert list(folder.glob("*.kvstate"))
    second = load(path=embedded_model, **{**kept_in(folder), **other})
    answer = ask(second, SYSTEM[:300] + chat("One?"), 4)
    assert cached(answer) == 0
    assert answer.finished().usage.generated_tokens > 0


def test_a_damaged_state_costs_only_time(
    load: LOADS, embedded_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wishes = {**kept_in(tmp_path), "path": embedded_model}
    first = load(**wishes)
    before = lasting(first, "One?", alternatives=8)
    before.finished()
    first.close()
    (file,) = tmp_path.glob("*.kvstate")
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    second = load(**wishes)
    after = lasting(second, "One?", alternatives=8)
    assert cached(after) == 0
    assert first_difference(before, after) is None
    assert "damaged" in caplog.text
    second.close()
    assert len(list(tmp_path.glob("*.kvstate"))) == 1, "it was written anew"


def test_a_lasting_beginning_stays_when_conversations_go(load: LOADS) -> None:
    engine = load(4096)
    lasting(engine, "One?").finished()
    for number in range(12):
        ask(engine, story(f"other{number}"), 4).finished()
    assert engine.figures.evictions >= 3
    assert cached(lasting(engine, "Two?")) > 256


def test_background_work_makes_way_for_chats(load: LOADS) -> None:
    engine = load(slots=2)
    background = [ask(engine, story(f"work{number}", 900), 30, background=True) for number in range(2)]
    while not engine.figures.read_tokens:
        time.sleep(0.005)
    chats = [ask(engine, chat(f"Say {number}."), 4) for number in range(2)]
    for one in chats:
        one.finished()
    assert not any(one.ended.is_set() for one in background)
    for one in background:
        assert one.finished().usage.generated_tokens == 30


def test_a_chat_does_not_wait_for_background_work_that_reads_the_same(load: LOADS) -> None:
    engine = load()
    background = ask(engine, story("same", 1200), 4, background=True)
    while not engine.figures.read_tokens:
        time.sleep(0.005)
    ask(engine, story("same", 1200), 4).finished()
    background.finished()


def test_places_in_the_queue(load: LOADS) -> None:
    engine = load(slots=1)
    running, *waiting = [ask(engine, story(f"number{number}", 900), 4) for number in range(4)]
    while not engine.figures.read_tokens:
        time.sleep(0.005)
    assert [one.job.position for one in (running, *waiting) if one.job] == [0, 1, 2, 3]
    assert waiting[0].job
    engine.cancel(waiting[0].job)
    waiting[0].failed()
    running.finished()
    assert waiting[1].finished()


@pytest.mark.parametrize("moment", ["waiting", "reading", "following", "generating"])
def test_cancelling_frees_all_cells(load: LOADS, moment: str) -> None:
    engine = load(slots=1 if moment == "waiting" else 4)
    other = ask(engine, story("other", 1500 if moment != "generating" else 60), 200)
    same = "other" if moment == "following" else "mine"
    mine = ask(engine, story(same, 1500 if moment != "generating" else 60) + "!", 200)
    if moment == "generating":
        assert mine.begun.wait(60)
    else:
        while not engine.figures.read_tokens:
            time.sleep(0.005)
    for one in (mine, other):
        assert one.job
        engine.cancel(one.job)
        one.failed()
    wait_until_idle(engine)
    assert engine.state.cells_in_use == 0
    assert held_in_native_cache(engine) == engine.state.kept_tokens
    while engine._opened.result().runner.cells.evict():
        pass
    assert held_in_native_cache(engine) == 0


def test_a_batch_is_not_broken_off_for_somebody_elses_sake(load: LOADS) -> None:
    engine = load()
    short = ask(engine, chat("Tell me a long story."), 200)
    assert short.begun.wait(60)
    long = ask(engine, story("alpha", 900), 4)
    while engine.figures.requests < 2:
        time.sleep(0.005)
    assert short.job
    engine.cancel(short.job)
    usage = long.finished().usage
    assert engine.figures.read_tokens <= len(short.job.generation.prompt) + usage.prompt_tokens


def test_two_engines_of_one_file_share_nothing_but_its_bytes(load: LOADS) -> None:
    one, other = load(), load()
    sampling = Sampling(temperature=0.9, seed=5)
    answers = [ask(engine, chat("Tell me about rain."), 12, sampling=sampling) for engine in (one, other)]
    texts = [answer.wait().text for answer in answers]
    assert cached(answers[1]) == 0
    one.close()
    assert ask(other, chat("Tell me about rain."), 12, sampling=sampling).wait().text
    assert all(texts)


def test_loading_reports_how_far_it_is(library: Library, embedded_model: Path) -> None:
    parts: list[float] = []
    spec = EngineSpec(embedded_model, "CPU", 512)
    engine = Engine.load(library, spec, progress=lambda part: parts.append(part) is None)
    engine.close()
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert len(parts) > 2


def test_kept_conversations_make_way_for_those_that_run(load: LOADS) -> None:
    engine = load(8192, host_cache_bytes=256 * MIB)
    kept = [story(f"conversation {number}", 600) for number in range(6)]
    lengths = [ask(engine, prompt, 2).finished().usage.prompt_tokens for prompt in kept]
    assert held_in_native_cache(engine) < sum(lengths) / 2
    assert engine.tiers.ram_bytes > 0, "they are not lost"
    answer = ask(engine, kept[0] + " and next", 2)
    assert cached(answer) >= lengths[0] - 1
    assert engine.figures.restored_tokens >= lengths[0] - 1


def test_short_kept_conversations_make_way_without_being_lost(load: LOADS) -> None:
    engine = load(4096, host_cache_bytes=256 * MIB)
    kept = [story(f"number {number}", 60) for number in range(6)]
    lengths = [ask(engine, prompt, 2).finished().usage.prompt_tokens for prompt in kept]
    assert max(lengths) < 256
    ask(engine, story("another"), 2).finished()
    wait_until_idle(engine)
    assert held_in_native_cache(engine) < sum(lengths)
    assert cached(ask(engine, kept[0] + " and next", 2)) >= lengths[0] - 1


@pytest.mark.parametrize("host_cache_bytes", [0, 65_536])
def test_what_finds_no_room_in_host_memory_stays_where_it_is(load: LOADS, host_cache_bytes: int) -> None:
    engine = load(8192, host_cache_bytes=host_cache_bytes)
    kept = [story(f"conversation {number}", 300) for number in range(4)]
    lengths = [ask(engine, prompt, 2).finished().usage.prompt_tokens for prompt in kept]
    assert held_in_native_cache(engine) >= sum(lengths)
    for prompt, length in zip(kept, lengths, strict=True):
        assert cached(ask(engine, prompt + " and next", 2)) >= length - 1
    assert engine.figures.restored_tokens == 0


def test_of_a_conversation_that_goes_on_only_the_last_turn_is_copied(load: LOADS) -> None:
    engine = load(8192, host_cache_bytes=256 * MIB)
    turns = [story("the conversation", 300) + " turn after turn" * number for number in range(6)]
    for turn in turns:
        ask(engine, turn, 2).finished()
    ask(engine, story("another", 900), 2).finished()
    wait_until_idle(engine)
    assert engine.figures.evictions >= len(turns)
    assert engine.tiers.states == 1
    assert cached(ask(engine, turns[-1] + " and next", 2)) > 300
