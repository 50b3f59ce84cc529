"""Figures of repeated runs."""

import pytest

from server.client.measuring import Run, measured

READ = {"prompt_eval_count": 101, "prompt_eval_duration": 10**9, "llm_optimizer": {"tokens_cached": 1}}
SAID = {"eval_count": 20, "eval_duration": 10**9 // 2}
SILENT = {"prompt_eval_count": 100, "prompt_eval_duration": 10**9 // 2, "llm_optimizer": {"tokens_cached": 0}}
RUNS = [Run(1.0, {**READ, **SAID}), Run(None, SILENT)]


def test_reading_leaves_out_what_was_cached() -> None:
    reading = measured("pp100", RUNS, "prompt_eval")
    assert reading.tokens == (100, 100)
    assert reading.tokens_per_s == (100.0, 200.0)
    told = reading.as_json
    assert told["tokens_per_s_mean"] == 150.0
    assert told["tokens_per_s_stddev"] == pytest.approx(70.71, abs=0.01)
    assert told["first_token_s_mean"] == 1.0


def test_a_run_that_gave_nothing_has_no_speed() -> None:
    generating = measured("tg20", RUNS, "eval")
    assert generating.tokens == (20, 0)
    assert generating.tokens_per_s == (40.0,)
    assert generating.as_json["tokens_per_s_stddev"] is None
    nothing = measured("tg20", RUNS[1:], "eval").as_json
    assert (nothing["tokens_per_s_mean"], nothing["first_token_s_mean"]) == (None, None)
