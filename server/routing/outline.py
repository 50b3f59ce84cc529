"""What is left of a long tool result when it is old: its frame, by code, in milliseconds. Pure functions."""

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from server.routing.facts import ERROR_WORD, IDENTIFIER
from server.routing.mentions import GAP, NAMES, Gap, Piece, Unit, ranked, said_in, units_of
from server.routing.results import Kind, Result

FIRST_LINES, LAST_LINES = 3, 2
MOST_DEFINITIONS, MOST_ERRORS, MOST_LINES = 60, 40, 20
LONGEST_LINE_CHARS, LONGEST_ERROR_CHARS = 400, 2000
"""Lines of data may have no end."""

PARSED_CHARS = 200_000
"""Longer Python is read by lines: its syntax tree would take longer than it is worth."""

WHOLE_BLOCKS_SHARE = 0.25
"""So much of a file may stay because the question is about it."""

SHARED_NAMES = 3
"""A block with so many of the question's names in it is about the same thing."""

SELDOM = 0.1
"""A form that more of an output's lines have is none that is seldom."""

WORTH_IT = 0.7
"""What would not become shorter than this part of itself stays as it is."""

NOTE = "[Shortened: {shown} of {lines} lines, others by name. {again}]"
"""Says to the model what it looks at."""
NOTHING_LEFT = "[Shortened: 0 of {lines} lines. {again}]"
READ_AGAIN = "Read the file for all."
CALL_AGAIN = "The same call gives all."

_NUMBERED = re.compile(r" *(\d+) ?\| ?(.*)")
_CUT_BY_CLIENT = re.compile(r"\[truncated \d+|\[outdated")
_PLACE = re.compile(r"^(?=\S*[A-Za-z/])\S{1,200}:\d+(?::\d+)?\b")
_WORDS = re.compile(r"\w+")
_REPEATED = re.compile(r"(\W)\1+")
_DEFINITION = re.compile(
    r"\s*(?:(?:export|default|public|private|protected|internal|static|async|abstract|final|pub(?:\(\w+\))?|unsafe"
    r"|extern|inline|virtual|override)\s+)*"
    r"(?:(?:def|class|function|func|fn|interface|struct|enum|trait|impl|type|module|namespace|macro_rules!|object)\b"
    r"|(?:const|let|var)\s+\w+\s*=\s*(?:async\s*)?(?:function\b|\())"
)
_CONSTANT = re.compile(
    r"(?:(?:export|const|let|var|static|final|pub|public)\s+)*[A-Z][A-Z0-9_]{2,}\b[^=(]{0,40}=[^=]"
)
_HEADING = re.compile(r"#{1,6} \S|\[[\w.\"-]+\]\s*$")
_PROSE = (".md", ".rst", ".txt", ".toml", ".ini", ".cfg", ".adoc")


@dataclass(frozen=True, slots=True)
class Outline:
    """Some lines of a result, and between them what the others mention: what is named can be asked for again.

    ``worths`` are those of the units of mentions, in the order of their ranks.
    """

    parts: tuple[str | Gap, ...]
    worths: tuple[int, ...]

    def text(self, units: int) -> str:
        """The lines with so many units of mentions."""
        return "\n".join(part if isinstance(part, str) else part.text(units) for part in self.parts)

    @property
    def names(self) -> int:
        """How many units are names and paths."""
        return self.worths.count(NAMES)


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    raw: str
    code: str


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The lines that stay, by their places; ``by_line``: what the others mention is told line by line."""

    lines: Sequence[_Line]
    kept: frozenset[int]
    again: str
    numbered: bool
    by_line: bool


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines ``first`` to ``last`` (from 0, both included) that belong to a definition."""

    first: int
    last: int
    name: str


def outline_of(result: Result, wanted: Collection[str]) -> Outline | None:
    """The outline of a tool result; None: that would hardly be shorter.

    Of a file that was read its first and last lines, its definitions, and whole the blocks that are about
    ``wanted`` names; lines keep their numbers, or get them. Of a command's or a search's output first and
    last lines, errors in full, lines unlike the others, a few places in files, and those with ``wanted``
    names.
    """
    chosen = _of_file(result, wanted) if result.kind is Kind.FILE else _of_output(result.text, wanted)
    most = int(WORTH_IT * len(result.text))
    return _composed(chosen, most)


