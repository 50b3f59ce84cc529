"""The engine on the real embedded model."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.domain.errors import (
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
    PromptTooLong,
    QueueFull,
    RequestCancelled,
    Unloaded,
)
from server.domain.generation import FinishReason, Sampling
from server.engine.engine import Engine
from server.engine.grammar import grammar_of
from server.engine.llamacpp.library import Library
from server.engine.runner import Runner
from server.engine.spec import EngineSpec
from tests.engine.listening import ask, chat

PROJECT = Path(__file__).resolve().parents[2]
LONG = "word " * 3000
COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,"
"""Its continuation is beyond doubt, so that differently rounded sums give the same greedy text."""


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module")
def engine(library: Library, embedded_model: Path) -> Iterator[Engine]:
    loaded = Engine.load(library, EngineSpec(embedded_model, "CPU", 4096, slots=8, queue=8))
    yield loaded
    loaded.close()


@pytest.fixture
def own_engine(library: Library, embedded_model: Path) -> Iterator[Engine]:
    """An engine that the test may break: 2 slots, a queue of 1, a window of 512 tokens."""
    spec = EngineSpec(embedded_model, "CPU", 512, slots=2, queue=1, batch_tokens=128)
    loaded = Engine.load(library, spec)
    yield loaded
    loaded.close()


def wait_until_idle(engine: Engine) -> None:
    deadline = time.monotonic() + 10
    while engine.state.running or engine.state.queued:
        assert time.monotonic() < deadline, engine.state
        time.sleep(0.01)


def test_a_generation_gives_text_and_figures(engine: Engine) -> None:
    answer = ask(engine, chat("Name three colours."), max_tokens=12)
    usage = answer.finished().usage
    assert answer.text.strip()
    assert usage.generated_tokens == len(answer.finished().tokens) <= 12
    assert usage.prompt_tokens > usage.cached_tokens >= 0
    assert usage.prefill_ns > 0
    assert usage.decode_ns > 0


def test_each_of_eight_at_once_gets_an_answer_to_its_own_question(engine: Engine) -> None:
    # Word for word is not to be had: a larger batch rounds differently. See test_llamacpp.py.
    things = ["cats", "dogs", "trees", "rain", "bread", "snow", "horses", "books"]
    answers = {thing: ask(engine, chat(f"Tell me about {thing}."), max_tokens=24) for thing in things}
    texts = {thing: answer.wait().text.casefold() for thing, answer in answers.items()}
    assert all(thing[:3] in text for thing, text in texts.items()), texts


def test_an_engine_tells_what_it_has_read(engine: Engine) -> None:
    prompt = chat("Which rivers flow through Coimbra and Porto?")
    tokens = engine.model.tokenize(prompt, add_special=True)
    assert engine.known_tokens(tokens) < len(tokens) - 5
    answer = ask(engine, prompt, max_tokens=4).finished()
    wait_until_idle(engine)
    assert engine.known_tokens(tokens) == len(tokens)
    assert engine.known_tokens([*tokens, *answer.tokens[:2], 0]) == len(tokens) + 2
    assert engine.known_tokens([]) == 0


def test_the_next_turn_reads_only_what_is_new(engine: Engine) -> None:
    first_prompt = chat("What is a compiler? Explain it at length.")
    first = ask(engine, first_prompt, max_tokens=20)
    held = len(first.finished().tokens) + first.finished().usage.prompt_tokens - 1
    second = ask(engine, chat("And a linker?", before=f"{first_prompt}{first.text}<|im_end|>\n"))
    # The text may be cut into other tokens than it was generated in, at its very end only.
    assert second.finished().usage.cached_tokens >= held - 2


def test_a_shared_beginning_is_reused_from_a_conversation_that_still_runs(engine: Engine) -> None:
    system = "<|im_start|>system\n" + "You know all about ships. " * 40 + "<|im_end|>\n"
    running = ask(engine, chat("Tell me everything about anchors.", before=system), max_tokens=60)
    assert running.begun.wait(120)
    second = ask(engine, chat("And sails?", before=system), max_tokens=4)
    assert second.finished().usage.cached_tokens > 200
    running.finished()


def test_greedy_text_is_the_same_with_and_without_a_cached_prefix(engine: Engine, own_engine: Engine) -> None:
    answers = [ask(one, COUNTING, max_tokens=20).wait() for one in (engine, engine, own_engine, own_engine)]
    assert len({answer.text for answer in answers}) == 1
    assert answers[1].finished().usage.cached_tokens > answers[0].finished().usage.cached_tokens


def test_a_seed_repeats_a_sampled_text(library: Library, embedded_model: Path) -> None:
    def text_of(seed: int) -> str:
        fresh = Engine.load(library, EngineSpec(embedded_model, "CPU", 512))
        sampling = Sampling(temperature=1.5, seed=seed, repeat_penalty=1.1, min_p=0.02)
        text = ask(fresh, chat("Invent a name for a robot."), max_tokens=12, sampling=sampling).wait().text
        fresh.close()
        return text

    texts = [text_of(seed) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_stop_strings_end_the_text_before_them(engine: Engine) -> None:
    prompt = chat("Count from one to ten in words, separated by commas.")
    whole = ask(engine, prompt, max_tokens=30).wait().text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    cut = ask(engine, prompt, max_tokens=30, stop=(stop,))
    assert cut.finished().reason is FinishReason.STOP
    assert cut.text == whole[: whole.index(stop)]


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_the_limit_of_tokens_is_exact(engine: Engine, limit: int) -> None:
    end = ask(engine, chat("Tell me a very long story."), max_tokens=limit).finished()
    assert (end.reason, end.usage.generated_tokens) == (FinishReason.LENGTH, limit)


def test_a_full_window_ends_the_answer_with_length(own_engine: Engine) -> None:
    end = ask(own_engine, "1, 2, 3, 4, 5, " * 32, max_tokens=None).finished()
    assert end.reason is FinishReason.LENGTH
    assert end.usage.prompt_tokens + end.usage.generated_tokens == 512


def test_a_prompt_that_fills_the_window_is_refused(own_engine: Engine) -> None:
    with pytest.raises(PromptTooLong, match="exceed the context window of 512 tokens"):
        ask(own_engine, "word " * 600)
    assert ask(own_engine, chat("Hi"), max_tokens=2).finished()


def test_cancelling_in_the_middle_of_a_prefill_takes_effect_at_once(engine: Engine) -> None:
    victim = ask(engine, LONG)
    time.sleep(0.2)
    started = time.monotonic()
    assert victim.job
    engine.cancel(victim.job)
    assert isinstance(victim.failed().error, RequestCancelled)
    assert time.monotonic() - started < 2
    wait_until_idle(engine)


def test_cancelling_others_does_not_change_a_text(engine: Engine) -> None:
    alone = ask(engine, COUNTING, max_tokens=60).wait().text
    survivor = ask(engine, COUNTING, max_tokens=60)
    for round_number in range(5):
        victim = ask(engine, f"{round_number} {LONG}")
        time.sleep(0.05)
        assert victim.job
        engine.cancel(victim.job)
        victim.failed()
    survivor.finished()
    assert survivor.text == alone


def test_cancelling_after_the_end_is_harmless(engine: Engine) -> None:
    answer = ask(engine, chat("Hi"), max_tokens=2)
    answer.finished()
    assert answer.job
    engine.cancel(answer.job)
    assert ask(engine, chat("Hi"), max_tokens=2).finished()


def test_the_queue_is_bounded_and_moves_on(own_engine: Engine) -> None:
    accepted = [ask(own_engine, chat(f"Story {number}"), max_tokens=30) for number in range(3)]
    with pytest.raises(QueueFull):
        ask(own_engine, chat("One too many"))
    for answer in accepted:
        answer.finished()
    wait_until_idle(own_engine)
    assert ask(own_engine, chat("Now there is room"), max_tokens=2).finished()


def test_when_cells_run_out_a_generation_waits_and_loses_nothing(
    own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 150 tokens of prompt and 150 of answer fit once into 512 cells, not twice.
    prompts = [f"{start} {COUNTING} " * 2 + COUNTING for start in ("Count:", "Numbers:")]
    alone = [ask(own_engine, prompt, max_tokens=150).wait().text for prompt in prompts]
    sent_back = count_calls(monkeypatch, Runner, "_send_back")
    together = [ask(own_engine, prompt, max_tokens=150) for prompt in prompts]
    assert [answer.finished().usage.generated_tokens for answer in together] == [150, 150]
    assert sent_back, "the cells were enough: the test shows nothing"
    assert [answer.text for answer in together] == alone


def test_a_larger_window_can_be_had_while_answers_run(own_engine: Engine) -> None:
    running = ask(own_engine, chat("Tell me about bees."), max_tokens=60)
    assert running.begun.wait(60)
    assert own_engine.grow(2048) == 2048
    running.finished()
    assert own_engine.state.context_tokens == 2048
    assert own_engine.grow(1024) == 2048
    assert ask(own_engine, chat("word " * 700), max_tokens=2).finished().usage.prompt_tokens > 512


def test_a_window_that_memory_does_not_allow_leaves_the_old_one(
    own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = own_engine.model.new_context
    monkeypatch.setattr(
        own_engine.model,
        "new_context",
        lambda shape: real(shape) if shape.context_tokens == 512 else _no_memory(),
    )
    with pytest.raises(ModelLoadFailed, match="no memory"):
        own_engine.grow(4096)
    assert ask(own_engine, chat("Still there?"), max_tokens=2).finished()


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[object]:
    """A list that grows with every call of a method, which works as before."""
    calls: list[object] = []
    real = getattr(owner, name)

    def counted(self: object, *arguments: object) -> object:
        calls.append(arguments)
        return real(self, *arguments)

    monkeypatch.setattr(owner, name, counted)
    return calls


def _no_memory() -> None:
    raise ModelLoadFailed("no memory")


def test_a_grammar_shapes_the_answer(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    answer = ask(engine, chat("Describe Ada as JSON."), max_tokens=80, grammar=grammar_of(schema))
    assert answer.finished().reason is FinishReason.STOP
    assert set(json.loads(answer.text)) == {"name", "age"}


def test_a_grammar_can_wait_for_a_text(engine: Engine) -> None:
    prompt = "<|im_start|>user\nSay ok<|im_end|>\n<|im_start|>assistant\nThinking: fine"
    free = ask(engine, prompt, max_tokens=12).wait().text
    trigger = free[2:6]
    answer = ask(engine, prompt, max_tokens=40, grammar='root ::= "{}"', grammar_after=trigger)
    answer.finished()
    # The token that completes the awaited text may bring a little more.
    assert answer.text.startswith(free[:6])
    assert answer.text.endswith("{}")
    assert len(answer.text) < 30


@pytest.mark.parametrize("beginning", [None, "", "kind of thing it never says"])
def test_a_grammar_waits_for_nothing_where_the_answer_begins_otherwise(
    engine: Engine, beginning: str | None
) -> None:
    prompt = "<|im_start|>user\nSay ok<|im_end|>\n<|im_start|>assistant\nThinking: fine"
    free = ask(engine, prompt, max_tokens=12).wait().text
    waits = {"grammar": 'root ::= "{}"', "grammar_after": "never said"}
    answer = ask(engine, prompt, max_tokens=12, grammar_unless=beginning, **waits)
    answer.finished()
    assert answer.text == ("{}" if beginning else free)


def test_a_grammar_waits_where_the_answer_begins_as_it_should(engine: Engine) -> None:
    prompt = "<|im_start|>user\nSay ok<|im_end|>\n<|im_start|>assistant\nThinking: fine"
    free = ask(engine, prompt, max_tokens=12).wait().text
    waits = {"grammar": 'root ::= "{}"', "grammar_after": free[2:6], "grammar_unless": free[:2].lstrip()}
    answer = ask(engine, prompt, max_tokens=40, **waits)
    answer.finished()
    assert answer.text.startswith(free[:6])
    assert answer.text.endswith("{}")


def test_a_broken_grammar_is_the_requests_fault(engine: Engine) -> None:
    error = ask(engine, chat("Hi"), grammar="root ::= (").failed().error
    assert isinstance(error, InvalidRequest)
    assert ask(engine, chat("Hi"), max_tokens=2).finished()


def test_unloading_ends_what_runs(library: Library, embedded_model: Path) -> None:
    doomed = Engine.load(library, EngineSpec(embedded_model, "CPU", 512))
    answers = [ask(doomed, chat("Tell me everything."), max_tokens=400) for _ in range(12)]
    doomed.close()
    assert all(isinstance(answer.failed().error, Unloaded) for answer in answers)
    with pytest.raises(EngineFailed, match="unloaded"):
        ask(doomed, chat("Hello?"))
    with pytest.raises(EngineFailed):
        doomed.grow(1024)
    doomed.close()


def test_a_breakdown_is_reported_to_everyone_and_remembered(
    library: Library, embedded_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.load(library, EngineSpec(embedded_model, "CPU", 512))
    monkeypatch.setattr(Runner, "_advance", lambda *_: 1 / 0)
    answers = [ask(engine, chat("Hi")) for _ in range(3)]
    assert all(isinstance(answer.failed().error, EngineFailed) for answer in answers)
    assert "division by zero" in str(engine.state.fault)
    engine.close()


def test_a_file_that_llama_cpp_refuses_is_an_error_with_its_words(library: Library, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ModelLoadFailed, match=r"bad\.gguf cannot be loaded: .+"):
        Engine.load(library, EngineSpec(bad, "CPU", 512))


def test_an_unknown_device_is_an_error(library: Library, embedded_model: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="CUDA7"):
        Engine.load(library, EngineSpec(embedded_model, "CUDA7", 512))


LOADED_AND_UNLOADED = """
import gc, sys
from pathlib import Path
from server.engine.engine import Engine
from server.engine.spec import EngineSpec
from server.engine.llamacpp.library import Library
from tests.engine.listening import ask, chat

library = Library()
for _ in range(5):
    engine = Engine.load(library, EngineSpec(Path(sys.argv[1]), "CPU", 2048))
    ask(engine, chat("Hi"), max_tokens=2).finished()
    engine.close()
    gc.collect()
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmData")))
"""


def test_loading_and_unloading_gives_the_memory_back(embedded_model: Path) -> None:
    """In a process of its own: what other tests have left behind would be counted, too.

    A leak grows with each load. malloc may take one more arena (22 MiB) at any of them, and keeps that.
    """
    command = [sys.executable, "-c", LOADED_AND_UNLOADED, str(embedded_model)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT)
    taken_kib = [int(line) for line in done.stdout.split()]
    assert len(taken_kib) == 5
    grown_kib = sorted(after - before for before, after in itertools.pairwise(taken_kib))
    assert grown_kib[-2] < 1024, taken_kib
    assert grown_kib[-1] < 32 * 1024, taken_kib
