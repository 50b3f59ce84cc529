"""Content blocks of a conversation: JSON to the domain's messages."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from server.api.bodies import Image, Lenient, shown
from server.domain.chat import Message, ToolCall

_BETWEEN_BLOCKS = "\n\n"
_KNOWN = "known are text, image, tool_use, tool_result and thinking"
_DOCUMENT = "a document, which no model here reads: send its text in a text block"
_PLAIN_KINDS = ("text", "image", "thinking", "redacted_thinking", "tool_use", "tool_result")


class TextBlock(Lenient):
    """Words."""

    text: str


def _base64_only(kind: str) -> str:
    if kind != "base64":
        raise ValueError(f'"{kind}": send images as base64, this service fetches nothing from elsewhere')
    return kind


class _Source(Lenient):
    type: Annotated[str, AfterValidator(_base64_only)]
    data: Image


class ImageBlock(Lenient):
    """A picture within the request."""

    source: _Source


class _ThinkingBlock(Lenient):
    thinking: str = ""


class _RedactedBlock(Lenient):
    """Thinking that only Anthropic's servers can read."""


class _CallBlock(Lenient):
    """A call of the client's tool, or of one of Anthropic's own in a conversation that was led there."""

    id: str
    name: str
    input: dict[str, Any] = Field(default_factory=dict)

    def to_domain(self) -> ToolCall:
        return ToolCall(self.name, self.input, self.id)


def _result_part_kind(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    return kind if kind in ("text", "image") else "other"


def _no_document(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "document":
        raise ValueError(_DOCUMENT)
    return value


_ResultPart = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[dict[str, Any], Tag("other")],
    Discriminator(_result_part_kind),
    BeforeValidator(_no_document),
]


def as_blocks(content: Any) -> Any:
    """A string is short for one block of text."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class _ResultBlock(Lenient):
    tool_use_id: str
    content: Annotated[list[_ResultPart], BeforeValidator(as_blocks)] = Field(default_factory=list)
    is_error: bool = False

    def to_domain(self) -> Message:
        texts = (_text_of(part) for part in self.content if not isinstance(part, ImageBlock))
        return Message(
            "tool",
            _marked(_joined(texts), is_error=self.is_error),
            images=tuple(part.source.data for part in self.content if isinstance(part, ImageBlock)),
            tool_call_id=self.tool_use_id,
        )


class _ServerResultBlock(Lenient):
    """What one of Anthropic's own tools found."""

    tool_use_id: str
    content: Any = ""

    def to_domain(self) -> Message:
        found = self.content if isinstance(self.content, str) else _json(self.content)
        return Message("tool", found, tool_call_id=self.tool_use_id)


def _kind(value: Any) -> str | None:
    """Which class reads a block; None for none."""
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        return None
    if kind in _PLAIN_KINDS:
        return kind
    # Anthropic's own tools come and go; their blocks keep these endings.
    if kind.endswith("_tool_use"):
        return "tool_use"
    return "server_tool_result" if kind.endswith("_tool_result") else None


def _known(value: Any) -> Any:
    """Refuses in better words than the choice between classes would find."""
    if _kind(value) is None:
        _no_document(value)
        if isinstance(value, dict):
            raise ValueError(f"a block of the type {shown(value.get('type'))}; {_KNOWN}")
        raise ValueError(f"{shown(value)}, which is no block")
    return value


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[_ThinkingBlock, Tag("thinking")]
    | Annotated[_RedactedBlock, Tag("redacted_thinking")]
    | Annotated[_CallBlock, Tag("tool_use")]
    | Annotated[_ResultBlock, Tag("tool_result")]
    | Annotated[_ServerResultBlock, Tag("server_tool_result")],
    Discriminator(_kind),
    BeforeValidator(_known),
]
Content = Annotated[list[Block], BeforeValidator(as_blocks)]


def to_messages(role: str, blocks: Sequence[Block]) -> Iterator[Message]:
    """One message of Anthropic's is several here where it holds results.

    The user's results come before the user's words: nothing may stand between a call and its result.
    """
    if role == "user":
        blocks = sorted(blocks, key=lambda block: not _is_result(block))
    if not blocks:
        yield Message(role)
    for are_results, run in itertools.groupby(blocks, _is_result):
        if are_results:
            yield from (_result(block) for block in run)
        else:
            yield _said(role, tuple(run))


def _is_result(block: Block) -> bool:
    return isinstance(block, _ResultBlock | _ServerResultBlock)


def _result(block: Block) -> Message:
    if not isinstance(block, _ResultBlock | _ServerResultBlock):
        raise TypeError(f"{block} is no result")
    return block.to_domain()


def _said(role: str, blocks: Sequence[Block]) -> Message:
    return Message(
        role,
        _joined(block.text for block in blocks if isinstance(block, TextBlock)),
        thinking=_joined(block.thinking for block in blocks if isinstance(block, _ThinkingBlock)),
        images=tuple(block.source.data for block in blocks if isinstance(block, ImageBlock)),
        tool_calls=tuple(block.to_domain() for block in blocks if isinstance(block, _CallBlock)),
    )


def _joined(texts: Iterable[str]) -> str:
    return _BETWEEN_BLOCKS.join(text for text in texts if text)


def _marked(text: str, *, is_error: bool) -> str:
    """No template has a place for the mark of a failed call, so the words must say it."""
    return f"Error: {text}" if is_error and not text.casefold().startswith("error") else text


def _text_of(part: TextBlock | dict[str, Any]) -> str:
    return part.text if isinstance(part, TextBlock) else _json(part)


def _json(value: Any) -> str:
    return json.dumps(_readable(value), ensure_ascii=False)


def _readable(value: Any) -> Any:
    """Without what only Anthropic's servers can read."""
    if isinstance(value, list):
        return [_readable(item) for item in value]
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items() if not key.startswith("encrypted_")}
    return value
