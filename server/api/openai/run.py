"""How a request wants to be run, as OpenAI's clients say it."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from server.api.bodies import Lenient, shown
from server.api.options import read_keep_alive, read_options, read_think
from server.domain.chat import JsonObject, RunOptions
from server.domain.errors import InvalidRequest
from server.domain.generation import Sampling

OPENAI_DEFAULTS = Sampling(temperature=1.0, top_p=1.0)

_SAME_NAMES = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop"),
    *("frequency_penalty", "presence_penalty"),
)
"""Fields that Ollama's options call the same."""

_EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "parallel_tool_calls": (True,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "prediction": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "max_tool_calls": (),
}
"""Wishes that nothing is done with, and the values that ask for what is done anyway."""

_TOKEN_ID = re.compile(r"[0-9]{1,9}")
_STRONGEST_BIAS = 100


class Run(Lenient):
    """What the three routes that generate have in common.

    ``options``, ``keep_alive``, ``think``, ``truncate``, ``top_k`` and ``min_p`` are Ollama's: OpenAI's
    clients send them as an extra body.
    """

    model: str = ""
    stream: bool = False
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    min_p: Any = None
    seed: Any = None
    stop: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    keep_alive: Any = None
    think: Any = None
    truncate: bool | None = None
    parallel_tool_calls: Any = None
    store: Any = None
    service_tier: Any = None
    prediction: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    max_tool_calls: Any = None

    def run_options(self, *, max_tokens: int | None, effort: Any = None) -> RunOptions:
        """Everything that is said in the same way on each route; ``options`` outrank the fields beside them.

        Raises:
            InvalidRequest: ``model`` is missing, or something has the wrong type or an impossible value.
        """
        if not self.model:
            raise InvalidRequest("model is required")
        beside = {name: getattr(self, name) for name in _SAME_NAMES}
        inside = {name: value for name, value in self.options.items() if value is not None}
        options = read_options({**beside, "num_predict": max_tokens, **inside}, OPENAI_DEFAULTS)
        think, wanted = read_think(self.think), read_effort(effort)
        return replace(
            options,
            sampling=replace(options.sampling, logit_bias=read_logit_bias(self.logit_bias)),
            keep_alive_s=read_keep_alive(self.keep_alive),
            think=wanted if think is None else think,
            truncate=self.truncate,
            ignored=(*options.ignored, *self._without_effect()),
        )

    def _without_effect(self) -> tuple[str, ...]:
        given = {name: getattr(self, name) for name in _WITHOUT_EFFECT}
        return tuple(
            name for name, value in given.items() if value is not None and value not in _WITHOUT_EFFECT[name]
        )


class StreamOptions(Lenient):
    """``stream_options``."""

    include_usage: bool = False


class Reasoning(Lenient):
    """``reasoning``."""

    effort: Any = None
    summary: Any = None


def read_effort(value: Any) -> bool | str | None:
    """OpenAI's effort as a level of thinking, False for none at all, None for not given.

    Raises:
        InvalidRequest: it is something else.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value not in _EFFORTS:
        known = ", ".join(f'"{effort}"' for effort in _EFFORTS)
        raise InvalidRequest(f"invalid reasoning value: {shown(value)} (must be one of {known})")
    return _EFFORTS[value]


def read_logit_bias(value: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    """Token ids, and what is added to their logits: -100 forbids a token, as OpenAI's clients expect.

    Raises:
        InvalidRequest: a key is no token id, or a number is out of range.
    """
    return tuple((_token_id(key), _bias(key, number)) for key, number in value.items())


def _token_id(key: str) -> int:
    if not _TOKEN_ID.fullmatch(key):
        raise InvalidRequest(f"logit_bias: {shown(key)} is no token id; keys are whole numbers in quotes")
    return int(key)


def _bias(key: str, number: Any) -> float:
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not -_STRONGEST_BIAS <= number <= _STRONGEST_BIAS:
        raise InvalidRequest(
            f"logit_bias: token {key} must get a number from -100 to 100, but it is {shown(number)}"
        )
    return float("-inf") if number == -_STRONGEST_BIAS else float(number)


def read_text_format(place: str, form: Mapping[str, Any] | None) -> str | JsonObject | None:
    """The word ``json``, a JSON schema, or None for plain text.

    Chat completions have the schema in ``json_schema``, responses have it beside ``type``.

    Raises:
        InvalidRequest: naming ``place``, which is where the client wrote ``form``.
    """
    kind = None if form is None else form.get("type")
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        # Clients of llama.cpp and others give a schema here, too.
        return _schema(place, form) if "schema" in form else "json"
    if kind == "json_schema":
        inner = form.get("json_schema", form)
        return _schema(f"{place}.json_schema" if "json_schema" in form else place, inner)
    raise InvalidRequest(
        f'{place}.type must be "text", "json_object" or "json_schema", but it is {shown(kind)}'
    )


def _schema(place: str, holder: Any) -> JsonObject:
    schema = holder.get("schema") if isinstance(holder, Mapping) else None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{place}.schema must be a JSON schema, which is an object")
    return schema
