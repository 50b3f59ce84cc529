"""``explain``: what the router would do with a request that lies in a file."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from server.client.captured import Captured, read_captured
from server.client.wire import POLICY_HEADER
from server.commands.completing import model_names
from server.commands.connecting import connect
from server.commands.failing import WRONG_USE, end
from server.commands.lines import piped
from server.commands.parameters import Config, Json, Url
from server.commands.tables import print_json, print_table

_FITS = {True: "it fits", False: "it DOES NOT FIT", None: "the summaries will tell whether it fits"}
_POLICIES = ("auto", "agent", "thresholds", "adaptive", "direct")


def explain(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help='Body of a chat in JSON, or {"method", "path", "headers", "body"}; - is the input.',
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Ask for this model instead.", autocompletion=model_names),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help=f"Route it by these rules instead: {', '.join(_POLICIES)}.",
            autocompletion=lambda incomplete: [one for one in _POLICIES if one.startswith(incomplete)],
        ),
    ] = None,
    url: Url = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say what the router would do with a request, and why.

    \b
    Examples:
      llm-optimizer explain request.json
      llm-optimizer explain request.json --policy thresholds --model qwen2.5-coder:7b
      curl ... | llm-optimizer explain -
    """
    captured = read_captured(_text_of(file))
    if model is not None:
        captured = replace(captured, body={**captured.body, "model": model})
    if not captured.body.get("model"):
        end("the request names no model; say which is meant by --model", WRONG_USE)
    with connect(url, config) as service:
        told = service.post(
            f"/api/router/explain?path={quote(captured.path)}", captured.body, _headers(captured, policy)
        )
    if as_json:
        print_json(told)
        return
    typer.echo("\n".join(_lines(told)))
    if told["shortened"]:
        print_table(
            ("message", "what", "how", "characters", "instead of"),
            [_row(one) for one in told["shortened"]],
            right=("message", "characters", "instead of"),
        )


def _headers(captured: Captured, policy: str | None) -> dict[str, str]:
    asked = policy or captured.policy
    return {POLICY_HEADER: asked} if asked else {}


def _text_of(file: Path) -> str:
    try:
        return piped() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        end(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}", WRONG_USE)


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    sent, window = told["tokens_sent"], told["context_tokens"]
    rows = (
        ("model", told["model"]),
        ("strategy", told["strategy"]),
        ("because", told["reason"]),
        ("policy", told["policy"] or "none: it is not routed"),
        ("agent", told["agent"] or "none seen"),
        ("received", f"{told['tokens_received']:,} tokens, {told['tokens_cached']:,} of them in the cache"),
        ("sent", "what the summaries will leave" if sent is None else f"{sent:,} tokens"),
        ("context", f"{window:,} tokens: {_FITS[told['fits']]}"),
    )
    for label, text in rows:
        yield f"{label:<10} {text}"
    if summarised := told.get("summarised"):
        yield (
            f"{'summary of':<10} {summarised['messages']} messages, {summarised['characters']:,} characters, "
            "by the helper"
        )


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(one["message"]),
        one["subject"] or "-",
        one["how"],
        f"{one['characters_sent']:,}",
        f"{one['characters']:,}",
    )
