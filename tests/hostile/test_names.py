"""Names, digests and paths: nothing of a request reaches the file system, the hub or the log unchecked."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.catalogue.names import ModelName, name_of_file
from server.catalogue.records import is_plain_gguf
from server.domain.errors import InvalidRequest
from server.logs import one_line
from tests.api.asking import eventually
from tests.api.workshop import BIG, Workshop
from tests.running import RunningServer

NAMES = [
    *("../../etc/passwd", "..", "../x", "/etc/passwd", "a/../../b", "a/..", "./a", "a/./b", "~root/a"),
    *(".hidden", "a\0b", "a\nb", "a\rb", "a b", "a\tb", "a\\b", "C:\\x", "a%00b", "%2e%2e%2fx", "a%2fb"),
    *("a|b", "a;b", "$(id)", "`id`", "a*", "a?", "a'b", 'a"b', "-rf", "--help", "a@b", "a+b", "é", "\u202ea"),
    *("\ud800", "a" * 500, "a/" * 50, "file:///etc/passwd", "http://169.254.169.254/latest", "x:" + "t" * 90),
    *(":", "a::b", "con:", "a:../b", "a:/b"),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_leads_nowhere(name: str) -> None:
    try:
        parsed = ModelName.parse(name)
    except InvalidRequest:
        return
    stem = parsed.file_stem
    assert Path("/models", stem).resolve().parent == Path("/models")
    assert not stem.startswith((".", "-"))


@given(st.text(max_size=30) | st.text("./\\:~%\0ab@+-", max_size=30))
def test_no_name_at_all_leads_anywhere(name: str) -> None:
    try:
        stem = ModelName.parse(name).file_stem
    except InvalidRequest:
        return
    assert Path("/models", f"{stem}.json").resolve().parent == Path("/models")
    assert os.fsencode(stem).isascii()
    assert "\0" not in stem


@given(st.text(max_size=30))
def test_no_file_name_becomes_more_than_a_name(name: str) -> None:
    found = name_of_file(name)
    assert found is None or Path("/models", found.file_stem).resolve().parent == Path("/models")


@pytest.mark.parametrize("file", ["../a.gguf", "/a.gguf", "a/b.gguf", "..", "", "a.txt", "a.gguf/.."])
def test_a_record_names_a_file_in_its_folder(file: str) -> None:
    assert not is_plain_gguf(file)


@pytest.fixture
def tree(bench: Workshop) -> Iterator[Workshop]:
    """A folder of models that is as it was when the test is over."""

    def files() -> dict[str, int]:
        found = (path for path in bench.models_dir.parent.rglob("*") if "cache" not in path.parts)
        return {str(path): path.stat().st_size for path in found if path.is_file()}

    before = files()
    yield bench
    assert {path: size for path, size in files().items() if path not in before} == {}
    assert set(before) <= set(files())


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_route_makes_a_file_of_a_wrong_name(tree: Workshop, name: str) -> None:
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/api/show", {"model": name}),
        ("POST", "/api/pull", {"model": name, "stream": False}),
        ("POST", "/api/create", {"model": name, "from": name, "stream": False}),
        ("POST", "/api/create", {"model": "mine", "files": {name: name}, "stream": False}),
        ("POST", "/api/copy", {"source": name, "destination": name}),
        ("DELETE", "/api/delete", {"model": name}),
        ("POST", "/api/chat", {"model": name, "messages": []}),
    ]
    for method, path, body in requests:
        response = tree.client.request(method, path, content=json.dumps(body).encode())
        assert 400 <= response.status_code < 500 or "error" in response.text, (path, response.text[:200])


DIGESTS = [
    *("sha256:../../etc/passwd", "sha256:" + "0" * 63, "sha256:" + "0" * 65, "sha256:" + "G" * 64),
    *("md5:" + "0" * 32, "sha256-" + "0" * 63 + "\n", "..%2f..%2fetc%2fpasswd", "sha256:" + "0" * 64 + "%00"),
]


@pytest.mark.parametrize("digest", DIGESTS, ids=ascii)
def test_a_digest_is_one_or_nothing(tree: Workshop, digest: str) -> None:
    path = f"/api/blobs/{digest.strip()}"
    assert tree.client.head(path).status_code in {400, 404}
    assert tree.client.post(path, content=b"x").status_code in {400, 404, 405}


def test_an_upload_under_a_wrong_digest_leaves_nothing(tree: Workshop) -> None:
    response = tree.client.post(f"/api/blobs/sha256:{'0' * 64}", content=b"x")
    assert response.status_code == 400


def test_a_model_of_a_strange_file_name_stays_in_its_folder(bench: Workshop) -> None:
    file = bench.models_dir.parent / "big.gguf"
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert bench.client.post(f"/api/blobs/{digest}", content=file.read_bytes()).status_code == 201
    bench.create("mine", files={"../../../outside.gguf": digest})
    outside = [folder / "outside.gguf" for folder in bench.models_dir.parents]
    assert not any(path.exists() for path in outside)
    assert not list(bench.models_dir.parent.rglob("outside*"))
    assert [path.name for path in bench.models_dir.glob("mine*")]


def test_what_a_record_holds_cannot_become_another_record(bench: Workshop) -> None:
    """Texts of a request stay texts in the file that remembers them."""
    text = '", "file": "../../x.gguf", "a": "\n[generator]\npath = "/etc/passwd"\n\0'
    bench.create("mine", **{"from": BIG, "system": text})
    [record] = (bench.models_dir / "catalogue").glob("mine*.json")
    kept = json.loads(record.read_text())
    assert kept["system"] == text
    assert "file" not in kept
    shown = bench.client.post("/api/show", json={"model": "mine"}).json()
    assert shown["system"] == text


def test_a_link_is_removed_and_not_what_it_leads_to(bench: Workshop) -> None:
    precious = bench.models_dir.parent / "precious.gguf"
    shutil.copy(bench.models_dir.parent / "big.gguf", precious)
    (bench.models_dir / "linked.gguf").symlink_to(precious)
    assert bench.delete("linked").status_code == 200
    assert precious.exists()
    precious.unlink()


def test_a_link_in_a_circle_is_no_model(bench: Workshop) -> None:
    circle = bench.models_dir / "circle.gguf"
    circle.symlink_to(circle)
    try:
        assert "circle:latest" not in bench.names()
        assert bench.client.post("/api/show", json={"model": "circle"}).status_code in {404, 500}
    finally:
        circle.unlink()


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/api/../../x", "/..%2f..%2fetc/passwd", "/static/../x", "//etc/passwd", "/%00"],
)
def test_a_path_of_a_url_is_no_path_of_a_file(server: RunningServer, client: httpx.Client, path: str) -> None:
    assert client.get(f"{server.url}{path}").status_code in {404, 307}
    for name in ("/v1/models", "/api/router/original"):
        assert client.get(f"{server.url}{name}{path}").status_code in {400, 404, 307}


def test_a_request_writes_no_line_of_the_log(server: RunningServer, client: httpx.Client) -> None:
    forged = "x\n00:00:00 WARNING forged\x1b[2J"
    before = len(server.log)
    client.post("/api/show", json={"model": forged})
    client.post("/api/chat", json={"model": forged, "messages": [{"role": "user", "content": "x"}]})
    client.get("/v1/models/x%0a00:00:00%20WARNING%20forged")
    client.get("/v1/models/forged-and-not-found")
    assert eventually(lambda: any("forged-and-not-found" in line for line in server.log[before:]))
    assert not [line for line in server.log[before:] if line.startswith("00:00:00 WARNING") or "\x1b" in line]


def test_one_line() -> None:
    assert one_line("plain é") == "plain é"
    assert one_line("a\nb\x1b[0m\u2028c") == "a\\nb\\x1b[0m\\u2028c"
