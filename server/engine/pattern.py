"""Regular expressions, as the ``pattern`` of a JSON schema has them, in llama.cpp's grammar notation."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from server.engine.gbnf import MOST_TIMES, Rules, literal

Ranges = tuple[tuple[int, int], ...]
"""Characters: the first and the last code point of each run, in order."""

_MOST_NESTED = 600
"""Characters where repetitions repeat: each may be the next, in llama.cpp's view, after every character."""

_MOST_CHARS = 20_000
"""Of the pattern itself, most of which may stand in brackets."""

_LAST = 0x10FFFF
_HALVES = range(0xD800, 0xE000)
"""Codes that stand for characters only in pairs."""

_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACES: Ranges = (
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x2028, 0x2029),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
)
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACES}
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_SHORT_ESCAPES = {'"': '"', "\\": "\\\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_IN_JSON_AS_IT_IS: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, _LAST))
_QUANTIFIER = re.compile(r"([*+?]|\{(?:\d{1,9}(?:,\d{0,9})?|,\d{1,9})\})\??")
_GROUP_OPENING = re.compile(r"\((?:\?(?::|P?<[A-Za-z_]\w*>))?")
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")


@dataclass(frozen=True, slots=True)
class _Piece:
    """The notation of a part of a pattern; ``characters`` counts it with all repetitions written out."""

    text: str
    characters: int = 1
    may_be_empty: bool = False
    repeats: bool = False


def pattern_rule(rules: Rules, pattern: str) -> str:
    """The name of a rule for JSON strings that match ``pattern``; negative lookaheads are passed over.

    Raises:
        ValueError: the pattern is broken, cannot be expressed, or repeats too much.
    """
    return rules.add(rf'"\"" ({_Parser(rules, pattern).parse()}) "\""')


class _Parser:
    """Goes through a pattern once, from left to right."""

    def __init__(self, rules: Rules, pattern: str) -> None:
        self._rules = rules
        self._pattern = pattern
        self._at = 0

    def parse(self) -> str:
        """The notation of the whole pattern, without the string's quotes."""
        if len(self._pattern) > _MOST_CHARS:
            self._refuse(f"has more than {_MOST_CHARS} characters")
        whole = self._alternatives(self._anchored)
        if self._at < len(self._pattern):
            self._refuse("a ) is not escaped, or an anchor stands in the middle")
        self._check_size(whole.characters)
        self._rules.spend(whole.characters)
        return whole.text

    def _anchored(self) -> _Piece:
        """One alternative of the whole, which may begin with ^ and end with $."""
        from_start = self._take("^")
        inner = self._sequence()
        to_end = self._take("$")
        if not from_start and not to_end:
            self._refuse("must begin with ^ or end with $")
        anything = f"{self._rules.builtin('char')}*"
        texts = [inner.text] if from_start else [anything, inner.text]
        return _Piece(" ".join(texts if to_end else [*texts, anything]), inner.characters)

    def _alternatives(self, one: Callable[[], _Piece]) -> _Piece:
        pieces = [one()]
        while self._take("|"):
            pieces.append(one())
        return _Piece(
            " | ".join(piece.text for piece in pieces),
            sum(piece.characters for piece in pieces),
            any(piece.may_be_empty for piece in pieces),
            any(piece.repeats for piece in pieces),
        )

    def _sequence(self) -> _Piece:
        pieces = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)$]}":
            if self._pattern.startswith(("(?!", "(?<!"), self._at):
                self._pass_over_group()
            else:
                pieces.append(self._quantified(self._atom()))
        if self._pattern.startswith(("]", "}"), self._at):
            self._refuse(f"{self._pattern[self._at]} is not escaped")
        return _Piece(
            " ".join(piece.text for piece in pieces) or '""',
            sum(piece.characters for piece in pieces),
            all(piece.may_be_empty for piece in pieces),
            any(piece.repeats for piece in pieces),
        )

    def _quantified(self, piece: _Piece) -> _Piece:
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            return piece
        self._at = found.end()
        low, high = _times(found[1])
        if high is not None and low > high:
            self._refuse(f"{found[1]} counts backwards")
        # Both what may be empty and what is written out thousandfold would have llama.cpp search for ever.
        if piece.may_be_empty and high != 1:
            self._refuse("repeats what may be empty")
        characters = piece.characters * max(low if high is None else high, 1)
        self._check_size(characters, _MOST_NESTED if piece.repeats and high is not None else MOST_TIMES)
        text = f"{self._rules.add(piece.text)}{{{low},{'' if high is None else high}}}"
        return _Piece(text if high != 0 else '""', characters, low == 0 or piece.may_be_empty, True)

    def _atom(self) -> _Piece:
        sign = self._pattern[self._at]
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._notation(self._class())
        if sign == ".":
            self._at += 1
            return self._notation(_inverse(((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))))
        if sign == "\\":
            return self._notation(self._escape())
        if sign in "^*+?{":
            self._refuse(f"{sign} stands where nothing can be repeated or anchored")
        self._at += 1
        return self._notation(_one(sign))

    def _group(self) -> _Piece:
        opening = _GROUP_OPENING.match(self._pattern, self._at)
        self._at = opening.end() if opening else self._at
        if self._pattern.startswith("?", self._at):
            self._refuse("has a kind of group that cannot be expressed")
        inner = self._alternatives(self._sequence)
        if not self._take(")"):
            self._refuse("has a group that does not end, or an anchor within it")
        return _Piece(f"({inner.text})", inner.characters, inner.may_be_empty, inner.repeats)

    def _pass_over_group(self) -> None:
        depth = 0
        while self._at < len(self._pattern):
            sign = self._pattern[self._at]
            if sign == "[":
                self._class()
                continue
            self._at += 2 if sign == "\\" else 1
            depth += {"(": 1, ")": -1}.get(sign, 0)
            if depth == 0:
                return
        self._refuse("has a group that does not end")

    def _class(self) -> Ranges:
        self._at += 1
        inverted = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            first = self._class_member()
            dash = self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at)
            if dash and _is_one(first):
                self._at += 1
                last = self._class_member()
                if not _is_one(last) or first > last:
                    self._refuse("has a range in [] without a beginning or an end")
                ranges.append((first[0][0], last[0][1]))
            else:
                ranges += first
        return _inverse(ranges) if inverted else _united(ranges)

    def _class_member(self) -> Ranges:
        if self._at >= len(self._pattern):
            self._refuse("has a [ that does not end")
        if self._pattern.startswith("\\b", self._at):
            self._at += 2
            return _one("\b")
        if self._pattern[self._at] == "\\":
            return self._escape()
        self._at += 1
        return _one(self._pattern[self._at - 1])

    def _escape(self) -> Ranges:
        """What a backslash and its letters mean."""
        self._at += 1
        letter = self._pattern[self._at : self._at + 1]
        if code := _CODE.match(self._pattern, self._at):
            self._at = code.end()
            return self._code_point(int(code[1] or code[2] or code[3], 16))
        self._at += 1
        if letter.lower() in _CLASSES and letter:
            ranges = _CLASSES[letter.lower()]
            return ranges if letter.islower() else _inverse(ranges)
        if letter in _CONTROLS:
            return _one(_CONTROLS[letter])
        if not letter or (letter.isalnum() and letter.isascii()):
            self._refuse(f"\\{letter} cannot be expressed")
        return _one(letter)

    def _code_point(self, code: int) -> Ranges:
        if code > _LAST or code in _HALVES:
            self._refuse(f"{code:x} is the code of no character")
        return ((code, code),)

    def _notation(self, ranges: Ranges) -> _Piece:
        """The JSON text of one character out of ``ranges``."""
        plain = _both(ranges, _IN_JSON_AS_IT_IS)
        short = [escape for sign, escape in _SHORT_ESCAPES.items() if _both(ranges, _one(sign))]
        parts = [f"[{''.join(map(_run_text, plain))}]"] if plain else []
        parts += [rf'"\\" [{"".join(short)}]'] if short else []
        if not parts:
            codes = (code for first, last in ranges for code in range(first, last + 1))
            parts = [literal(json.dumps(chr(code))[1:-1]) for code in codes]
        if not parts:
            self._refuse("has an empty []")
        return _Piece(parts[0] if len(parts) == 1 else f"({' | '.join(parts)})")

    def _take(self, sign: str) -> bool:
        taken = self._pattern.startswith(sign, self._at)
        self._at += len(sign) if taken else 0
        return taken

    def _check_size(self, characters: int, most: int = MOST_TIMES) -> None:
        if characters > most:
            self._refuse("repeats too much")

    def _refuse(self, reason: str) -> NoReturn:
        raise ValueError(f"/{self._pattern[:100]}/: {reason}")


