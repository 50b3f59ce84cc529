"""Sessions of an agent made from a seed: files of Python's own library, logs, searches, tests and edits."""

import json
import queue
from collections.abc import Callable
from pathlib import Path
from random import Random

from bench.fidelity.sessions import Request
from server.domain.chat import JsonObject, Message, ToolCall

_NAMES = (
    "abc bz2 cmd code codeop colorsys contextlib copy csv filecmp fileinput fnmatch functools genericpath "
    "getopt getpass glob graphlib gzip hashlib heapq hmac keyword linecache mimetypes netrc operator pprint "
    "queue quopri reprlib runpy sched secrets selectors shelve shlex signal socketserver stat string struct "
    "symtable tabnanny textwrap timeit token trace types uuid weakref zipapp"
)
FILES = tuple(_NAMES.split())
"""Modules that every Python from 3.11 on has."""

MOST_CHARS = 16_000
PLACE = "/home/dev/project"
SYSTEM = (
    "You are a coding agent. You work on the project in /home/dev/project with the tools you are given. "
    "Call a tool in every turn until the task is done; then say what you did. Edits replace old_text, which "
    "must stand in the file exactly once, by new_text."
)
TASK = (
    "Make the library's modules easier to follow: look at all of them, clean up what is odd, run the tests."
)
LEVELS = ("DEBUG", "INFO", "INFO", "INFO", "WARNING")
PARTS = ("loader", "worker", "planner", "cache", "router", "writer")


def generated(
    seed: int, tokens: int, count: Callable[[str], int], *, edits: bool = True, most_chars: int = MOST_CHARS
) -> Request:
    """A conversation that ends with a tool's result and has at least ``tokens``.

    Without ``edits`` no file is changed or read twice, so that nothing in it has a newer copy. Files have at
    most ``most_chars``, and logs fewer.
    """
    writer = _Writer(Random(seed), most_chars)  # noqa: S311  # must be the same in each run
    size = 0
    while size < tokens:
        before = len(writer.messages)
        writer.turn(edits=edits)
        size += sum(count(message.content) for message in writer.messages[before:])
    return Request(
        tuple(writer.messages), tuple(map(_tool, ("read_files", "run_commands", "search", "editor")))
    )


