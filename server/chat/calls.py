"""Tool calls in a model's text, in the shapes in which models write them.

A call is a JSON object with a name and arguments, or Qwen3-Coder's XML. Models were taught to put it
between tags, and leave them away, write it into a code fence, or several into a list.
"""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Any, NamedTuple

from server.chat.arguments import LiveCall, written_out
from server.chat.fit import as_object, fitted, json_of
from server.domain.chat import CallPart, JsonObject, ToolCall
from server.engine.stops import held_back

Tools = Mapping[str, JsonObject]
"""The JSON schema of each tool's arguments, by the tool's name."""

TAGS = ("<tool_call>", "<tools>", "<function_call>")
"""What may stand in front of a call: small models also take the tag in which they were shown the tools."""

CLOSING_TAGS = ("</tool_call>", "</tools>", "</function_call>")
CLOSINGS = (*CLOSING_TAGS, "```")
XML_OPEN = "<function="

_BEFORE = re.compile(r"(?:\s+|<tool_call>|<tools>|<function_call>|```[a-z_]*[ \t]*\n)*")
_FENCE_BEGUN = re.compile(r"`{1,2}\Z|```[a-z_]*[ \t]*\Z")
_FIRST_KEYS = {"name", "function", "arguments", "parameters", "type", "id"}
_STILL_OPEN = re.compile(r'[\[{\s]*("[^"]{0,32})?\Z')
_FIRST_KEY = re.compile(r'[\[\s]*\{\s*"([^"]{0,32})"')
_NAME = re.compile(r'[\[\s]*\{\s*"name"\s*:\s*"([^"\\]*)"')
_LIVE = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_OUTSIDE = re.compile(r"[^\s\d,:.+\-eEtrufalsn]")
_INSIDE = re.compile(r'["\\]')
_PAIRS = {"{": "}", "[": "]"}

_XML_NAME = re.compile(r"<function=([^>\n]{0,200})>")
_XML_NAME_OPEN = re.compile(r"<function=[^>\n]{0,200}\Z")
_XML_END = re.compile(
    r"(?:</parameter>|<function=[^>\n]*>)\s*(</function>)|(</function>|</parameter>)\s*(?=</tool_call>)"
)
_XML_CLOSE = "</function>"
_XML_PARAMETER = re.compile(
    r"<parameter=([^>\n]*)>(.*?)(?:</parameter>\s*(?=<parameter=|\Z)|(?=<parameter=)|\Z)", re.DOTALL
)
_LOOK_BACK = 400
"""Characters behind which the tags in front of an end are not looked for again."""

_LINE_OPENING = re.compile(r"^[ \t]*(?:```[a-z_]*[ \t]*\n\s*)?[\[{]", re.MULTILINE)
_LINE_OPENING_BEGUN = re.compile(r"^[ \t]*(?:`{1,2}|```[a-z_]*[ \t]*(?:\n\s*)?)?\Z", re.MULTILINE)
_TAG_OPENING = re.compile("|".join(map(re.escape, (*TAGS, XML_OPEN))))


class Verdict(Enum):
    """What is known of a place where a call may begin."""

    OPEN = auto()
    CALL = auto()
    TEXT = auto()


class _Written(NamedTuple):
    """A call as the model wrote it: its text, and where that ends."""

    text: str
    end: int


class _NoCallError(Exception):
    """What stands here is something else."""


def schemas_of(tools: Sequence[JsonObject]) -> Tools:
    """The tools that a request brings, as OpenAI and Ollama write them."""
    functions = [tool.get("function") for tool in tools]
    return {
        str(function["name"]): function.get("parameters") or {}
        for function in functions
        if isinstance(function, Mapping) and "name" in function
    }


def forced_call(tools: Tools, name: str | None) -> JsonObject:
    """The JSON schema of one call of the tool ``name``, or of any of ``tools``; without tags, which not
    every model knows."""
    names = tools if name is None else (name,)
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": called}, "arguments": _arguments_of(tools[called])},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for called in names
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _arguments_of(schema: JsonObject) -> JsonObject:
    """What may be called with nothing is called with nothing: OpenAI says so of a tool without parameters."""
    says_nothing = not schema.get("properties") and schema.keys() <= {"type", "properties", "required"}
    return {"type": "object", **schema, **({"additionalProperties": False} if says_nothing else {})}


