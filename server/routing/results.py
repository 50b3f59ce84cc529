"""The tool results in a conversation, one by one, and how to write a shorter text in the place of one.

Three forms are known: the message of a tool, whose content is the result; the same with Cline's JSON, in
which one message may hold several results; and the user's message of agents that write their calls as XML.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from server.domain.chat import JsonObject, Message, ToolCall


class Kind(StrEnum):
    """What a result shows: a file; an edit that was made; where the agent is; anything else."""

    FILE = "file"
    EDIT = "edit"
    SURROUNDINGS = "surroundings"
    OUTPUT = "output"


class Key(NamedTuple):
    """Where a result stands: the number of its message, and its own in the message."""

    message: int
    part: int


@dataclass(frozen=True, slots=True)
class Result:
    """One result of one tool.

    ``subject`` is the file, the command or the pattern, as far as it is known. ``whole``: of a file, all of
    it. ``failed``: the tool says so.
    """

    key: Key
    kind: Kind
    tool: str
    subject: str
    text: str
    whole: bool = True
    failed: bool = False


_EDITS = re.compile(r"edit|write|replace|patch|insert|create|delete|remove|rename|move", re.IGNORECASE)
_READS = re.compile(r"read|view|open_file|get_file|cat\b", re.IGNORECASE)
_SUBJECTS = ("path", "file_path", "filePath", "filename", "file", "command", "query", "pattern", "url")
_RANGES = ("offset", "limit", "start_line", "end_line", "startLine", "endLine", "line_start", "line_end")
_LINE_RANGE = re.compile(r":\d+-\d+$")
_FAILED = re.compile(
    r"\s*(?:\{\"error\"|error\b|<error|the tool execution failed|tool execution failed)", re.IGNORECASE
)

_XML_RESULT = re.compile(r"\[(\w+)(?: for '(.*)')?\] Result:\n")
_XML_FILE = re.compile(r'<final_file_content path="([^"]*)">\n?')
_XML_FILE_END = "</final_file_content>"
_SURROUNDINGS = "<environment_details>"
_SURROUNDINGS_END = "</environment_details>"
_REMINDER = "\n# task_progress "
_USERS_WORDS = re.compile(r"<(?:feedback|user_message|answer|task)\b")


def results_of(messages: Sequence[Message]) -> tuple[Result, ...]:
    """All results in the order of the conversation."""
    found: list[Result] = []
    unanswered: list[ToolCall] = []
    for number, message in enumerate(messages):
        if message.tool_calls:
            unanswered = list(message.tool_calls)
        call = _answered(message, unanswered) if message.role == "tool" else None
        found += (part.result(number, place) for place, part in enumerate(_parts(message, call)))
    return tuple(found)


def rewritten(message: Message, texts: Mapping[int, str]) -> Message:
    """``message`` with some of its results in other words; ``texts`` by the numbers of the results in it."""
    if not texts:
        return message
    document = _document(message)
    if document is not None:
        return replace(message, content=_with_results(document, texts))
    content = message.content
    for place, part in reversed(list(enumerate(_parts(message, None)))):
        if place in texts:
            content = content[: part.start] + texts[place] + content[part.end :]
    return replace(message, content=content)


@dataclass(frozen=True, slots=True)
class _Part:
    """A result within its message: from ``start`` to ``end`` of the content, where it is no JSON."""

    kind: Kind
    tool: str
    subject: str
    text: str
    whole: bool = True
    failed: bool = False
    start: int = 0
    end: int = 0

    def result(self, message: int, place: int) -> Result:
        subject, whole = self.subject, self.whole
        if self.kind is Kind.FILE and (lines := _LINE_RANGE.search(subject)):
            subject, whole = subject[: lines.start()], False
        return Result(Key(message, place), self.kind, self.tool, subject, self.text, whole, self.failed)


def _answered(message: Message, unanswered: list[ToolCall]) -> ToolCall | None:
    """The call that a tool's message answers: by its id, without one in their order."""
    same = [call for call in unanswered if message.tool_call_id and call.id == message.tool_call_id]
    call = next(iter(same or ([] if message.tool_call_id else unanswered)), None)
    if call is not None:
        unanswered.remove(call)
    return call


