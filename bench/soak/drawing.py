"""Random requests that are right: all dialects, streams, tools, forms, and clients that hang up."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from bench.soak.plans import Plan, Wire

LONGEST_PROMPT_TOKENS = 3000
MOST_TOKENS = 128

STREAMED, FORMED, TOOLED, RAW, SHARED = 0.7, 0.1, 0.15, 0.4, 0.5
"""The parts of requests that are streams, want a form, must call a tool, are raw prompts, begin alike."""

FORM = MappingProxyType(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0},
        },
        "required": ["name", "age"],
    }
)
TOOL = "look_up"
TOOL_PARAMETERS = MappingProxyType(
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    }
)
TEXT = (
    "the river runs past a small town where people read old books and ask what time will bring them "
    "when rain and wind come from the north over green hills near some quiet road"
)
WORDS = TEXT.split()

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Models:
    """Models to ask: those that chat, those of them that know tools, and those that embed."""

    chatting: tuple[str, ...]
    tooled: frozenset[str] = frozenset()
    embedding: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wish:
    """What a client wants, in no dialect yet."""

    model: str
    words: Sequence[str]
    messages: Messages
    stream: bool
    most_tokens: int
    temperature: float
    formed: bool
    tooled: bool
    raw: bool

    def plan(self, kind: str, path: str, wire: Wire, body: Mapping[str, Any]) -> Plan:
        """The request that asks for it in one dialect."""
        whole = {"model": self.model, "stream": self.stream, **body}
        return Plan(kind, path, whole, wire, stream=self.stream, most_tokens=self.most_tokens)


def draw_plan(dice: random.Random, models: Models) -> Plan:
    """A random request, whose client may lose its patience."""
    # The helper is a model like any other to those who name it.
    weights = [3, *[1] * (len(models.chatting) - 1)]
    model = dice.choices(models.chatting, weights)[0]
    wish = draw_wish(dice, model, knows_tools=model in models.tooled)
    small = dice.random()
    if small < 0.05 and models.embedding:  # noqa: PLR2004
        return embed(dice, dice.choice(models.embedding))
    if small < 0.1:  # noqa: PLR2004
        return dice.choice([count_tokens, tokenize])(wish)
    return hanging_up(dice, dice.choices([*ASKING], [*ASKING.values()])[0](wish))


def draw_wish(dice: random.Random, model: str, *, knows_tools: bool) -> Wish:
    """Random texts and options."""
    words = prompt_words(dice)
    tooled = knows_tools and dice.random() < TOOLED
    return Wish(
        model,
        words,
        conversation(dice, words),
        stream=dice.random() < STREAMED,
        most_tokens=dice.randint(1, MOST_TOKENS),
        temperature=dice.choice([0, 0.8]),
        formed=not tooled and dice.random() < FORMED,
        tooled=tooled,
        raw=dice.random() < RAW,
    )


def prompt_words(dice: random.Random) -> list[str]:
    """About 1 to 3000 tokens, mostly few; half of them begin like one of four texts."""
    count = round(LONGEST_PROMPT_TOKENS ** dice.random())
    if dice.random() >= SHARED:
        return dice.choices(WORDS, k=count)
    shared = random.Random(dice.randrange(4)).choices(WORDS, k=count)  # noqa: S311
    return [*shared[: max(count - 5, 0)], *dice.choices(WORDS, k=min(count, 5))]


def conversation(dice: random.Random, words: list[str]) -> Messages:
    """``words`` as a single message, or dealt out to some turns behind a system message."""
    turns = dice.choice([1, 1, 3, 5])
    size = len(words) // turns + 1
    roles = ["user", "assistant"] * turns
    parts = [words[start : start + size] for start in range(0, len(words), size)]
    messages = [{"role": role, "content": " ".join(part)} for role, part in zip(roles, parts, strict=False)]
    asked = [] if messages[-1]["role"] == "user" else [{"role": "user", "content": "And then?"}]
    return [{"role": "system", "content": "Answer briefly."}, *messages, *asked]


def hanging_up(dice: random.Random, plan: Plan) -> Plan:
    """The request with a client that may lose its patience."""
    manner = dice.choices(["answered", "before", "reading", "midway"], [70, 8, 12, 10])[0]
    if manner == "before":
        return replace(plan, manner="hung up at once", hang_up_after_s=dice.uniform(0, 0.1))
    if manner == "reading":
        late_s = dice.uniform(0.1, 3)
        return replace(plan, manner="hung up while the prompt was read", hang_up_after_s=late_s)
    if manner == "midway" and plan.stream:
        return replace(plan, manner="hung up in mid-stream", hang_up_after_lines=dice.randint(1, 20))
    return plan


def ollama_chat(wish: Wish) -> Plan:
    """``/api/chat``; a tool is offered, for Ollama's clients cannot demand a call."""
    body = {"messages": wish.messages, "options": _options(wish)}
    if wish.formed:
        body["format"] = dict(FORM)
    if wish.tooled:
        body["tools"] = [_function()]
    return replace(wish.plan("/api/chat", "/api/chat", Wire.OLLAMA, body), formed=wish.formed)