class Opening(NamedTuple):
    """Where in a text a call may begin; what opens it ends at ``end``, or is still incomplete (None)."""

    start: int
    end: int | None


def find_opening(text: str, *, at_line_start: bool) -> Opening:
    """The first place in ``text`` where a call may begin; the end of ``text`` if there is none.

    ``at_line_start`` says whether ``text`` begins with a line. Tags count anywhere, brackets and fences
    only at the start of a line.
    """
    # Something in front that is no line break, where no line begins.
    shift = 0 if at_line_start else 1
    padded = "." * shift + text
    found = [match for match in (_TAG_OPENING.search(padded), _LINE_OPENING.search(padded)) if match]
    if found:
        first = min(found, key=lambda match: match.start())
        return Opening(first.start() - shift, first.end() - shift)
    begun = _LINE_OPENING_BEGUN.search(padded)
    held = held_back(text, (*TAGS, XML_OPEN))
    start = min(len(text) - held, len(text) if begun is None else begun.start() - shift)
    return Opening(max(start, 0), None)


class CallScanner:
    """Reads on from where a call may begin, until it is known whether there is one.

    ``raw`` is all that it was given. Once the verdict is CALL, ``calls`` are those found, and the text
    goes on at ``end`` of ``raw``. ``index`` is the number of calls before.
    """

    def __init__(self, tools: Tools, index: int = 0) -> None:
        self.raw = ""
        self.end = 0
        self.calls: tuple[ToolCall, ...] = ()
        self.verdict = Verdict.OPEN
        self._index = index
        self._parts: list[CallPart] = []
        self._live: LiveCall | None = None
        self._tools = tools
        self._body: _JsonBody | _XmlBody | None = None

    @property
    def closings(self) -> tuple[str, ...]:
        """What may close a call that was found: a fence only where one was open."""
        fenced = "```" in self.raw[: self._body.start] if self._body else False
        return CLOSINGS if fenced else CLOSING_TAGS

    def feed(self, text: str) -> Verdict:
        """Take more text."""
        self.raw += text
        self._look(last=False)
        return self.verdict

    def finish(self) -> Verdict:
        """Nothing more comes: a call that lacks only its end counts."""
        self._look(last=True)
        return self.verdict

    @property
    def is_unmistakable(self) -> bool:
        """Whether nothing but a call begins like this: with a tag, or with the name of a tool."""
        return self.raw.lstrip().startswith(TAGS) or bool(self._body and self._body.names_a_tool(self.raw))

    @property
    def head_end(self) -> int:
        """Where the arguments of a single call begin whose name stands in front of them; 0 for another form.

        No other call begins before that.
        """
        begun = self._live_head()
        return begun.end() if begun else 0

    @property
    def went_live(self) -> bool:
        """Whether pieces of a call have been handed on."""
        return self._live is not None

    def take_parts(self) -> tuple[CallPart, ...]:
        """The pieces of calls that have come since the last time."""
        parts, self._parts = tuple(self._parts), []
        return parts

    def _look(self, *, last: bool) -> None:
        if self.verdict is not Verdict.OPEN:
            return
        try:
            self._body = self._body or self._begun()
            written = self._body.look(self.raw, last=last) if self._body else None
            if written is not None:
                self.calls, self.end = self._body_calls(written), written.end
                self._end_parts()
                self.verdict = Verdict.CALL
            elif last:
                self.verdict = Verdict.TEXT
            else:
                self._go_live()
        except _NoCallError:
            self.verdict = Verdict.TEXT

    def _go_live(self) -> None:
        """Hand on what is certain of a single call whose name stands in front of its arguments."""
        if self._live is None:
            begun = self._live_head()
            if begun is None:
                return
            self._live = LiveCall(begun[1], self._tools[begun[1]], begun.end(), _new_id())
            self._parts.append(CallPart(self._index, "", self._live.id, self._live.name))
        text = self._live.feed(self.raw)
        if text:
            self._parts.append(CallPart(self._index, text))

    def _live_head(self) -> re.Match[str] | None:
        begun = _LIVE.match(self.raw, self._body.start) if isinstance(self._body, _JsonBody) else None
        return begun if begun and begun[1] in self._tools else None

    def _end_parts(self) -> None:
        calls = list(enumerate(self.calls, self._index))
        if self._live is not None:
            index, call = calls.pop(0)
            self._parts.append(CallPart(index, self._live.rest(call.arguments)))
        self._parts += [
            CallPart(index, written_out(call.arguments), call.id, call.name) for index, call in calls
        ]

    def _body_calls(self, written: _Written) -> tuple[ToolCall, ...]:
        if self._body is None:
            raise _NoCallError
        calls = [self._checked(name, arguments) for name, arguments in self._body.read(written.text)]
        if self._live is not None:
            calls[0] = replace(calls[0], id=self._live.id)
        return tuple(calls)

    def _checked(self, name: str, arguments: Any) -> ToolCall:
        if name not in self._tools:
            raise _NoCallError
        named = as_object(arguments, self._tools[name])
        if named is None:
            raise _NoCallError
        return ToolCall(name, fitted(named, self._tools[name]), id=_new_id())

    def _begun(self) -> "_JsonBody | _XmlBody | None":
        """What stands behind tags, fence and blanks; None if that cannot be said yet."""
        before = _BEFORE.match(self.raw)
        start = before.end() if before else 0
        rest = self.raw[start : start + len(XML_OPEN)]
        if not rest or (XML_OPEN.startswith(rest) and rest != XML_OPEN):
            return None
        if any(tag.startswith(rest) for tag in TAGS) or _FENCE_BEGUN.match(self.raw, start):
            return None
        if rest == XML_OPEN:
            return _XmlBody(start, self._tools)
        if rest[0] in _PAIRS:
            return _JsonBody(start, self._tools, tagged=start > 0)
        raise _NoCallError


