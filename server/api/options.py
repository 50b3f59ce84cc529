"""Ollama's ``options``, ``keep_alive`` and ``think``, in which every dialect can say how it wants to run."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server.api.bodies import shown
from server.config import parse_duration
from server.domain.chat import RunOptions, ToolChoice, ToolMode
from server.domain.errors import InvalidRequest
from server.domain.generation import Sampling

THINK_LEVELS = ("high", "medium", "low", "max")
INT32_MAX = 2**31 - 1

FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
SAMPLING_INTEGERS = ("top_k", "repeat_last_n", "seed")
INTEGERS = (*SAMPLING_INTEGERS, "num_predict", "num_ctx")
SERVER_SIDE = {
    "num_batch": "integer",
    "num_gpu": "integer",
    "main_gpu": "integer",
    "num_thread": "integer",
    "num_keep": "integer",
    "draft_num_predict": "integer",
    "use_mmap": "boolean",
}
"""Options that the settings decide, or that have no meaning here: checked, reported, not acted on."""


OLLAMA_DEFAULTS = Sampling()


def read_options(given: Mapping[str, Any], defaults: Sampling = OLLAMA_DEFAULTS) -> RunOptions:
    """Turn Ollama's option names into a request's wishes; null counts as not given.

    ``defaults`` are those of the dialect.

    Raises:
        InvalidRequest: an option has the wrong type or an impossible value.
    """
    options = {name: value for name, value in given.items() if value is not None}
    floats: dict[str, Any] = {name: _float(name, options[name]) for name in FLOATS if name in options}
    numbers = {name: _integer(name, options[name]) for name in INTEGERS if name in options}
    for name, kind in SERVER_SIDE.items():
        if name in options:
            _check_kind(name, options[name], kind)
    sampling = replace(
        defaults,
        **floats,
        top_k=min(max(numbers.get("top_k", defaults.top_k), 0), INT32_MAX),
        repeat_last_n=min(max(numbers.get("repeat_last_n", defaults.repeat_last_n), -1), INT32_MAX),
        seed=_seed(numbers.get("seed")),
    )
    known = {*FLOATS, *INTEGERS, "stop"}
    return RunOptions(
        sampling=sampling,
        named=frozenset(
            "max_tokens" if name == "num_predict" else name
            for name in (*FLOATS, *SAMPLING_INTEGERS, "num_predict")
            if name in options
        ),
        max_tokens=_limit(numbers.get("num_predict")),
        stop=_stop(options["stop"]) if "stop" in options else None,
        context_tokens=numbers.get("num_ctx"),
        ignored=tuple(sorted(name for name in options if name not in known)),
    )


def read_keep_alive(value: Any) -> float | None:
    """Seconds, infinity for ever, None for not given.

    Raises:
        InvalidRequest: in Go's own words.
    """
    if value is None:
        return None
    try:
        return parse_duration(value)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(str(error)) from error


def read_think(value: Any) -> bool | str | None:
    """A switch, a level, or None for not given.

    Raises:
        InvalidRequest: it is something else.
    """
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise InvalidRequest(
            'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'
        )
    if value not in THINK_LEVELS:
        raise InvalidRequest(
            f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)'
        )
    return value


def read_format(value: Any) -> str | dict[str, Any] | None:
    """The word ``json``, a JSON schema, or None for no constraint. An empty schema allows any JSON.

    Raises:
        InvalidRequest: it is something else.
    """
    if value is None or value == "":
        return None
    if value == "json" or isinstance(value, dict):
        form: str | dict[str, Any] = value
        return form
    raise InvalidRequest(
        f'invalid format: {json.dumps(value)}; expected "json" or a valid JSON Schema object'
    )


def read_logprobs(wanted: bool, alternatives: int) -> int | None:
    """How many likely tokens are reported beside each that was picked; None: no log probabilities.

    Raises:
        InvalidRequest: in Ollama's and OpenAI's words.
    """
    if not 0 <= alternatives <= 20:  # noqa: PLR2004 - their limit, named in their text
        raise InvalidRequest("top_logprobs must be between 0 and 20")
    return alternatives if wanted else None


def read_tool_choice(value: Any) -> ToolChoice:
    """In OpenAI's words. Chat completions nest the name of a function under ``function``, responses do not.

    Raises:
        InvalidRequest: it is something else.
    """
    if value is None:
        return ToolChoice()
    if isinstance(value, str) and value in tuple(ToolMode):
        return ToolChoice(ToolMode(value))
    if isinstance(value, Mapping) and value.get("type") == "function":
        holder = value.get("function", value)
        name = holder.get("name") if isinstance(holder, Mapping) else None
        if isinstance(name, str):
            return ToolChoice(ToolMode.REQUIRED, name)
    raise InvalidRequest(
        'tool_choice must be "none", "auto", "required" or a function with its name, '
        f"but it is {shown(value)}"
    )


def _float(name: str, value: Any) -> float:
    if not _is_number(value):
        raise InvalidRequest(f'option "{name}" must be of type float32')
    return float(value)


def _integer(name: str, value: Any) -> int:
    _check_kind(name, value, "integer")
    return int(value)


def _check_kind(name: str, value: Any, kind: str) -> None:
    fits = isinstance(value, bool) if kind == "boolean" else _is_number(value)
    if not fits:
        raise InvalidRequest(f'option "{name}" must be of type {kind}')


def _is_number(value: Any) -> bool:
    """Whole numbers may be written as floats. A whole number too large for a float is none, as in Go."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _seed(value: int | None) -> int | None:
    return None if value is None or value == -1 else value


def _limit(value: int | None) -> int | None:
    return None if value is None or value < 0 else value


def _stop(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise InvalidRequest('option "stop" must be of type array')
    if not all(isinstance(stop, str) for stop in value):
        raise InvalidRequest('option "stop" must be of type an array of strings')
    return tuple(value)
