"""What is left of a long tool result when it is old: its frame, by code, in milliseconds. Pure functions."""

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from server.routing.facts import ERROR_WORD, IDENTIFIER, keep_facts
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

FACTS_OF_FILE_SHARE, FACTS_OF_OUTPUT_SHARE = 0.1, 0.2
"""So much of a result may be a list of what its outline has lost: an output has fewer words beside them."""

WORTH_IT = 0.7
"""What would not become shorter than this part of itself stays as it is."""

NOTE = "[Shortened: {shown} of {lines} lines are shown. {again}]"
"""Says to the model what it looks at."""
READ_AGAIN = "Read the file again for the others."
CALL_AGAIN = "The same call gives all of them again."

_NUMBERED = re.compile(r" *(\d+) ?\| ?(.*)")
_CUT_BY_CLIENT = re.compile(r"\[truncated \d+|\[outdated")
_PLACE = re.compile(r"^\S{1,200}:\d+(?::\d+)?\b")
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
    """Some lines of a result, and the names, paths and numbers in the others: what is named can be asked for
    again."""

    lines: str
    facts: str

    @property
    def text(self) -> str:
        """Both."""
        return f"{self.lines}\n{self.facts}" if self.facts else self.lines


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    raw: str
    code: str


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines ``first`` to ``last`` (from 0, both included) that belong to a definition."""

    first: int
    last: int
    name: str


def outline_of(result: Result, wanted: Collection[str]) -> Outline | None:
    """The outline of a tool result; None: that would hardly be shorter."""
    if result.kind is Kind.FILE:
        lines, share = outline_of_file(result.text, result.subject, wanted), FACTS_OF_FILE_SHARE
    else:
        lines, share = outline_of_output(result.text, wanted), FACTS_OF_OUTPUT_SHARE
    if lines is None:
        return None
    facts = keep_facts(result.text, lines, int(share * len(result.text)))
    return Outline(lines, facts if _worthwhile(result.text, f"{lines}\n{facts}") else "")


def outline_of_file(text: str, path: str, wanted: Collection[str]) -> str | None:
    """A file that was read: its first and last lines, its definitions, and whole the blocks that are about
    ``wanted`` names. Lines keep their numbers, or get them. None: that would hardly be shorter.
    """
    lines = _read_lines(text)
    blocks = _blocks(lines, path)
    kept = {*_ends(lines), *_cut_marks(lines), *_constants(lines), *_naming(lines, wanted)}
    kept.update(block.first for block in blocks[:MOST_DEFINITIONS])
    for block in _about(blocks, lines, wanted, WHOLE_BLOCKS_SHARE * len(text)):
        kept.update(range(block.first, block.last + 1))
    return _worthwhile(text, _written(lines, kept, READ_AGAIN, numbered=True))


def outline_of_output(text: str, wanted: Collection[str]) -> str | None:
    """A command's or a search's output: first and last lines, errors in full, places in files, and lines with
    ``wanted`` names.

    None: that would hardly be shorter.
    """
    lines = [_Line(number, raw, raw) for number, raw in enumerate(text.splitlines(), 1)]
    kept = {*_ends(lines), *_cut_marks(lines), *_naming(lines, wanted)}
    errors = [place for place, line in enumerate(lines) if ERROR_WORD.search(line.code)]
    places = [place for place, line in enumerate(lines) if _PLACE.match(line.code)]
    kept.update(errors[:MOST_ERRORS])
    kept.update(places[:MOST_ERRORS])
    return _worthwhile(text, _written(lines, kept, CALL_AGAIN, numbered=False))


def note(text: str) -> str:
    """Nothing but that there was something."""
    return NOTE.format(shown=0, lines=len(text.splitlines()), again=CALL_AGAIN)


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


def _written(lines: Sequence[_Line], kept: Collection[int], again: str, *, numbered: bool) -> str:
    places = sorted(kept)
    written = [NOTE.format(shown=len(places), lines=len(lines), again=again)]
    before = -1
    for place in places:
        if place > before + 1:
            written.append("…")
        line = lines[place]
        written.append(_within(line.raw if numbered else line.code))
        before = place
    if before < len(lines) - 1:
        written.append("…")
    return "\n".join(written)


def _within(line: str) -> str:
    most = LONGEST_ERROR_CHARS if ERROR_WORD.search(line) else LONGEST_LINE_CHARS
    return line if len(line) <= most else line[:most] + " …"


def _worthwhile(text: str, shortened: str) -> str | None:
    return shortened if len(shortened) <= WORTH_IT * len(text) else None