class _Writer:
    def __init__(self, random: Random, most_chars: int) -> None:
        self._random = random
        self._most_chars = most_chars
        self._unread = random.sample(FILES, len(FILES))
        self._files: dict[str, str] = {}
        self._calls = 0
        self.messages = [Message("system", SYSTEM), Message("user", TASK)]

    def turn(self, *, edits: bool) -> None:
        kinds = {self._read: 5, self._run: 2, self._test: 1, self._search: 1}
        if edits and self._files:
            kinds |= {self._announced_edit: 1, self._sudden_edit: 1, self._read_again: 1}
        (kind,) = self._random.choices(list(kinds), list(kinds.values()))
        kind()

    def _read(self) -> None:
        texts = [self._next_file() for _ in range(self._random.choice((1, 1, 2)))]
        names = ", ".join(name for name, _ in texts)
        self._exchange(
            f"I will read {names}.", "read_files", [(path, _numbered(text)) for path, text in texts]
        )

    def _read_again(self) -> None:
        path = self._random.choice(list(self._files))
        self._exchange("Once more.", "read_files", [(path, _numbered(self._files[path]))])

    def _run(self) -> None:
        lines = [self._log_line() for _ in range(self._log_length())]
        command = f"tail -n {len(lines)} log/{self._random.choice(PARTS)}.log"
        self._exchange("What does the log say?", "run_commands", [(command, "\n".join(lines))])

    def _test(self) -> None:
        names = [f"tests/test_{name}.py" for name in self._random.sample(FILES, 25)]
        dots = [f"{name} {'.' * self._random.randrange(2, 30)} [{4 * n}%]" for n, name in enumerate(names, 1)]
        failing, line = self._random.choice(names), self._random.randrange(20, 300)
        numbers = self._random.sample(range(10, 999), 2)
        trace = [
            f"FAILED {failing}::test_case_{line}",
            f"{failing}:{line}: in test_case_{line}",
            f"E   AssertionError: {numbers[0]} != {numbers[1]}",
        ]
        self._exchange("Running the tests.", "run_commands", [("pytest -q", "\n".join([*dots, *trace]))])

    def _search(self) -> None:
        word = self._random.choice(("return", "import", "raise", "self"))
        found = [
            f"{path}:{number}: {line.strip()}"
            for path, text in self._files.items()
            for number, line in enumerate(text.splitlines(), 1)
            if word in line
        ]
        shown = found[: self._random.randrange(10, 60)]
        self._exchange(f"Where is {word}?", "search", [(word, "\n".join(shown) or "Found 0 results.")])

    def _announced_edit(self) -> None:
        """The turn before the edit names the file, as models mostly do."""
        path = self._random.choice(list(self._files))
        self._exchange(
            f"Next I will change {path}.", "run_commands", [(f"wc -l {path}", f"{len(self._files[path])}")]
        )
        self._edit(path, "Changing it.")

    def _sudden_edit(self) -> None:
        self._edit(self._random.choice(list(self._files)), "One thing I saw before.")

    def _edit(self, path: str, words: str) -> None:
        lines = self._files[path].splitlines()
        unique = [line for line in lines if line.strip() and self._files[path].count(line) == 1]
        old = self._random.choice(unique)
        new = f"{old}  # checked"
        self._files[path] = self._files[path].replace(old, new)
        diff = f"Edited {path}\n```diff\n-{old}\n+{new}\n```"
        arguments = {"path": path, "old_text": old, "new_text": new}
        self._call(words, "editor", arguments, {"query": f"edit:{path}", "result": diff, "success": True})

    def _next_file(self) -> tuple[str, str]:
        """Where the library is through, it is read once more as a copy in another folder."""
        copy, place = divmod(len(self._files), len(self._unread))
        name = self._unread[place]
        path = f"{PLACE}/{f'copy{copy}/' if copy else ''}{name}.py"
        self._files[path] = _library_file(name, self._most_chars)
        return path, self._files[path]

    def _log_length(self) -> int:
        return self._random.randrange(self._most_chars // 400, self._most_chars // 115)

    def _log_line(self) -> str:
        random = self._random
        clock = f"{random.randrange(24):02}:{random.randrange(60):02}:{random.randrange(60):02}"
        level = "ERROR" if random.random() < 0.02 else random.choice(LEVELS)  # noqa: PLR2004
        job, spent = random.randrange(1000, 99999), random.randrange(2, 3000)
        return f"{clock} {level} {random.choice(PARTS)}[{random.randrange(8)}]: job {job} took {spent} ms"

    def _exchange(self, words: str, tool: str, results: list[tuple[str, str]]) -> None:
        items = [{"query": query, "result": text, "success": True} for query, text in results]
        self._call(words, tool, {"queries": [query for query, _ in results]}, items)

    def _call(self, words: str, tool: str, arguments: JsonObject, answer: object) -> None:
        self._calls += 1
        call = ToolCall(tool, arguments, f"call{self._calls}")
        content = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        self.messages.append(Message("assistant", words, tool_calls=(call,)))
        self.messages.append(Message("tool", content, tool_name=tool, tool_call_id=call.id))


def _library_file(name: str, most_chars: int) -> str:
    text = (Path(queue.__file__).parent / f"{name}.py").read_text("utf-8")
    return text[: text.rfind("\n", 0, most_chars) + 1]


def _numbered(text: str) -> str:
    lines = text.splitlines()
    width = len(str(len(lines)))
    return "\n".join(f"{number:>{width}} | {line}" for number, line in enumerate(lines, 1))


def _tool(name: str) -> JsonObject:
    parameters = {"type": "object", "properties": {"queries": {"type": "array", "items": {"type": "string"}}}}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}
