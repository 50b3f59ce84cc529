"""Prompts of known lengths: listings that never end by themselves, chats with tools, a file to copy."""

import json
import queue
from collections.abc import Sequence
from pathlib import Path
from random import Random

import llama_cpp as native

from bench.wire import Chat
from server.chat.template import CHATML, ChatTemplate, supports_tools
from server.domain.chat import JsonObject, Message
from server.domain.errors import ModelLoadFailed
from server.engine.gguf.reader import read_header
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.model import Model

PLACES = ("bay", "shelf", "dock", "rack", "cage", "belt", "yard", "crane")
THINGS = ("bolts", "panels", "valves", "cables", "drums", "frames", "gaskets", "motors")
TOKENS_FOR_A_TOOL = 375
COPIED_LINES = 300
VERBS = ("moved", "counted", "packed", "weighed", "checked", "scanned", "labelled", "sorted")
CHANGES = (
    "rename self.mutex to self.lock",
    "rename the parameter maxsize to capacity",
    "make 100 the default of maxsize instead of 0",
    "rename the method task_done to finish_task",
)
"""What to change in the standard library's queue.py: a model of 0.5B can do each of these."""


def repeatable(seed: str) -> Random:
    """Random numbers that are the same in every run."""
    return Random(seed)  # noqa: S311


class Vocabulary:
    """The model's own tokenizer, without its weights. Raises ModelLoadFailed."""

    def __init__(self, model: Path) -> None:
        library = Library()
        params = native.llama_model_default_params()
        params.vocab_only = True
        pointer = native.llama_model_load_from_file(str(model).encode(), params)
        if not pointer:
            raise ModelLoadFailed(f"{model} has no vocabulary that llama.cpp can read")
        self._model = Model(library.log, pointer, model)

    def count(self, text: str) -> int:
        """Tokens of ``text`` as both servers count a finished prompt."""
        return len(self.tokens(text))

    def tokens(self, text: str) -> list[int]:
        """``text`` as a finished prompt is cut into tokens."""
        return self._model.tokenize(text, add_special=True)

    def cut(self, parts: Sequence[str], tokens: int) -> str:
        """As many of ``parts``, joined, as fit into ``tokens``. Raises ValueError if all of them do."""
        fits, too_many = 0, len(parts)
        if self.count("".join(parts)) < tokens:
            raise ValueError(f"there is less than {tokens} tokens of text")
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self.count("".join(parts[:middle])) <= tokens:
                fits = middle
            else:
                too_many = middle
        return "".join(parts[:fits])


class Prompter:
    """Makes prompts for one model. What a ``Random`` with the same seed makes is the same text."""

    def __init__(self, model: Path) -> None:
        source = read_header(model).chat_template or CHATML
        self._template = ChatTemplate(source)
        self._takes_tools = supports_tools(source)
        self.vocabulary = Vocabulary(model)

    def listing(self, random: Random, tokens: int) -> str:
        """A log of at most ``tokens`` and some words less, another from its first token on each time.

        Any model goes on with more lines of it, so that no answer ends early.
        """
        words = [f"{random.getrandbits(48):012x}", " log", ":\n"]
        while len(words) < tokens:
            words += _log_line(random)
        return self.vocabulary.cut(words, tokens)

    def chat(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> str:
        """The prompt for a chat; tools go into the system text where the template knows none."""
        return self._template.render(*self.as_template_takes(messages, tools))

    def as_template_takes(
        self, messages: Sequence[Message], tools: Sequence[JsonObject]
    ) -> tuple[list[Message], list[JsonObject]]:
        """The messages and tools of a chat in a form that loses none with this template."""
        if self._takes_tools:
            return list(messages), list(tools)
        return [_told_about(tools, messages[0]), *map(_with_calls_as_text, messages[1:])], []

    def as_chat(self, messages: Sequence[Message], tools: Sequence[JsonObject], tokens: int) -> Chat:
        """A request that our server gets as a chat and llama-server as the same chat's prompt."""
        shown, known = self.as_template_takes(messages, tools)
        return Chat(self._template.render(shown, known), tokens, messages=tuple(shown), tools=tuple(known))

    def instructions(self, random: Random, tokens: int) -> tuple[Message, list[JsonObject]]:
        """A system message and tools that make a prompt of at most ``tokens``; its beginning is unique."""
        tools = [_tool(random, number) for number in range(tokens // TOKENS_FOR_A_TOOL)]
        rules = [
            f"{random.getrandbits(48):012x}\n",
            *(_rule(random, number) for number in range(tokens // 8)),
        ]
        used = self.vocabulary.count(self.chat([Message("system", "")], tools))
        return Message("system", self.vocabulary.cut(rules, tokens - used)), tools

    def file_to_copy(self, random: Random) -> str:
        """A chat about a real Python file of 300 lines that is to be written again with one change."""
        shown = "".join(Path(queue.__file__).read_text("utf-8").splitlines(keepends=True)[:COPIED_LINES])
        asked = (
            f"Write this file again and change one thing: {random.choice(CHANGES)}. "
            "Answer with the whole file only."
        )
        return self.chat([Message("user", f"```python\n{shown}```\n{asked}")])


def _log_line(random: Random) -> list[str]:
    verb, thing, place, other = (random.choice(words) for words in (VERBS, THINGS, PLACES, PLACES))
    clock = f"{random.randrange(24):02}:{random.randrange(60):02}"
    counts = [random.randrange(2, 99) for _ in range(3)]
    words = (
        f"{clock} worker {counts[0]} {verb} {counts[1]} {thing} from {place} to {other} {counts[2]}".split()
    )
    return [*(f"{word} " for word in words[:-1]), f"{words[-1]}\n"]


def _rule(random: Random, number: int) -> str:
    verb, thing, place = (random.choice(words) for words in (VERBS, THINGS, PLACES))
    return f"{number + 1}. When {thing} are {verb} at the {place}, write down who did it and when.\n"


def _tool(random: Random, number: int) -> JsonObject:
    thing, place = THINGS[number % len(THINGS)], random.choice(PLACES)
    properties = {
        name: {
            "type": "string",
            "description": f"The {name} of the {thing}, as the label at the {place} says it.",
        }
        for name in ("identifier", "location", "reason")
    }
    parameters = {"type": "object", "properties": properties, "required": ["identifier"]}
    description = f"Looks up {thing} at the {place} and answers with everything that is known about them."
    function = {"name": f"find_{thing}_{number}", "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _told_about(tools: Sequence[JsonObject], system: Message) -> Message:
    if not tools:
        return system
    return Message("system", "\n".join([system.content, "Tools:", *map(json.dumps, tools)]))


def _with_calls_as_text(message: Message) -> Message:
    calls = [
        json.dumps({"name": call.name, "arguments": dict(call.arguments)}) for call in message.tool_calls
    ]
    role = "user" if message.role == "tool" else message.role
    return Message(role, "\n".join([message.content, *calls]))
