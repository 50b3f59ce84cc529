import re
import time
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.routing.outline import WORTH_IT, Outline, outline_of
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


def outline_of_file(text: str, path: str, wanted: Collection[str]) -> Outline | None:
    return outline_of(Result(Key(0, 0), Kind.FILE, "read", path, text), wanted)


def outline_of_output(text: str, wanted: Collection[str]) -> Outline | None:
    return outline_of(Result(Key(0, 0), Kind.OUTPUT, "run", "make", text), wanted)


def lines_of_file(text: str, path: str, wanted: Collection[str]) -> str:
    """Without what the others mention."""
    outline = outline_of_file(text, path, wanted)
    assert outline is not None
    return outline.text(0)


def lines_of_output(text: str, wanted: Collection[str]) -> str:
    outline = outline_of_output(text, wanted)
    assert outline is not None
    return outline.text(0)


def whole(outline: Outline | None) -> str:
    """With all that the others mention."""
    assert outline is not None
    return outline.text(len(outline.worths))


def test_python_keeps_its_frame_with_line_numbers() -> None:
    outline = outline_of_file(PYTHON, "src/stock.py", ())
    assert outline is not None
    assert outline.text(0).splitlines() == [
        "[Shortened: 8 of 28 lines, others by name. Read the file for all.]",
        '1 | """Stock."""',
        "3 | import dataclasses",
        "6 | @dataclasses.dataclass",
        "7 | class Part:",
        "…",
        "12 |     def cost_of(self, count: int) -> int:",
        "…",
        "21 | def next_number(orders):",
        "…",
        "25 |     return max(numbers) + 1",
        "28 | LAST = 1",
    ]


def test_the_gaps_say_what_their_lines_mention_and_nothing_twice() -> None:
    assert whole(outline_of_file(PYTHON, "src/stock.py", ())).splitlines()[5:11] == [
        "…",
        "12 |     def cost_of(self, count: int) -> int:",
        "… 0 range price_each 100 rebate_for",
        "21 | def next_number(orders):",
        "… append",
        "25 |     return max(numbers) + 1",
    ]


def test_numbered_lines_stay_as_the_client_wrote_them() -> None:
    short = lines_of_file(numbered(PYTHON), "src/stock.py", ())
    kept = [line for line in short.splitlines()[1:] if line != "…"]
    assert kept == [line for line in numbered(PYTHON).splitlines() if line in kept]
    assert " 12 |     def cost_of(self, count: int) -> int:" in kept


def test_the_clients_line_numbers_say_no_number() -> None:
    code = "\n".join(["import a", "import b", "import c", "x = 1", "waits = 2", "y = 3", *["pass"] * 20])
    assert "… 1\n2\n3\n" in whole(outline_of_file(numbered(code), "a.py", ()))


@pytest.mark.parametrize("wanted", [{"next_number"}, {"numbers", "next_number", "unrelated"}])
def test_what_the_question_names_stays_whole(wanted: set[str]) -> None:
    short = lines_of_file(PYTHON + "\n# padding\n" * 40, "stock.py", wanted)
    assert '22 |     """The number after the last."""\n23 |     numbers = [' in short
    assert "total += number" not in short


def test_a_block_that_shares_names_stays_whole() -> None:
    names = {"cost_of", "price_each", "rebate_for"}
    wanted = names - {"cost_of"} | {"range"}
    assert "price_each" in lines_of_file(PYTHON + "\n# padding\n" * 60, "stock.py", wanted)


def test_other_languages_go_by_lines() -> None:
    short = lines_of_file(GO, "stock.go", ())
    assert "5 | type Part struct {" in short
    assert "13 | func (p *Part) Total(count int) int {" in short
    assert "total += p.Cost" not in short


def test_python_that_cannot_be_parsed_goes_by_lines() -> None:
    broken = PYTHON.replace("for number in range(count):", "for ...[truncated 30 chars]...")
    short = lines_of_file(broken, "stock.py", ())
    assert "21 | def next_number(orders):" in short
    assert "...[truncated 30 chars]..." in short


def test_headings_of_prose() -> None:
    text = "# Notes\n\n" + "Some words in between.\n" * 30 + "\n## Storage\n\n" + "More words.\n" * 30
    assert "34 | ## Storage" in lines_of_file(text, "docs/design.md", ())


def test_output_keeps_errors_in_full_and_what_is_unlike_the_rest() -> None:
    lines = [f"step {number} went well and took {number} ms" for number in range(200)]
    lines[50] = "ERROR TimeoutError: connect to db-1.local:5432 failed after 30 s " + "x" * 500
    lines[70] = "src/stock.py:12:5: unused import"
    short = lines_of_output("\n".join(lines), ()).splitlines()
    assert lines[50] in short
    assert lines[70] in short
    assert short[0] == "[Shortened: 7 of 200 lines, others by name. The same call gives all.]"
    assert short[-2:] == lines[-2:]


def log_line(number: int) -> str:
    clock = f"12:{number // 60:02}:{number % 60:02}"
    return f"{clock} INFO worker[{number % 4}]: job {9000 + number} took {500 - number} ms"


def test_of_a_log_each_line_leaves_its_numbers() -> None:
    lines = [log_line(number) for number in range(100)]
    assert whole(outline_of_output("\n".join(lines), ())).splitlines()[1:7] == [
        *lines[:3],
        "… 12:00:03 9003 497",
        "12:00:04 9004 496",
        "12:00:05 9005 495",
    ]


