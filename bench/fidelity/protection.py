"""What the router promises to leave word for word, looked up anew in each pair of prompts."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from server.domain.chat import Message
from server.routing.results import Key, Kind, Result, results_of
from server.routing.squeeze import Rung, Shortening

LAST_TURNS = 2


@dataclass(frozen=True)
class Kept:
    """So many things had to stay. In words: what did not, and what makes it another conversation."""

    pieces: int = 0
    lost: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    def __add__(self, other: "Kept") -> "Kept":
        return Kept(self.pieces + other.pieces, self.lost + other.lost, self.broken + other.broken)


def broken_protocol(before: Sequence[Message], after: Sequence[Message]) -> list[str]:
    """Where a prompt is not the same conversation any more, in words; results may be shorter."""
    if len(before) != len(after):
        return [f"{len(before)} messages became {len(after)}"]
    found = []
    texts = {result.key: result.text for result in results_of(before)}
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        if replace(old, content="") != replace(new, content=""):
            found.append(f"message {place}: role, calls, ids, names or thinking are not the same")
        elif old.content != new.content and not _differs_in_results_only(place, old, new, texts):
            found.append(f"message {place} of the {old.role}: more than a result's text changed")
    return found


def kept_word_for_word(
    before: Sequence[Message],
    after: Sequence[Message],
    new: Sequence[Shortening],
    limit_tokens: int,
    tokens_without: Callable[[Collection[Key]], int],
) -> Kept:
    """Whether every result that is protected in this request was left alone by its step, ``new``.

    Only where the prompt would have had more than ``limit_tokens`` may a step take files that are named and
    the turn before the last; ``tokens_without`` tells what it had without the shortening of some results.
    """
    taken = {one.result.key for one in new if one.rung is not Rung.NEWER_COPY}
    always, mostly = protected(before, turns=1, spare_files=False), protected(before)
    forced = taken & (mostly - always)
    needed = not forced or tokens_without(forced) > limit_tokens
    wrong = taken & (always if needed else mostly)
    lost = [
        f"{one.result.tool} {one.result.subject} is protected, and is a {one.rung}"
        for one in new
        if one.result.key in wrong
    ]
    results = results_of(before)
    lost += [
        f"{one.result.subject} has no newer copy"
        for one in new
        if one.rung is Rung.NEWER_COPY and not _has_newer(one.result, results)
    ]
    others = len(before) - len({result.key.message for result in results})
    return Kept(others + len(mostly), tuple(lost), tuple(broken_protocol(before, after)))


def protected(
    messages: Sequence[Message], *, turns: int = LAST_TURNS, spare_files: bool = True
) -> frozenset[Key]:
    """Results that a step at this request must not touch."""
    results = results_of(messages)
    recent = _start_of_last(messages, turns)
    named = _newest_named_files(messages, results, recent) if spare_files else set()
    return frozenset(
        result.key
        for result in results
        if result.key.message >= recent
        or result.kind is Kind.EDIT
        or _tells_an_error(result, messages)
        or result.key in named
    )


def _start_of_last(messages: Sequence[Message], turns: int) -> int:
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    return answers[-turns] if len(answers) >= turns else 0


def _newest_named_files(messages: Sequence[Message], results: Sequence[Result], recent: int) -> set[Key]:
    users = [message.content for message in messages if message.role == "user"]
    said = [message for message in messages[recent:] if message.role == "assistant"]
    calls = [json.dumps(dict(call.arguments)) for message in said for call in message.tool_calls]
    words = "\n".join([*users[-1:], *(message.content for message in said), *calls])
    newest = {
        result.subject: result.key
        for result in results
        if result.kind is Kind.FILE and result.whole and not result.failed
    }
    return {key for path, key in newest.items() if _names(words, path)}


def _names(words: str, path: str) -> bool:
    name = re.split(r"[/\\]", path)[-1]
    return bool(name) and re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", words) is not None


def _tells_an_error(result: Result, messages: Sequence[Message]) -> bool:
    item = _json_items(messages[result.key.message].content)
    if item is not None and result.key.part < len(item):
        part = item[result.key.part]
        return isinstance(part, dict) and (part.get("success") is False or bool(part.get("error")))
    return result.failed


def _has_newer(result: Result, all_results: Collection[Result]) -> bool:
    later = [other for other in all_results if other.key > result.key]
    if result.kind is Kind.SURROUNDINGS:
        return any(other.kind is Kind.SURROUNDINGS for other in later)
    return any(
        other.text == result.text
        or (other.kind is Kind.FILE and other.whole and other.subject == result.subject)
        for other in later
    )


def _differs_in_results_only(place: int, old: Message, new: Message, texts: Mapping[Key, str]) -> bool:
    if old.role == "user":
        return _same_around(
            old.content, new.content, [text for key, text in texts.items() if key.message == place]
        )
    if old.role != "tool":
        return False
    was, is_now = _json_items(old.content), _json_items(new.content)
    if was is None or not any(isinstance(item, dict) and "result" in item for item in was):
        return bool(new.content)
    return is_now is not None and _forms(was) == _forms(is_now) and _opening(old) == _opening(new)


def _same_around(old: str, new: str, texts: Sequence[str]) -> bool:
    """Whether ``new`` has every word of ``old`` but those of the results in it."""
    around = re.split("|".join(map(re.escape, filter(None, texts))), old) if any(texts) else [old]
    places = iter(_found_in_order(around, new))
    return bool(texts) and all(found >= 0 for found in places)


def _found_in_order(parts: Sequence[str], text: str) -> Iterator[int]:
    place = 0
    for part in parts:
        place = text.find(part, max(place, 0))
        yield place
        place += len(part) if place >= 0 else 0


def _json_items(content: str) -> list[Any] | None:
    try:
        document = json.loads(content)
    except ValueError:
        return None
    if isinstance(document, dict):
        return [document]
    return document if isinstance(document, list) else None


def _forms(items: Sequence[Any]) -> list[Any]:
    """The items with every value but their results' texts."""
    return [{**item, "result": "result" in item} if isinstance(item, dict) else item for item in items]


def _opening(message: Message) -> str:
    """Whether it is a list or one object."""
    return message.content.lstrip()[:1]