def _parts(message: Message, call: ToolCall | None) -> Iterator[_Part]:
    if message.role == "tool":
        document = _document(message)
        if document is None:
            yield _plain_part(message, call)
        else:
            yield from (_json_part(message.tool_name or "", item) for item in _items(document))
    elif message.role == "user":
        yield from _xml_parts(message.content)


def _plain_part(message: Message, call: ToolCall | None) -> _Part:
    arguments: JsonObject = call.arguments if call else {}
    tool = message.tool_name or (call.name if call else "")
    named = (arguments.get(name) for name in _SUBJECTS)
    return _Part(
        _kind(tool),
        tool,
        next((value for value in named if isinstance(value, str)), ""),
        message.content,
        whole=not any(arguments.get(name) is not None for name in _RANGES),
        failed=_FAILED.match(message.content) is not None,
        end=len(message.content),
    )


def _json_part(tool: str, item: JsonObject) -> _Part:
    query = item.get("query")
    failed = item.get("success") is False or bool(item.get("error"))
    return _Part(
        _kind(tool), tool, query if isinstance(query, str) else "", item.get("result") or "", failed=failed
    )


def _document(message: Message) -> Any:
    """Cline's JSON: a list of objects with a text as ``result``, or one such object. None: anything else."""
    if message.role != "tool" or not message.content.startswith(("[{", "{")):
        return None
    try:
        document = json.loads(message.content)
    except (ValueError, RecursionError):
        return None
    items = _items(document)
    known = items and all(isinstance(item, dict) and isinstance(item.get("result"), str) for item in items)
    return document if known else None


def _items(document: Any) -> list[Any]:
    return document if isinstance(document, list) else [document]


def _with_results(document: Any, texts: Mapping[int, str]) -> str:
    items = [
        {**item, "result": texts.get(place, item["result"])} for place, item in enumerate(_items(document))
    ]
    # As JavaScript writes it, so that a template that looks into it finds what it knows.
    return json.dumps(
        items if isinstance(document, list) else items[0], ensure_ascii=False, separators=(",", ":")
    )


def _xml_parts(content: str) -> Iterator[_Part]:
    """The result that a user's message begins with, and what an editor says of its surroundings."""
    surroundings = content.find(_SURROUNDINGS)
    head = _XML_RESULT.match(content)
    if head:
        body_end = min(
            place
            for place in (content.find(_REMINDER, head.end()), surroundings, len(content))
            if place >= head.end() or place == len(content)
        )
        body = content[head.end() : body_end]
        if not _USERS_WORDS.search(body):
            yield _xml_result(head[1], head[2] or "", body, head.end())
    if surroundings >= 0:
        start = surroundings + len(_SURROUNDINGS)
        end = content.find(_SURROUNDINGS_END, start)
        if end >= 0:
            yield _Part(Kind.SURROUNDINGS, "", "", content[start:end], start=start, end=end)


def _xml_result(tool: str, subject: str, body: str, start: int) -> _Part:
    """Of an edit only the file that comes back behind it: what was done stays in its own words."""
    failed = _FAILED.match(body) is not None
    file = _XML_FILE.search(body)
    if file and (end := body.find(_XML_FILE_END, file.end())) >= 0:
        text = body[file.end() : end]
        return _Part(Kind.FILE, tool, file[1], text, failed=failed, start=start + file.end(), end=start + end)
    return _Part(_kind(tool), tool, subject, body, failed=failed, start=start, end=start + len(body))


def _kind(tool: str) -> Kind:
    if _EDITS.search(tool):
        return Kind.EDIT
    return Kind.FILE if _READS.search(tool) else Kind.OUTPUT