class _JsonBody:
    """An object, or a list of them. Its end is found by its brackets, so that a string may hold any tag."""

    def __init__(self, start: int, tools: Tools, *, tagged: bool) -> None:
        self.start = self._place = start
        self._tools = tools
        self._tagged = tagged
        self._promising = False
        self._open = ""
        self._in_string = False

    def look(self, raw: str, *, last: bool) -> _Written | None:
        """The object once it is complete. Raises _NoCallError as soon as it can be no call."""
        self._promising = self._promising or self._is_promising(raw)
        while self._promising and self._place < len(raw):
            if not (self._skip_string(raw) if self._in_string else self._take_bracket(raw)):
                break
            if not self._open:
                return _Written(raw[self.start : self._place], self._place)
        return self._without_its_end(raw, last=last)

    def names_a_tool(self, raw: str) -> bool:
        """Whether the name has come, which is then one of a tool."""
        return self._promising and bool(_NAME.match(raw, self.start))

    def read(self, text: str) -> Iterable[tuple[str, Any]]:
        """Names and arguments of the calls. Raises _NoCallError."""
        try:
            value = json_of(text)
        except ValueError as error:
            raise _NoCallError from error
        calls = value if isinstance(value, list) else [value]
        if not calls:
            raise _NoCallError
        return [_name_and_arguments(call, tagged=self._tagged) for call in calls]

    def _is_promising(self, raw: str) -> bool:
        """Whether the first key, and the name where that comes first, are those of a call."""
        key = _FIRST_KEY.match(raw, self.start)
        if key is None:
            if _STILL_OPEN.match(raw, self.start):
                return False
            raise _NoCallError
        if key[1] not in _FIRST_KEYS:
            raise _NoCallError
        name = _NAME.match(raw, self.start)
        if name and name[1] not in self._tools:
            raise _NoCallError
        return key[1] != "name" or name is not None

    def _skip_string(self, raw: str) -> bool:
        found = _INSIDE.search(raw, self._place)
        if found is None:
            self._place = len(raw)
            return False
        if found[0] == "\\":
            # The character behind it may still be on its way.
            self._place = found.start() if found.end() == len(raw) else found.end() + 1
            return self._place > found.start()
        self._place, self._in_string = found.end(), False
        return True

    def _take_bracket(self, raw: str) -> bool:
        found = _OUTSIDE.search(raw, self._place)
        if found is None:
            self._place = len(raw)
            return False
        self._place = found.start()
        character = found[0]
        if character == '"':
            self._in_string = True
        elif character in _PAIRS:
            self._open += _PAIRS[character]
        elif self._open.endswith(character):
            self._open = self._open[:-1]
        else:
            return self._meet(raw)
        self._place += 1
        return True

    def _meet(self, raw: str) -> bool:
        """Something that no JSON holds; a closing tag may still follow a call that lost its last bracket."""
        rest = raw[self._place :]
        if any(closing.startswith(rest[: len(closing)]) for closing in CLOSINGS):
            return False
        raise _NoCallError

    def _without_its_end(self, raw: str, *, last: bool) -> _Written | None:
        """The object with the brackets that the model forgot. Where the text just stops, only the last one
        may be missing: the arguments themselves may have been cut."""
        rest = raw[self._place :]
        closed = any(rest.startswith(closing) for closing in CLOSINGS)
        cut_behind = last and not rest and len(self._open) == 1
        if self._in_string or not self._open or not (closed or cut_behind):
            return None
        return _Written(raw[self.start : self._place].rstrip() + self._open[::-1], self._place)