def _times(quantifier: str) -> tuple[int, int | None]:
    if quantifier in "*+?":
        return (1 if quantifier == "+" else 0), (1 if quantifier == "?" else None)
    low, comma, high = quantifier[1:-1].partition(",")
    if not comma:
        return int(low), int(low)
    return int(low or 0), int(high) if high else None


def _one(sign: str) -> Ranges:
    return ((ord(sign), ord(sign)),)


def _is_one(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _united(ranges: Iterable[tuple[int, int]]) -> Ranges:
    united: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if united and first <= united[-1][1] + 1:
            united[-1] = (united[-1][0], max(last, united[-1][1]))
        else:
            united.append((first, last))
    return tuple(united)


def _inverse(ranges: Iterable[tuple[int, int]]) -> Ranges:
    inverse = []
    start = 0
    for first, last in _united(ranges):
        if first > start:
            inverse.append((start, first - 1))
        start = last + 1
    return (*inverse, (start, _LAST)) if start <= _LAST else tuple(inverse)


def _both(one: Ranges, other: Ranges) -> Ranges:
    pairs = ((max(a[0], b[0]), min(a[1], b[1])) for a in one for b in other)
    return tuple((first, last) for first, last in pairs if first <= last)


def _run_text(run: tuple[int, int]) -> str:
    first, last = (_character_text(code) for code in run)
    return first if first == last else f"{first}-{last}"


def _character_text(code: int) -> str:
    sign = chr(code)
    return sign if sign.isascii() and sign.isalnum() else f"\\U{code:08X}"
