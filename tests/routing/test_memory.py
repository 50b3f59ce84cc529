import logging
import os
import stat
from pathlib import Path

import pytest

from server.domain.chat import Message, ToolCall
from server.routing.memory import FILE, Summaries, chain_keys

TALK = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]


@pytest.mark.parametrize("on_disk", [True, False])
def test_texts_by_key(tmp_path: Path, on_disk: bool) -> None:
    summaries = Summaries(tmp_path / "cache" if on_disk else None, 10_000)
    assert summaries.get("k") is None
    summaries.put("k", ("one", "é"))
    summaries.put("k", ("two", "é"))
    assert summaries.get("k") == ("two", "é")
    summaries.close()


def test_they_outlive_a_restart_in_a_private_file(tmp_path: Path) -> None:
    first = Summaries(tmp_path, 10_000)
    first.put("k", ("one",))
    first.close()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    second = Summaries(tmp_path, 10_000)
    assert second.get("k") == ("one",)
    second.close()


def test_what_was_used_longest_ago_goes_first() -> None:
    summaries = Summaries(None, 350)
    for key in ("a", "b", "c"):
        summaries.put(key, ("x" * 100,))
        assert summaries.get("a")
    summaries.put("d", ("x" * 100,))
    assert [key for key in "abcd" if summaries.get(key)] == ["a", "c", "d"]
    summaries.put("large", ("x" * 400,))
    assert summaries.get("large") is None
    assert summaries.get("d")


def test_no_room_keeps_nothing() -> None:
    summaries = Summaries(None, 0)
    summaries.put("k", ("one",))
    assert summaries.get("k") is None


def test_a_damaged_file_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all " * 100)
    summaries = Summaries(tmp_path, 10_000)
    summaries.put("k", ("one",))
    assert summaries.get("k") == ("one",)
    assert "is damaged and begun anew" in caplog.text
    summaries.close()


def test_a_row_that_is_no_json_counts_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    summaries = Summaries(tmp_path, 10_000)
    summaries.put("k", ("one",))
    with summaries._database as database:
        database.execute("UPDATE summaries SET texts = '['")
    assert summaries.get("k") is None
    assert summaries.get("k") is None
    assert caplog.text.count("summaries are not kept") == 1
    summaries.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o500)
    check_that_memory_serves(tmp_path / "cache", caplog)


def test_a_folder_that_is_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    check_that_memory_serves(tmp_path / "file", caplog)


def check_that_memory_serves(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    summaries = Summaries(folder, 10_000)
    summaries.put("k", ("one",))
    assert summaries.get("k") == ("one",)
    assert "summaries do not outlive a restart" in caplog.text


def test_a_lost_database_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    summaries = Summaries(tmp_path, 10_000)
    summaries.close()
    summaries.put("k", ("one",))
    assert summaries.get("k") is None
    assert caplog.text.count("summaries are not kept") == 1


def test_each_beginning_has_a_key_of_its_own() -> None:
    keys = chain_keys("scope", [], TALK)
    assert len(set(keys)) == len(keys) == 4
    assert chain_keys("scope", [], TALK[:2]) == keys[:3]
    assert chain_keys("scope", TALK[:1], TALK[1:])[0] == keys[1]
    assert chain_keys("other", [], TALK)[1:] != keys[1:]


@pytest.mark.parametrize(
    "other",
    [
        Message("user", "B"),
        Message("assistant", "B"),
        Message("assistant", "b", tool_calls=(ToolCall("look", {}),)),
    ],
)
def test_another_message_is_another_chain(other: Message) -> None:
    changed = chain_keys("scope", [], [TALK[0], other, TALK[2]])
    assert [left == right for left, right in zip(changed, chain_keys("scope", [], TALK), strict=True)] == [
        True,
        True,
        False,
        False,
    ]


def test_what_is_settled_stays() -> None:
    summaries = Summaries(None, 10_000)
    assert summaries.settle("k", ("first",)) == ("first",)
    assert summaries.settle("k", ("second",)) == ("first",)
    assert summaries.get("k") == ("first",)