def ollama_generate(wish: Wish) -> Plan:
    """``/api/generate``, with the template or without."""
    body: dict[str, Any] = {"prompt": " ".join(wish.words), "raw": wish.raw, "options": _options(wish)}
    if wish.formed:
        body["format"] = dict(FORM)
    return replace(wish.plan("/api/generate", "/api/generate", Wire.OLLAMA, body), formed=wish.formed)


def openai_chat(wish: Wish) -> Plan:
    """``/v1/chat/completions``."""
    body: dict[str, Any] = {"messages": wish.messages, **_openai(wish)}
    if wish.formed:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "f", "schema": dict(FORM)}}
    if wish.tooled:
        body |= {"tools": [_function()], "tool_choice": "required"}
    plan = wish.plan("/v1/chat/completions", "/v1/chat/completions", Wire.OPENAI, body)
    return replace(plan, formed=wish.formed, tool=TOOL if wish.tooled else None)


def openai_text(wish: Wish) -> Plan:
    """``/v1/completions``."""
    body = {"prompt": " ".join(wish.words), **_openai(wish)}
    return wish.plan("/v1/completions", "/v1/completions", Wire.OPENAI, body)


def responses(wish: Wish) -> Plan:
    """``/v1/responses``."""
    body: dict[str, Any] = {
        "input": wish.messages,
        "max_output_tokens": wish.most_tokens,
        "temperature": wish.temperature,
    }
    if wish.formed:
        body["text"] = {"format": {"type": "json_schema", "name": "f", "schema": dict(FORM)}}
    if wish.tooled:
        body |= {"tools": [{"type": "function", **_named_tool()}], "tool_choice": "required"}
    plan = wish.plan("/v1/responses", "/v1/responses", Wire.RESPONSES, body)
    return replace(plan, formed=wish.formed, tool=TOOL if wish.tooled else None)


def anthropic(wish: Wish) -> Plan:
    """``/v1/messages``."""
    body: dict[str, Any] = {
        **_anthropic(wish),
        "max_tokens": wish.most_tokens,
        "temperature": wish.temperature,
    }
    if wish.tooled:
        body["tools"] = [{"name": TOOL, "description": "x", "input_schema": dict(TOOL_PARAMETERS)}]
        body["tool_choice"] = {"type": "any"}
    plan = wish.plan("/v1/messages", "/v1/messages", Wire.ANTHROPIC, body)
    return replace(plan, tool=TOOL if wish.tooled else None)


ASKING: Mapping[Callable[[Wish], Plan], int] = MappingProxyType(
    {ollama_chat: 3, ollama_generate: 3, openai_chat: 3, openai_text: 1, responses: 2, anthropic: 3}
)
"""All that generates, and how often it is asked."""


def count_tokens(wish: Wish) -> Plan:
    """``/v1/messages/count_tokens``."""
    path = "/v1/messages/count_tokens"
    return Plan(path, path, {"model": wish.model, **_anthropic(wish)}, Wire.COUNT)


def tokenize(wish: Wish) -> Plan:
    """``/api/tokenize``."""
    body = {"model": wish.model, "content": " ".join(wish.words)}
    return Plan("/api/tokenize", "/api/tokenize", body, Wire.OLLAMA_OTHER)


def embed(dice: random.Random, model: str) -> Plan:
    """``/api/embed`` of some texts."""
    texts = [" ".join(dice.choices(WORDS, k=dice.randint(1, 40))) for _ in range(dice.randint(1, 4))]
    return Plan("/api/embed", "/api/embed", {"model": model, "input": texts}, Wire.EMBED)


def _options(wish: Wish) -> dict[str, Any]:
    return {"num_predict": wish.most_tokens, "temperature": wish.temperature}


def _openai(wish: Wish) -> dict[str, Any]:
    figures = {"stream_options": {"include_usage": True}} if wish.stream else {}
    return {"max_tokens": wish.most_tokens, "temperature": wish.temperature, **figures}


def _anthropic(wish: Wish) -> dict[str, Any]:
    system, *messages = wish.messages
    return {"system": system["content"], "messages": messages}


def _named_tool() -> dict[str, Any]:
    return {"name": TOOL, "description": "Looks a city up.", "parameters": dict(TOOL_PARAMETERS)}


def _function() -> dict[str, Any]:
    return {"type": "function", "function": _named_tool()}
