"""Captured requests: private, without secrets, and never more than allowed."""

import datetime
import json
import os
import stat
from pathlib import Path

import pytest

from server.service.captures import BLANKED, Captures, blanked_body, blanked_headers, blanked_text

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def at(second: int) -> datetime.datetime:
    return START + datetime.timedelta(seconds=second)


def test_a_request_is_a_private_file_named_by_time_and_id(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "captures"
    former = os.umask(0)
    try:
        Captures(folder, 10_000).add(START, "req:1/../x", {"body": "é \ud800"})
    finally:
        os.umask(former)
    [file] = folder.iterdir()
    assert file.name == "20260301T120000.000000Z-req_1_.._x.json"
    assert json.loads(file.read_text()) == {"body": "é ?"}
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (0o600, 0o700)


def test_the_oldest_go_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("x" * 5000)
    captures = Captures(tmp_path, 1000)
    for second in range(8):
        captures.add(at(second), str(second), {"body": "x" * 280})
    kept = sorted(file.name for file in tmp_path.iterdir())
    assert kept == [
        "20260301T120005.000000Z-5.json",
        "20260301T120006.000000Z-6.json",
        "20260301T120007.000000Z-7.json",
        "mine.json",
    ]


def test_what_is_larger_than_everything_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Captures(tmp_path / "captures", 100).add(START, "a", {"body": "x" * 200})
    assert not (tmp_path / "captures").exists()
    assert "capture_mib has no room" in caplog.text


def test_a_folder_that_cannot_be_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    captures = Captures(tmp_path / "file" / "captures", 1000)
    for second in range(3):
        captures.add(at(second), "a", {})
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    folder = tmp_path / "captures"
    folder.mkdir()
    (folder / "20260301T120000.000000Z-a.json").symlink_to(victim)
    Captures(folder, 1000).add(START, "a", {})
    assert not victim.exists()


@pytest.mark.parametrize(
    ("name", "blanked"),
    [
        *(
            (name, True)
            for name in ("Authorization", "x-api-key", "Cookie", "X-Goog-Api-Key", "proxy-authorization")
        ),
        *((name, True) for name in ("X-Session-Token", "x-amz-signature", "Client-Secret")),
        *((name, False) for name in ("content-type", "user-agent", "x-request-id", "x-llm-optimizer-policy")),
    ],
)
def test_headers_that_may_hold_a_key_are_blanked(name: str, blanked: bool) -> None:
    assert blanked_headers([(name, "text")]) == {name: BLANKED if blanked else "text"}


def test_fields_of_a_body_that_may_hold_a_key_are_blanked_at_any_depth() -> None:
    schema = {"properties": {"api_key": {"type": "string"}}}
    body = {
        "model": "m",
        "max_tokens": 5,
        "api_key": "sk-1",
        "extra": [{"headers": {"Authorization": "Bearer sk-2", "x": "y"}}],
        "tools": [schema],
    }
    assert blanked_body(body) == {
        "model": "m",
        "max_tokens": 5,
        "api_key": BLANKED,
        "extra": [{"headers": {"Authorization": BLANKED, "x": "y"}}],
        "tools": [schema],
    }


def test_a_body_that_is_no_json_is_blanked_too() -> None:
    assert blanked_text('{"API-Key" : "sk-1", "model": "m", "password":"sk-2') == (
        '{"API-Key" : "[blanked]", "model": "m", "password":"[blanked]"'
    )
