"""The context window: it grows when a request asks, and ends an answer that reaches its end."""

from tests.api.asking import answer_of
from tests.api.workshop import BIG, PULLED, Workshop

TRAINED = 2048


def window(bench: Workshop) -> int:
    models = bench.client.get("/api/ps").json()["models"]
    size: int = next(model["context_length"] for model in models if model["name"] == BIG)
    return size


def test_a_request_may_ask_for_a_larger_window(bench: Workshop) -> None:
    assert bench.chat(BIG, ("user", "Hi"))["llm_optimizer"]["context_tokens"] == window(bench) == 1024
    grown = bench.chat(BIG, ("user", "Hi"), num_ctx=1536)["llm_optimizer"]["context_tokens"]
    assert grown == window(bench) >= 1536
    # A smaller wish takes nothing away, and no wish gets more than the model was trained for.
    bench.chat(BIG, ("user", "Hi"), num_ctx=512)
    assert window(bench) == grown
    bench.chat(BIG, ("user", "Hi"), num_ctx=1_000_000)
    assert window(bench) == TRAINED


def test_a_long_prompt_fits_into_the_window_that_was_asked_for(bench: Workshop) -> None:
    long = {"model": BIG, "prompt": "x" * 1200, "raw": True, "stream": False, "options": {"num_predict": 2}}
    refused = bench.client.post("/api/generate", json=long)
    assert (refused.status_code, "1024 tokens" in refused.json()["error"]) == (400, True)
    answer = answer_of(
        bench.client.post("/api/generate", json={**long, "options": {"num_ctx": 2048, "num_predict": 2}})
    )
    assert answer["prompt_eval_count"] == 1200


def test_the_end_of_the_window_ends_an_answer(bench: Workshop) -> None:
    prompt = {"model": BIG, "prompt": "x" * 1000, "raw": True, "stream": False}
    answer = answer_of(bench.client.post("/api/generate", json=prompt))
    assert answer["done_reason"] == "length"
    assert answer["prompt_eval_count"] + answer["eval_count"] == 1024


def test_a_model_whose_file_is_missing_is_not_listed_and_says_what_to_do(bench: Workshop) -> None:
    assert PULLED not in {model["id"] for model in bench.client.get("/v1/models").json()["data"]}
    body = {"model": PULLED, "messages": [{"role": "user", "content": "Hi"}]}
    response = bench.client.post("/api/chat", json=body)
    assert "helper.gguf" in response.json()["error"]
