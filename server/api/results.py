"""Whose result a tool's message holds: templates want the name, clients send an id, or only the order."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from server.domain.chat import Message, ToolCall


def named_results(messages: Iterable[Message]) -> Iterator[Message]:
    """``messages``, in which a tool's result without a name has that of the call it answers.

    A result with an id is that call's, one without is that of the next call of the last message with calls.
    """
    names: dict[str, str] = {}
    unanswered: list[ToolCall] = []
    for message in messages:
        if message.tool_calls:
            unanswered = list(message.tool_calls)
            names |= {call.id: call.name for call in unanswered if call.id}
        if message.role != "tool":
            yield message
            continue
        call_id = message.tool_call_id
        if call_id is None:
            name = unanswered.pop(0).name if unanswered else None
        else:
            name = names.get(call_id)
            unanswered = [call for call in unanswered if call.id != call_id]
        yield replace(message, tool_name=message.tool_name or name)