def test_a_row_is_whole_though_some_of_its_numbers_were_said_before() -> None:
    lines = [log_line(number) for number in range(100)]
    lines[40] = lines[40].replace("took 460", "took 490")
    assert "\n12:00:40 9040 490\n" in whole(outline_of_output("\n".join(lines), ()))


def test_what_is_unlike_the_rest_is_seldom() -> None:
    lines = [log_line(number) for number in range(100)]
    for place in range(20, 34):
        lines[place] = f"{place}:00:00 INFO registry: restarted"
    short = lines_of_output("\n".join(lines), ())
    assert "registry" not in short
    lines[24:34] = [log_line(number) for number in range(24, 34)]
    short = lines_of_output("\n".join(lines), ())
    assert short.count("registry") == 4


def test_a_search_leaves_its_places() -> None:
    found = [f"src/part{number}.py:{number}: {'x ' * number}call_{number}(y)" for number in range(10, 40)]
    text = whole(outline_of_output("\n".join(found), ()))
    assert "\nsrc/part20.py:20 call_20\nsrc/part21.py:21 call_21\n" in text


def test_a_few_places_stay_as_they_are_and_clocks_are_none() -> None:
    found = [f"src/part{number}.c:{number}:1: warning: {'unused ' * number}" for number in range(20)]
    padding = [f"{'=' * number} and so on" for number in range(50)]
    short = lines_of_output("\n".join([*padding, *found, *padding]), ()).splitlines()
    assert [line for line in short if line.startswith("src/")] == found
    clocks = [f"12:00:{number} and then" for number in range(20)]
    short = lines_of_output("\n".join([*padding, *clocks, *padding]), ()).splitlines()
    assert not any(line.startswith("12:") for line in short)


def test_what_would_not_become_shorter_stays() -> None:
    assert outline_of_file("def f():\n    return 1\n", "a.py", ()) is None
    assert outline_of_output("one\ntwo\n", ()) is None
    assert outline_of_file("", "a.py", ()) is None


def test_one_endless_line() -> None:
    assert len(whole(outline_of_output("x" * 100_000, ()))) < 1000


@given(
    st.text(max_size=3000) | st.lists(st.sampled_from(PYTHON.splitlines())).map("\n".join),
    st.booleans(),
    st.integers(0, 100),
)
def test_never_longer_and_only_words_that_were_there(text: str, is_file: bool, units: int) -> None:
    outline = outline_of_file(text, "a.py", {"numbers"}) if is_file else outline_of_output(text, ())
    if outline is None:
        return
    assert len(outline.text(0)) <= len(outline.text(units)) <= len(whole(outline)) <= WORTH_IT * len(text)
    there = set(text.splitlines())
    for line in outline.text(0).splitlines()[1:]:
        bare = re.sub(r"^\d+ \| ", "", line)
        assert line == "…" or {line, bare, line.removesuffix(" …")} & there or line.endswith(" …")
    assert set(re.findall(r"\w+", outline.text(units).split("]", 1)[1])) <= {
        *re.findall(r"\w+", text),
        *map(str, range(len(text) + 1)),
    }


def test_names_come_before_numbers_and_cheap_numbers_first() -> None:
    code = "\n".join(["import a"] * 3 + [f"value_{n} = {10**n}" for n in (1, 6, 2)] + ["pass"] * 40)
    outline = outline_of_file(code, "a.py", ())
    assert outline is not None
    assert outline.names == 3
    assert "… value_1 value_6 value_2" in outline.text(3).replace("\n", " ")
    assert "1000000" not in outline.text(5)
    assert "100" in outline.text(5)


def test_of_equal_numbers_the_last_come_first() -> None:
    outline = outline_of_output("\n".join(log_line(number) for number in range(100)), ())
    assert outline is not None
    assert outline.names == 0
    assert outline.text(2).splitlines()[4:6] == ["… 12:01:36 9096 404", "12:01:37 9097 403"]


def test_short_results_have_no_outline() -> None:
    assert outline_of(Result(Key(0, 0), Kind.OUTPUT, "run", "ls", "a\nb"), set()) is None


def test_constants_and_lines_with_a_wanted_name_stay() -> None:
    code = "\n".join([*(f"line({number})" for number in range(50)), "MAX_PARTS = 4711", *["pass"] * 50])
    assert "51 | MAX_PARTS = 4711" in lines_of_file(code, "a.py", ())
    called = code.replace("line(30)", "frob_nicate(30)")
    assert "frob_nicate(30)" not in lines_of_file(called, "a.py", ())
    assert "31 | frob_nicate(30)" in lines_of_file(called, "a.py", {"frob_nicate"})
    log = "\n".join(f"step {number} of job_{number}" for number in range(100))
    assert "step 77 of job_77" in lines_of_output(log, {"job_77"})


def test_a_name_that_stands_everywhere_says_nothing() -> None:
    log = "\n".join(f"step {number} of the_job" for number in range(100))
    assert "step 50" not in lines_of_output(log, {"the_job"})


@pytest.mark.parametrize("bit", ["a", "1 ", "a/", "a_b(", "1\n", "a_b 1 c/d\n", ":\n", "…\n"])
def test_hostile_text_takes_time_in_proportion(bit: str) -> None:
    """Quadratic, each would take minutes."""
    text = (bit * 100_000)[:100_000]
    started = time.process_time()
    outline = outline_of_output(text, ())
    assert outline is None or len(whole(outline)) < len(text)
    assert time.process_time() - started < 5
