"""A recorded session of a coding agent, as far as it fits into a model's window."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.prompts import Prompter
from server.domain.chat import JsonObject, Message, ToolCall


@dataclass(frozen=True)
class Session:
    """The chats that a client sent one after another, each a longer form of the one before."""

    turns: tuple[tuple[Message, ...], ...]
    tools: tuple[JsonObject, ...]


@dataclass(frozen=True)
class Extent:
    """How much of a session is replayed: longest prompt, most turns, most tools, longest tool result."""

    tokens: int
    turns: int
    tools: int
    result_characters: int


def read_session(folder: Path) -> Session | None:
    """The session whose requests lie in ``folder`` as NNN.json; None if there is no such folder."""
    files = sorted(folder.glob("[0-9][0-9][0-9].json"))
    bodies = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not bodies:
        return None
    turns = tuple(tuple(map(_message, body["messages"])) for body in bodies)
    return Session(turns, tuple(bodies[0].get("tools", ())))


def prompts_of(session: Session, prompter: Prompter, extent: Extent) -> list[str]:
    """A prompt for each turn, as far as they go within ``extent``."""
    prompts: list[str] = []
    for turn in session.turns[: extent.turns]:
        messages = [_cut(message, extent.result_characters) for message in turn]
        prompt = prompter.chat(messages, session.tools[: extent.tools])
        if prompter.vocabulary.count(prompt) > extent.tokens:
            break
        prompts.append(prompt)
    return prompts


def marked(session: Session, system: str, task: str) -> Session:
    """The same session with a line in front of its system text and one in front of its first user message."""
    marks = {"system": system, "user": task}
    return replace(session, turns=tuple(_marked(turn, marks) for turn in session.turns))


def _marked(turn: tuple[Message, ...], marks: Mapping[str, str]) -> tuple[Message, ...]:
    roles = [message.role for message in turn]
    first = {roles.index(role): mark for role, mark in marks.items() if role in roles}
    return tuple(
        replace(message, content=f"{first[number]}\n{message.content}") if number in first else message
        for number, message in enumerate(turn)
    )


def _cut(message: Message, characters: int) -> Message:
    return replace(message, content=message.content[:characters]) if message.role == "tool" else message


def _message(body: Mapping[str, Any]) -> Message:
    calls = tuple(
        ToolCall(call["function"]["name"], call["function"]["arguments"])
        for call in body.get("tool_calls", ())
    )
    content, tool_name = body.get("content") or "", body.get("tool_name")
    return Message(body["role"], content, tool_calls=calls, tool_name=tool_name)
