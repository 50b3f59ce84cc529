"""``bench``: how fast the running service is."""

import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.commands.connecting import connect
from server.commands.parameters import Config, Model, Url
from server.commands.tables import print_json, print_table, size

if TYPE_CHECKING:
    from server.client.measuring import Measured

PROMPT_TOKENS, ANSWER_TOKENS = 512, 128
_COLUMNS = ("test", "tokens", "tokens/s", "first token")


def bench(
    model: Model,
    prompt_tokens: Annotated[
        list[int] | None,
        typer.Option(
            "--prompt-tokens",
            "-p",
            min=1,
            metavar="N",
            help=f"Length of a prompt in tokens; {PROMPT_TOKENS} if not said.",
        ),
    ] = None,
    answer_tokens: Annotated[
        list[int] | None,
        typer.Option(
            "--answer-tokens",
            "-n",
            min=1,
            metavar="N",
            help=f"Length of an answer in tokens; {ANSWER_TOKENS} if not said.",
        ),
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, metavar="N", help="How often each is measured.")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    url: Url = None,
    config: Config = None,
) -> None:
    """Measure how fast a model reads and generates.

    In tokens a second: pp is reading a prompt, tg is generating. Prompts are words in random order, new ones
    each time, so that no cache has them; they go to the model without template and router. Beside the speeds
    stands the time from asking to the first token. -p and -n may stand several times.

    \b
    Examples:
      llm-optimizer bench qwen2.5-coder:7b
      llm-optimizer bench qwen2.5-coder:7b -p 512 -p 8192 -n 256 -r 5
    """
    from server.client.measuring import Bench

    with connect(url, config) as service:
        tests = Bench(service, model, secrets.randbits(32))
        tests.warm_up()
        described = _described(service.get("/api/ps")["models"], model)
        found = [
            *(tests.reading(count, repetitions) for count in prompt_tokens or [PROMPT_TOKENS]),
            *(tests.generating(count, repetitions) for count in answer_tokens or [ANSWER_TOKENS]),
        ]
    if as_json:
        print_json({"model": model, **described, "tests": [one.as_json for one in found]})
        return
    _print_model(model, described)
    print_table(_COLUMNS, [_row(one) for one in found], right=_COLUMNS[1:])


def _described(loaded: list[dict[str, Any]], model: str) -> dict[str, Any]:
    """What it is and where it runs; nothing where it goes by another name in memory."""
    found = next((one for one in loaded if one["name"] in (model, f"{model}:latest")), None)
    if found is None:
        return {}
    details = found["details"]
    return {
        "parameters": details["parameter_size"],
        "quantisation": details["quantization_level"],
        "size_bytes": found["size"],
        "device": found["device"],
        "context_tokens": found["context_length"],
        "others_running": found["slots"]["running"],
    }


def _print_model(model: str, described: dict[str, Any]) -> None:
    if not described:
        typer.echo(model)
        return
    typer.echo(
        f"{model}, {described['parameters']} {described['quantisation']}, {size(described['size_bytes'])} "
        f"on {described['device']}, context {described['context_tokens']}"
    )
    if described["others_running"]:
        typer.echo(f"{described['others_running']} other requests run meanwhile: the figures are too low")


def _row(one: "Measured") -> tuple[str, ...]:
    told = one.as_json
    rate, spread, first_s = told["tokens_per_s_mean"], told["tokens_per_s_stddev"], told["first_token_s_mean"]
    tokens = sorted(set(one.tokens))
    return (
        one.test,
        str(tokens[0]) if len(tokens) == 1 else f"{tokens[0]} to {tokens[-1]}",
        "-" if rate is None else f"{rate:.1f}" + ("" if spread is None else f" ± {spread:.1f}"),
        "-" if first_s is None else f"{first_s:.3f} s",
    )
