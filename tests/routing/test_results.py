import json
from typing import Any

import pytest

from server.domain.chat import Message, ToolCall
from server.routing.results import Key, Kind, Result, results_of, rewritten


def cline(*items: dict[str, Any]) -> str:
    return json.dumps(list(items), ensure_ascii=False, separators=(",", ":"))


READ = cline(
    {"query": "/p/a.py", "result": "1 | é\n2 | b", "success": True},
    {"query": "/p/b.py:4-9", "result": "4 | c", "success": True},
)


def test_one_message_with_several_results() -> None:
    messages = [
        Message("user", "Look!"),
        Message("assistant", tool_calls=(ToolCall("read_files", {}, "1"),)),
        Message("tool", READ, tool_name="read_files", tool_call_id="1"),
    ]
    assert results_of(messages) == (
        Result(Key(2, 0), Kind.FILE, "read_files", "/p/a.py", "1 | é\n2 | b"),
        Result(Key(2, 1), Kind.FILE, "read_files", "/p/b.py", "4 | c", whole=False),
    )


def test_json_stays_json_of_the_same_form() -> None:
    message = Message("tool", READ, tool_name="read_files", tool_call_id="1")
    short = rewritten(message, {1: "…"})
    items = json.loads(READ)
    items[1]["result"] = "…"
    assert short.content == cline(*items)
    assert (short.tool_name, short.tool_call_id) == ("read_files", "1")
    single = Message("tool", '{"query":"ls","result":"a\\nb","success":true}')
    assert rewritten(single, {0: "x"}).content == '{"query":"ls","result":"x","success":true}'
    assert rewritten(message, {}) is message


@pytest.mark.parametrize(
    ("item", "failed"),
    [
        ({"query": "ls", "result": "x", "success": False}, True),
        ({"query": "ls", "result": "", "error": "no such file"}, True),
        ({"query": "ls", "result": "x"}, False),
    ],
)
def test_what_the_tool_calls_a_failure(item: dict[str, Any], failed: bool) -> None:
    (result,) = results_of([Message("tool", cline(item), tool_name="run_commands")])
    assert (result.failed, result.kind) == (failed, Kind.OUTPUT)


@pytest.mark.parametrize(
    "content",
    ['{"error":"rejected"}', "Error: no such file", "<error>gone</error>", "The tool execution failed"],
)
def test_plain_failures(content: str) -> None:
    (result,) = results_of([Message("tool", content, tool_name="run_commands")])
    assert result.failed
    assert result.text == content


def test_plain_results_have_their_subject_from_the_call() -> None:
    calls = (
        ToolCall("read_file", {"path": "a.py"}, "1"),
        ToolCall("read_file", {"filePath": "b.py", "offset": 10}, "2"),
        ToolCall("bash", {"command": "make test"}),
    )
    messages = [
        Message("assistant", tool_calls=calls),
        Message("tool", "B", tool_call_id="2"),
        Message("tool", "A", tool_call_id="1"),
        Message("tool", "ok"),
    ]
    assert results_of(messages) == (
        Result(Key(1, 0), Kind.FILE, "read_file", "b.py", "B", whole=False),
        Result(Key(2, 0), Kind.FILE, "read_file", "a.py", "A"),
        Result(Key(3, 0), Kind.OUTPUT, "bash", "make test", "ok"),
    )
    assert rewritten(messages[3], {0: "short"}).content == "short"


@pytest.mark.parametrize("content", ["[{]", '[{"result": 1}]', "[" * 3000, '["a"]', "{}", ""])
def test_other_json_is_plain_text(content: str) -> None:
    message = Message("tool", content, tool_name="look")
    (result,) = results_of([message])
    assert result.text == content
    assert rewritten(message, {0: "x"}).content == "x"


REMINDER = "\n\n# task_progress RECOMMENDED\n\nMake a list.\n"
PLACE = "<environment_details>\n# Time\n7:27 AM\n</environment_details>"


def test_results_in_messages_of_the_user() -> None:
    head = "[read_file for 'a'b.py'] Result:\n"
    message = Message("user", f"{head}1 | x\n2 | y{REMINDER}{PLACE}")
    read, place = results_of([message])
    assert (read.kind, read.tool, read.subject) == (Kind.FILE, "read_file", "a'b.py")
    assert read.text == "1 | x\n2 | y\n"
    assert (place.kind, place.text) == (Kind.SURROUNDINGS, "\n# Time\n7:27 AM\n")
    short = rewritten(message, {0: "gone\n", 1: "older"})
    assert short.content == (f"{head}gone\n{REMINDER[1:]}<environment_details>older</environment_details>")


def test_of_an_edit_only_the_file_that_comes_back() -> None:
    before = (
        "[replace_in_file for 'a.py'] Result:\nThe content was saved.\n\n<final_file_content path=\"a.py\">\n"
    )
    message = Message("user", f"{before}x = 1\n</final_file_content>\n\nUse it.\n{PLACE}")
    file, _ = results_of([message])
    assert (file.kind, file.subject, file.text) == (Kind.FILE, "a.py", "x = 1\n")
    assert rewritten(message, {0: "…"}).content.startswith(before + "…</final_file_content>\n\nUse it.")


@pytest.mark.parametrize(
    "content",
    [
        "Please look at [read_file for 'a.py'] Result:\nx",
        "[attempt_completion] Result:\nThe user says:\n<feedback>\nNo!\n</feedback>",
        "result missing",
        "[read_file for 'a.py'] Results",
        "<environment_details> without an end",
    ],
)
def test_words_of_the_user_are_no_results(content: str) -> None:
    assert results_of([Message("user", content)]) == ()


def test_results_are_found_in_what_tools_and_users_say_only() -> None:
    assert results_of([Message("assistant", READ), Message("system", f"[ls] Result:\n{PLACE}")]) == ()