def _of_file(result: Result, wanted: Collection[str]) -> _Chosen:
    lines = _read_lines(result.text)
    blocks = _blocks(lines, result.subject)
    kept = {*_ends(lines), *_cut_marks(lines), *_constants(lines), *_naming(lines, wanted)}
    kept.update(block.first for block in blocks[:MOST_DEFINITIONS])
    for block in _about(blocks, lines, wanted, WHOLE_BLOCKS_SHARE * len(result.text)):
        kept.update(range(block.first, block.last + 1))
    return _Chosen(lines, frozenset(kept), READ_AGAIN, numbered=True, by_line=not blocks)


def _of_output(text: str, wanted: Collection[str]) -> _Chosen:
    lines = [_Line(number, raw, raw) for number, raw in enumerate(text.splitlines(), 1)]
    kept = {*_ends(lines), *_cut_marks(lines), *_naming(lines, wanted), *_unlike_others(lines)}
    errors = (place for place, line in enumerate(lines) if ERROR_WORD.search(line.code))
    kept.update(islice(errors, MOST_ERRORS), _few_places(lines))
    return _Chosen(lines, frozenset(kept), CALL_AGAIN, numbered=False, by_line=True)


def note(text: str) -> str:
    """Nothing but that there was something."""
    return NOTHING_LEFT.format(lines=len(text.splitlines()), again=CALL_AGAIN)


def _read_lines(text: str) -> list[_Line]:
    raw_lines = text.splitlines()
    matches = [_NUMBERED.fullmatch(raw) for raw in raw_lines]
    if raw_lines and sum(match is not None for match in matches) * 5 >= len(raw_lines) * 4:
        return [
            _Line(int(match[1]), raw, match[2]) if match else _Line(0, raw, raw)
            for raw, match in zip(raw_lines, matches, strict=True)
        ]
    return [_Line(number, f"{number} | {raw}", raw) for number, raw in enumerate(raw_lines, 1)]


def _ends(lines: Sequence[_Line]) -> Iterator[int]:
    """The first and last lines that say something."""
    spoken = [place for place, line in enumerate(lines) if line.code.strip()]
    yield from spoken[:FIRST_LINES]
    yield from spoken[-LAST_LINES:]


def _cut_marks(lines: Sequence[_Line]) -> Iterator[int]:
    """Lines in which the client says that it has cut something out already."""
    return (place for place, line in enumerate(lines) if _CUT_BY_CLIENT.search(line.code))


def _constants(lines: Sequence[_Line]) -> Iterator[int]:
    """Values with a name that hold for a whole file: no block is about them."""
    places = (place for place, line in enumerate(lines) if _CONSTANT.match(line.code))
    return islice(places, MOST_LINES)


def _naming(lines: Sequence[_Line], wanted: Collection[str]) -> Iterator[int]:
    """Lines with a name that is asked for, where they are few enough to be about it."""
    names = frozenset(wanted)
    places = [place for place, line in enumerate(lines) if names.intersection(IDENTIFIER.findall(line.code))]
    return iter(places if len(places) <= MOST_LINES else ())


def _few_places(lines: Sequence[_Line]) -> Iterator[int]:
    """Lines that begin with a place in a file, as a compiler's warnings do, where they are few."""
    places = [place for place, line in enumerate(lines) if _PLACE.match(line.code)]
    return iter(places if len(places) <= MOST_LINES else ())


def _unlike_others(lines: Sequence[_Line]) -> Iterator[int]:
    """Lines of another form than most, where most have one and the same: in a log, what happens seldom."""
    forms = [_form(line.code) for line in lines]
    counts = Counter(form for form in forms if form)
    if not counts or max(counts.values()) * 2 < counts.total():
        return iter(())
    places = (place for place, form in enumerate(forms) if form and counts[form] <= SELDOM * len(lines))
    return islice(places, MOST_LINES)


