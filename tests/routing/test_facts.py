import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.routing.facts import IDENTIFIER, NUMBER, PATH, keep_facts
from tests.routing.chats import ANY_TEXT


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hosts/x",
        "/home/ada/app/main.py",
        "/var/log/app.log:12",
        "src/main.rs:3:14",
        "src/a-b_c.d/e.py",
        "./run.sh",
        "../up/there.txt",
        "~/.bashrc",
        "~/notes/a.md",
        "C:\\Users\\ada\\x.txt",
        "C:\\x.txt",
        "C:/x/y.txt:7",
        "dir\\file.c",
        "main.py:12",
        "keep.py",
        "package.json",
        "a.b.test.ts",
        "node_modules/@scope/name/index.js",
        "ação/arquivo.py",
        "https://example.com/a?b=c#d",
    ],
)
@pytest.mark.parametrize(
    "sentence", ["{}", "in {} it is", "({})", "'{}',", "see {}.", "<{}>", 'File "{}", line']
)
def test_paths(path: str, sentence: str) -> None:
    text = sentence.format(path)
    assert PATH.findall(text) == [path]
    assert path in keep_facts(text, "", 500)


@pytest.mark.parametrize(
    "text", ["", "no path here.", "a. b", "e.g. this", "1/", "//", "/ /", "</p>", "x = y.z + 1"]
)
def test_no_paths(text: str) -> None:
    assert PATH.findall(text) == []


@pytest.mark.parametrize(
    "name",
    [
        *("snake_case", "camelCase", "PascalCase", "CONSTANT_NAME", "HTTP2_MAX", "_private_name", "__init__"),
        *("sha256_of", "getX", "v2Api", "estimate_tokens", "HTTPServerError"[4:]),
    ],
)
def test_identifiers(name: str) -> None:
    for text in (name, f"call {name}, then", f"{name}.x", f"({name})"):
        assert name in IDENTIFIER.findall(text)


def test_names_in_backticks_and_before_brackets() -> None:
    assert IDENTIFIER.findall("use `foo.bar` and `baz`, divide(x) and file(s)") == [
        "foo.bar",
        "baz",
        "divide",
    ]
    assert IDENTIFIER.findall("The words of a sentence, and NASA, are none.") == []


@pytest.mark.parametrize(
    "number",
    [
        *("7", "512", "3.14", "-7", "1,234", "1.2.3", "v1.2.3", "50%", "3.5GiB", "10ms", "0x7f", "1e-5"),
        *("2024-05-01", "12:30:05", "2024-05-01T12:00:01Z", "127.0.0.1:8080"),
    ],
)
def test_numbers(number: str) -> None:
    for text in (number, f"is {number} now", f"({number})", f"{number}, or"):
        assert NUMBER.findall(text) == [number]


@pytest.mark.parametrize("text", ["no number", "GPU0", "abc123", "x.5y"])
def test_no_numbers(text: str) -> None:
    assert NUMBER.findall(text) == []


def test_lines_that_tell_of_errors() -> None:
    source = "fine\n  ValueError: bad value \nok\nFATAL it broke\nall well"
    assert keep_facts(source, "", 500).splitlines()[0] == "Errors: ValueError: bad value; FATAL it broke"


def test_of_a_long_line_the_error_is_kept() -> None:
    source = "x " * 5000 + "Exception: no such table" + " y" * 5000
    assert "Exception: no such table" in keep_facts(source, "", 500)


def test_facts_in_order() -> None:
    source = "Error: lost src/a.py:3\nThe file src/b.py has parse_it and MAX_SIZE, 12 of 34."
    assert keep_facts(source, "", 1000) == (
        "Errors: Error: lost src/a.py:3\nFiles: src/b.py\nNames: parse_it; MAX_SIZE\nNumbers: 12; 34"
    )


def test_what_the_summary_says_is_not_repeated() -> None:
    source = "src/b.py has parse_it and MAX_SIZE, 12 of 34."
    assert keep_facts(source, "In src/b.py parse_it checks 12 items.", 1000) == "Names: MAX_SIZE\nNumbers: 34"
    assert keep_facts(source, source, 1000) == ""


def test_a_number_is_not_said_by_a_longer_one() -> None:
    assert keep_facts("port 12", "in 3412 cases", 500) == "Numbers: 12"
    assert keep_facts("get_x", "get_xy does", 500) == "Names: get_x"


def test_the_most_frequent_come_first() -> None:
    source = "one_a two_b two_b three_c three_c three_c"
    assert keep_facts(source, "", 500) == "Names: three_c; two_b; one_a"
    assert keep_facts(source, "", 25) == "Names: three_c"


@given(ANY_TEXT, st.text(max_size=50), st.integers(0, 300))
def test_the_budget(source: str, summary: str, budget: int) -> None:
    assert len(keep_facts(source, summary, budget)) <= budget


KINDS = st.sampled_from(
    ["a/b.py", "C:\\x\\y.c", "foo_bar", "fooBar", "42", "3.5", "v1.2", "it failed", "word", "\n"]
)


@given(st.lists(KINDS, max_size=30).map(" ".join), st.lists(KINDS, max_size=6).map(" ".join))
def test_nothing_is_lost_or_said_twice(source: str, summary: str) -> None:
    facts = keep_facts(source, summary, 100_000)
    everything = f"{summary}\n{facts}"
    for pattern in (PATH, IDENTIFIER, NUMBER):
        assert all(fact in everything for fact in pattern.findall(source))
    said = [fact for line in facts.splitlines() for fact in line.split(": ", 1)[1].split("; ")]
    assert len(set(said)) == len(said)
    assert not any(fact in summary.split() for fact in said)


HALF = 300_000
HOSTILE = {
    name: (bit * HALF)[:HALF]
    for name, bit in {
        **{
            name: name
            for name in ("a", "-", "a-", "/", "a/", "a.", "1.", "1-", "1", "_", "A_", "aA", "`a", "\n")
        },
        **{
            "dash slashes": "-\\",
            "dot slashes": ".\\",
            "drives": "C:\\",
            "homes": "~/",
            "hex": "0x",
            "calls": "x(",
        },
        **{"urls": "http://", "errors": "error", "error lines": "error a\n", "times": "1:", "accents": "é-"},
    }.items()
}
HOSTILE["numbers"] = " ".join(map(str, range(HALF // 7)))
HOSTILE["names"] = " ".join(f"a_{number}" for number in range(HALF // 8))
HOSTILE["paths"] = " ".join(f"a/{number}" for number in range(HALF // 8))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_time_in_proportion(name: str) -> None:
    """Quadratic, each would take minutes."""
    started = time.process_time()
    facts = keep_facts(HOSTILE[name] + "!", "a summary", 500)
    assert time.process_time() - started < 2
    assert len(facts) <= 500