class _XmlBody:
    """``<function=name><parameter=key>value</parameter></function>``."""

    def __init__(self, start: int, tools: Tools) -> None:
        self.start = self._searched = start
        self._tools = tools

    def look(self, raw: str, *, last: bool) -> _Written | None:
        """The function once it is complete. Raises _NoCallError as soon as it can be no call."""
        name = _XML_NAME.match(raw, self.start)
        if name is None:
            if _XML_NAME_OPEN.match(raw, self.start):
                return None
            raise _NoCallError
        if name[1].strip() not in self._tools:
            raise _NoCallError
        found = _XML_END.search(raw, max(self.start, self._searched - _LOOK_BACK))
        self._searched = len(raw)
        if found is None:
            # A value that was cut short is no value, and more of them may have been on their way.
            return None
        end = max(found.end(group) for group in (1, 2))
        return _Written(raw[self.start : end], end)

    def names_a_tool(self, raw: str) -> bool:
        """Whether the name has come, which is then one of a tool."""
        return bool(_XML_NAME.match(raw, self.start))

    def read(self, text: str) -> Iterable[tuple[str, dict[str, Any]]]:
        """Name and arguments; each argument is the text that it is."""
        name = _XML_NAME.match(text)
        if name is None:
            raise _NoCallError
        inside = text[name.end() :].rstrip().removesuffix(_XML_CLOSE)
        parameters = _XML_PARAMETER.findall(inside)
        arguments = {key.strip(): value.removeprefix("\n").removesuffix("\n") for key, value in parameters}
        return [(name[1].strip(), arguments)]


def _new_id() -> str:
    return f"call_{secrets.token_hex(4)}"


def _name_and_arguments(call: Any, *, tagged: bool) -> tuple[str, Any]:
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        call = call["function"]
    if not isinstance(call, dict):
        raise _NoCallError
    name = call.get("name", call.get("function"))
    arguments = call.get("arguments", call.get("parameters", {} if tagged else None))
    if isinstance(arguments, str):
        arguments = _written_as_text(arguments)
    if not isinstance(name, str) or arguments is None:
        raise _NoCallError
    return name, arguments


def _written_as_text(text: str) -> Any:
    """Arguments that are a text of JSON, as OpenAI writes them; any other text is one argument."""
    try:
        return json_of(text) if text.strip() else {}
    except ValueError:
        return text
