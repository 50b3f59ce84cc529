import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.routing.outline import (
    FACTS_OF_FILE_SHARE,
    WORTH_IT,
    outline_of,
    outline_of_file,
    outline_of_output,
)
from server.routing.results import Key, Kind, Result

PYTHON = '''"""Stock."""

import dataclasses


@dataclasses.dataclass
class Part:
    """A part."""

    sku: str

    def cost_of(self, count: int) -> int:
        total = 0
        for number in range(count):
            total += number * self.price_each
            if total > 100:
                total -= self.rebate_for(number)
        return total


def next_number(orders):
    """The number after the last."""
    numbers = [order.number for order in orders]
    numbers.append(0)
    return max(numbers) + 1


LAST = 1
'''

GO = """package stock

import "fmt"

type Part struct {
    Sku string
    Cost int
    Height int
    Width int
    Depth int
}

func (p *Part) Total(count int) int {
    total := 0
    for i := 0; i < count; i++ {
        total += p.Cost
    }
    fmt.Println("the sum of all of them is", total)
    fmt.Println("which is what you wanted to know")
    return total
}

// the end
"""


def numbered(text: str) -> str:
    return "\n".join(f"{number:3} | {line}" for number, line in enumerate(text.splitlines(), 1))


def test_python_keeps_its_frame_with_line_numbers() -> None:
    short = outline_of_file(PYTHON, "src/stock.py", ())
    assert short is not None
    assert short.splitlines() == [
        "[Shortened: 8 of 28 lines are shown. Read the file again for the others.]",
        '1 | """Stock."""',
        "…",
        "3 | import dataclasses",
        "…",
        "6 | @dataclasses.dataclass",
        "7 | class Part:",
        "…",
        "12 |     def cost_of(self, count: int) -> int:",
        "…",
        "21 | def next_number(orders):",
        "…",
        "25 |     return max(numbers) + 1",
        "…",
        "28 | LAST = 1",
    ]


def test_numbered_lines_stay_as_the_client_wrote_them() -> None:
    short = outline_of_file(numbered(PYTHON), "src/stock.py", ())
    assert short is not None
    kept = [line for line in short.splitlines()[1:] if line != "…"]
    assert kept == [line for line in numbered(PYTHON).splitlines() if line in kept]
    assert " 12 |     def cost_of(self, count: int) -> int:" in kept


@pytest.mark.parametrize("wanted", [{"next_number"}, {"numbers", "next_number", "unrelated"}])
def test_what_the_question_names_stays_whole(wanted: set[str]) -> None:
    short = outline_of_file(PYTHON + "\n# padding\n" * 40, "stock.py", wanted)
    assert short is not None
    assert '22 |     """The number after the last."""\n23 |     numbers = [' in short
    assert "total += number" not in short


def test_a_block_that_shares_names_stays_whole() -> None:
    names = {"cost_of", "price_each", "rebate_for"}
    short = outline_of_file(PYTHON + "\n# padding\n" * 60, "stock.py", names - {"cost_of"} | {"range"})
    assert short is not None
    assert "price_each" in short


def test_other_languages_go_by_lines() -> None:
    short = outline_of_file(GO, "stock.go", ())
    assert short is not None
    assert "5 | type Part struct {" in short
    assert "13 | func (p *Part) Total(count int) int {" in short
    assert "total += p.Cost" not in short


def test_python_that_cannot_be_parsed_goes_by_lines() -> None:
    broken = PYTHON.replace("for number in range(count):", "for ...[truncated 30 chars]...")
    short = outline_of_file(broken, "stock.py", ())
    assert short is not None
    assert "21 | def next_number(orders):" in short
    assert "...[truncated 30 chars]..." in short


def test_headings_of_prose() -> None:
    text = "# Notes\n\n" + "Some words in between.\n" * 30 + "\n## Storage\n\n" + "More words.\n" * 30
    short = outline_of_file(text, "docs/design.md", ())
    assert short is not None
    assert "34 | ## Storage" in short


def test_output_keeps_errors_in_full_and_places() -> None:
    lines = [f"step {number} went well and took {number} ms" for number in range(200)]
    lines[50] = "ERROR TimeoutError: connect to db-1.local:5432 failed after 30 s " + "x" * 500
    lines[70] = "src/stock.py:12:5: unused import"
    short = outline_of_output("\n".join(lines), ())
    assert short is not None
    assert lines[50] in short.splitlines()
    assert lines[70] in short.splitlines()
    assert (
        short.splitlines()[0]
        == "[Shortened: 7 of 200 lines are shown. The same call gives all of them again.]"
    )
    assert short.splitlines()[-2:] == lines[-2:]


def test_what_would_not_become_shorter_stays() -> None:
    assert outline_of_file("def f():\n    return 1\n", "a.py", ()) is None
    assert outline_of_output("one\ntwo\n", ()) is None
    assert outline_of_file("", "a.py", ()) is None


def test_one_endless_line() -> None:
    short = outline_of_output("x" * 100_000, ())
    assert short is not None
    assert len(short) < 1000


@given(st.text(max_size=3000) | st.lists(st.sampled_from(PYTHON.splitlines())).map("\n".join), st.booleans())
def test_never_longer_and_only_lines_that_were_there(text: str, is_file: bool) -> None:
    short = outline_of_file(text, "a.py", {"numbers"}) if is_file else outline_of_output(text, ())
    if short is None:
        return
    assert len(short) <= WORTH_IT * len(text)
    there = set(text.splitlines())
    for line in short.splitlines()[1:]:
        bare = re.sub(r"^\d+ \| ", "", line)
        assert line == "…" or {line, bare, line.removesuffix(" …")} & there or line.endswith(" …")


def test_names_that_the_lines_have_lost_stand_below_them() -> None:
    code = "\n".join(f"value_{number} = {number}" for number in range(100))
    outline = outline_of(Result(Key(0, 0), Kind.FILE, "read", "a.py", code), set())
    assert outline is not None
    assert outline.lines == outline_of_file(code, "a.py", set())
    assert outline.facts.startswith("Names: value_")
    assert outline.text == f"{outline.lines}\n{outline.facts}"
    assert len(outline.facts) <= FACTS_OF_FILE_SHARE * len(code)


def test_short_results_have_no_outline() -> None:
    assert outline_of(Result(Key(0, 0), Kind.OUTPUT, "run", "ls", "a\nb"), set()) is None


def test_constants_and_lines_with_a_wanted_name_stay() -> None:
    code = "\n".join([*(f"line({number})" for number in range(50)), "MAX_PARTS = 4711", *["pass"] * 50])
    assert "51 | MAX_PARTS = 4711" in (outline_of_file(code, "a.py", ()) or "")
    called = code.replace("line(30)", "frob_nicate(30)")
    assert "frob_nicate(30)" not in (outline_of_file(called, "a.py", ()) or "")
    assert "31 | frob_nicate(30)" in (outline_of_file(called, "a.py", {"frob_nicate"}) or "")
    log = "\n".join(f"step {number} of job_{number}" for number in range(100))
    assert "step 77 of job_77" in (outline_of_output(log, {"job_77"}) or "")


def test_a_name_that_stands_everywhere_says_nothing() -> None:
    log = "\n".join(f"step {number} of the_job" for number in range(100))
    assert "step 50" not in (outline_of_output(log, {"the_job"}) or "")
