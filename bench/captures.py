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


def read_session(folder: Path) -> Session | None:
    """The session whose requests lie in ``folder`` as NNN.json; None if there is no such folder."""
    files = sorted(folder.glob("[0-9][0-9][0-9].json"))
    bodies = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not bodies:
        return None
    turns = tuple(tuple(map(_message, body["messages"])) for body in bodies)
    return Session(turns, tuple(bodies[0].get("tools", ())))


def prompts_of(session: Session, prompter: Prompter, most_tokens: int, cut_characters: int) -> list[str]:
    """A prompt for each turn that fits; contents of tool results are cut to ``cut_characters``."""
    prompts = []
    for turn in session.turns:
        messages = [_cut(message, cut_characters) for message in turn]
        prompt = prompter.chat(messages, session.tools)
        if prompter.vocabulary.count(prompt) > most_tokens:
            break
        prompts.append(prompt)
    return prompts


def made_distinct(session: Session, label: str) -> Session:
    """The same session with ``label`` in front of its first user message: only what is before stays equal."""
    return replace(session, turns=tuple(_labelled(turn, label) for turn in session.turns))


def _labelled(turn: tuple[Message, ...], label: str) -> tuple[Message, ...]:
    first = next(number for number, message in enumerate(turn) if message.role == "user")
    marked = replace(turn[first], content=f"{label}: {turn[first].content}")
    return (*turn[:first], marked, *turn[first + 1 :])


def _cut(message: Message, characters: int) -> Message:
    return replace(message, content=message.content[:characters]) if message.role == "tool" else message


def _message(body: Mapping[str, Any]) -> Message:
    calls = tuple(
        ToolCall(call["function"]["name"], call["function"]["arguments"])
        for call in body.get("tool_calls", ())
    )
    content, tool_name = body.get("content") or "", body.get("tool_name")
    return Message(body["role"], content, tool_calls=calls, tool_name=tool_name)
