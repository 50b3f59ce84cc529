"""How the two servers take turns."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from bench.client import Client
from bench.servers import Server, Setup, our_settings
from bench.stage import MOST_ATTEMPTS, Plan, Reading, Skipped, Stage, take_turns
from bench.wire import Answer, AnswerFailed, EndedEarly, Ollama, Request
from server.config import load_settings

OURS, THEIRS = (
    Server(name, [], port, Client(port, Ollama()), Path("log")) for name, port in (("a", 1), ("b", 2))
)


def stage(repetitions: int) -> Stage:
    return Stage(Path("m"), Path("b"), 2, repetitions, True, 8192, None, None, Path("f"))  # type: ignore[arg-type]


def make(random: Random) -> Plan:
    return [Request(f"{random.getrandbits(32)}", 1)]


def reading(figure: float, prompt_tokens: int = 10) -> Reading:
    return Reading(figure, [Answer(0.0, 1.0, (), prompt_tokens, 0, 1)])


class Recorder:
    """Notes which server was asked what; ``judge`` gives the reading from how often was asked before."""

    def __init__(self, judge: Callable[[int, Client], Reading]) -> None:
        self.asked: list[tuple[str, str]] = []
        self._judge = judge

    async def measure(self, client: Client, plan: Plan) -> Reading:
        self.asked.append(("ours" if client is OURS.client else "theirs", plan[0].prompt))
        return self._judge(len(self.asked) - 1, client)


def test_the_servers_begin_in_turns_and_get_the_same_prompts() -> None:
    recorder = Recorder(lambda count, client: reading(count + 100 * (client is THEIRS.client)))

    measured = asyncio.run(take_turns(stage(3), (OURS, THEIRS), make, recorder.measure))

    order = ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert [name for name, _ in recorder.asked] == order
    prompts = [prompt for _, prompt in recorder.asked]
    assert prompts[0::2] == prompts[1::2]
    assert len(set(prompts)) == 3
    assert (measured.ours, measured.theirs) == ((0, 3, 4), (101, 102, 105))
    assert measured.notes == ()


def test_an_early_end_repeats_both_with_other_prompts_and_is_told() -> None:
    def judge(count: int, _client: Client) -> Reading:
        if count == 1:
            raise EndedEarly
        return reading(count)

    recorder = Recorder(judge)
    measured = asyncio.run(take_turns(stage(1), (OURS, THEIRS), make, recorder.measure))

    assert [name for name, _ in recorder.asked] == ["ours", "theirs", "ours", "theirs"]
    assert recorder.asked[0][1] != recorder.asked[2][1]
    assert (measured.ours, measured.theirs) == ((2,), (3,))
    assert "1 more repetitions" in measured.notes[0]


def test_answers_that_always_end_early_give_no_figure() -> None:
    def judge(_count: int, _client: Client) -> Reading:
        raise EndedEarly

    recorder = Recorder(judge)
    with pytest.raises(Skipped):
        asyncio.run(take_turns(stage(1), (OURS, THEIRS), make, recorder.measure))

    assert len(recorder.asked) == MOST_ATTEMPTS


def test_prompts_that_were_read_differently_are_not_compared() -> None:
    recorder = Recorder(lambda count, _client: reading(1.0, prompt_tokens=10 + count))

    with pytest.raises(AnswerFailed, match="different prompts"):
        asyncio.run(take_turns(stage(1), (OURS, THEIRS), make, recorder.measure))


def test_our_settings_are_valid_and_keep_the_helper_out(tmp_path: Path) -> None:
    model = tmp_path / 'a "quoted" model.gguf'
    file = tmp_path / "config.toml"
    file.write_text(our_settings(Setup(model, 8192, 2, tmp_path), tmp_path / "cache"))

    settings = load_settings(file, {}, {})

    assert (settings.generator.path, settings.generator.context, settings.generator.threads) == (
        model,
        8192,
        2,
    )
    assert settings.generator.slots == 8
    assert settings.cache_dir == tmp_path / "cache"
    assert settings.helper.preload is False
    assert settings.router.strategy_a_max > 100_000