def _form(line: str) -> str:
    """The signs between a line's words."""
    return _REPEATED.sub(r"\1", _WORDS.sub("w", line[:LONGEST_LINE_CHARS].strip()))


def _blocks(lines: Sequence[_Line], path: str) -> list[_Block]:
    if path.endswith((".py", ".pyi")) and (found := _python_blocks(lines)) is not None:
        return found
    pattern = _HEADING if path.endswith(_PROSE) else _DEFINITION
    starts = [place for place, line in enumerate(lines) if pattern.match(line.code)]
    ends = [*starts[1:], len(lines)]
    return [
        _Block(start, end - 1, lines[start].code)
        for start, end in zip(starts, ends[: len(starts)], strict=True)
    ]


def _python_blocks(lines: Sequence[_Line]) -> list[_Block] | None:
    """Functions and classes by the syntax tree; None: it is no whole Python."""
    source = "\n".join(line.code for line in lines)
    if len(source) > PARSED_CHARS:
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found = [
        _Block(node.lineno - 1, (node.end_lineno or node.lineno) - 1, node.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    return sorted(found, key=lambda block: block.first)


def _about(
    blocks: Iterable[_Block], lines: Sequence[_Line], wanted: Collection[str], budget_chars: float
) -> Iterator[_Block]:
    """Blocks that are named or share names with ``wanted``, the best first, as many as the budget holds."""
    names = frozenset(wanted)
    scored = []
    for block in blocks:
        text = "\n".join(line.code for line in lines[block.first : block.last + 1])
        shared = len(names.intersection(IDENTIFIER.findall(text)))
        named = not names.isdisjoint(re.findall(r"\w+", block.name))
        if named or shared >= SHARED_NAMES:
            scored.append((not named, -shared, block.first, len(text), block))
    for _, _, _, chars, block in sorted(scored, key=lambda entry: entry[:3]):
        if chars <= budget_chars:
            budget_chars -= chars
            yield block


def _composed(chosen: _Chosen, most_chars: int) -> Outline | None:
    """The chosen lines with as much of what the others mention as fits; None: not even they do."""
    parts = list(_shown(chosen))
    room = most_chars - sum(len(part) + 1 for _, part in parts)
    if room < 0:
        return None
    left_out = [(place, line.code) for place, line in enumerate(chosen.lines) if place not in chosen.kept]
    said = said_in(_within(chosen.lines[place].code) for place in chosen.kept)
    units = list(_fitting(ranked(list(units_of(left_out, said, whole_rows=chosen.by_line))), room))
    rows: dict[int, list[Piece]] = {}
    for rank, unit in enumerate(units):
        rows.setdefault(unit.line, []).append(Piece(unit.text, rank))
    ends = [*(place for place, _ in parts[1:]), len(chosen.lines)]
    return Outline(
        tuple(
            Gap(tuple(tuple(rows[row]) for row in range(place, end) if row in rows), chosen.by_line)
            if part == GAP
            else part
            for (place, part), end in zip(parts, ends, strict=True)
        ),
        tuple(unit.worth for unit in units),
    )


def _shown(chosen: _Chosen) -> Iterator[tuple[int, str]]:
    """The heading, the lines that are kept and a mark for those between, with the place of the first."""
    yield 0, NOTE.format(shown=len(chosen.kept), lines=len(chosen.lines), again=chosen.again)
    after = 0
    for place in [*sorted(chosen.kept), len(chosen.lines)]:
        if any(line.code.strip() for line in chosen.lines[after:place]):
            yield after, GAP
        if place < len(chosen.lines):
            line = chosen.lines[place]
            yield place, _within(line.raw if chosen.numbered else line.code)
        after = place + 1


def _fitting(units: Iterable[Unit], room_chars: int) -> Iterator[Unit]:
    """As many units as the room holds; one that is too long for what is left of it is passed over."""
    for unit in units:
        if len(unit.text) < room_chars:
            room_chars -= len(unit.text) + 1
            yield unit


def _within(line: str) -> str:
    most = LONGEST_ERROR_CHARS if ERROR_WORD.search(line) else LONGEST_LINE_CHARS
    return line if len(line) <= most else line[:most] + " …"
