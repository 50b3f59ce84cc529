"""Who has no key, or the wrong one, gets nothing; who has one gets what it is for."""

import base64
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.api.access import Access, Caller, Denied, known_key, needed_right
from server.config import ConfigError, LimitSettings, Right, read_keys
from server.config.keys import fault_of
from server.doctor.ports import Running, running_at
from server.serve import warnings_of
from tests.hostile.asking import address_of
from tests.hostile.conftest import ADMIN, FRUGAL, USER
from tests.running import RunningServer, embedded_config

HASHED = hashlib.sha256(b"0123456789abcdef").hexdigest()
BEARER = {"Authorization": f"Bearer {USER}"}
CHAT = {
    "model": "tiny:1b",
    "messages": [{"role": "user", "content": "Hi"}],
    "stream": False,
    "options": {"num_predict": 5, "temperature": 0},
}


@pytest.fixture(scope="module")
def stranger(guarded: RunningServer) -> Iterator[httpx.Client]:
    with guarded.client() as client:
        yield client


def test_the_keys_of_a_file(key_file: Path) -> None:
    laptop, me, frugal = read_keys(key_file)
    assert (laptop.name, laptop.rights) == ("laptop", {Right.USE})
    assert laptop.digest == hashlib.sha256(USER.encode()).digest()
    assert (me.digest, me.rights) == (hashlib.sha256(ADMIN.encode()).digest(), {Right.USE, Right.ADMIN})
    assert (frugal.body_mib, frugal.requests, frugal.answer_tokens) == (1, 1, 3)
    assert read_keys(None) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no key"),
        ("[a", "not valid TOML"),
        ('a = "x"', "a: "),
        ("[a]", "a.key: "),
        ('[a]\nkey = "short"', "openssl rand"),
        ('[a]\nkey = "sha256:ABC0123456789"', "64 hexadecimal"),
        ('[a]\nkey = "with a space 0123456789"', "ASCII"),
        ('[a]\nkey = "0123456789abcdef"\nrights = []', "a.rights: "),
        ('[a]\nkey = "0123456789abcdef"\nrights = ["root"]', "a.rights.0: "),
        ('[a]\nkey = "0123456789abcdef"\nrequests = 0', "a.requests: "),
        ('[a]\nkey = "0123456789abcdef"\nlimit = 1', "a.limit: "),
        ('[a]\nkey = "0123456789abcdef"\n[b]\nkey = "0123456789abcdef"', "the same key"),
        (f'[a]\nkey = "0123456789abcdef"\n[b]\nkey = "sha256:{HASHED}"', "the same key"),
    ],
)
def test_a_wrong_key_file_says_what_is_wrong_and_no_key(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        read_keys(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert "0123456789" not in str(caught.value)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none.toml")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError):
        read_keys(tmp_path / "pipe")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_others_may_not_read_or_write_keys(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(ConfigError, match=f"{mode:04o}.*chmod"):
        read_keys(key_file)


@pytest.mark.parametrize(
    ("mode", "user", "secret", "fault"),
    [
        (0o600, 0, True, None),
        (0o400, 7, True, None),
        (0o644, 0, False, None),
        (0o644, 0, True, "read"),
        (0o664, 0, False, "write"),
        (0o600, 8, True, "user 8"),
    ],
)
def test_whose_key_file_counts(mode: int, user: int, secret: bool, fault: str | None) -> None:
    status = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, user, 0, 0, 0, 0, 0))
    found = fault_of(status, 7, secret=secret)
    assert found is None if fault is None else fault in str(found)


def test_a_key_is_found_by_all_of_it(key_file: Path) -> None:
    keys = read_keys(key_file)
    assert known_key(keys, [USER]) is keys[0]
    assert known_key(keys, ["x", ADMIN]) is keys[1]
    hashed = "sha256:" + keys[0].digest.hex()
    for wrong in ([], [""], [USER[:-1]], [USER + "x"], [USER.upper()], [hashed], ["é"]):
        assert known_key(keys, wrong) is None


@pytest.mark.parametrize(
    ("path", "right"),
    [
        *((path, None) for path in ("/", "/health", "/health/ready", "/dashboard", "/chat")),
        *((path, Right.USE) for path in ("/api/chat", "/metrics", "/health/gpu", "/dashboard/events")),
        *((path, Right.USE) for path in ("/new", "//", "/pages", "/chat/")),
        ("/pages/page.js", None),
        *((path, Right.USE) for path in ("/api/pulled", "/health/", "/api/router/explain", "/openapi.json")),
        *((path, Right.ADMIN) for path in ("/api/pull", "/api/pull/", "/api/blobs/sha256:0", "/api/delete")),
        *((path, Right.ADMIN) for path in ("/api/router/original/x", "/api/captures", "/api/config/x")),
    ],
)
def test_what_takes_which_right(path: str, right: Right | None) -> None:
    assert needed_right(path) is right


def scope(address: str, **headers: str) -> dict[str, Any]:
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": "/api/delete", "headers": pairs, "client": (address, 5)}


def test_without_keys_only_this_machine_administers() -> None:
    access = Access(LimitSettings(), ())
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert isinstance(access.judged(scope(address)), Caller)
    for address in ("192.168.1.9", "fe80::1", "::ffff:10.0.0.1", "a socket"):
        denied = access.judged(scope(address))
        assert isinstance(denied, Denied)
        assert denied.status == 403
        assert "keys_file" in denied.text
        assert isinstance(access.judged({**scope(address), "path": "/api/chat"}), Caller)


def test_other_keys_count_from_the_next_request_on(key_file: Path) -> None:
    access = Access(LimitSettings(), ())
    access.replace(LimitSettings(answer_tokens=9), read_keys(key_file))
    assert isinstance(access.judged(scope("127.0.0.1")), Denied)
    caller = access.judged(scope("127.0.0.1", **{"X-Api-Key": ADMIN}))
    assert isinstance(caller, Caller)
    assert caller.answer_tokens == 9


def test_too_many_at_once_are_refused_and_leave_no_trace(key_file: Path) -> None:
    access = Access(LimitSettings(), read_keys(key_file))
    caller = access.judged({**scope("127.0.0.1", **{"X-Api-Key": FRUGAL}), "path": "/api/chat"})
    assert isinstance(caller, Caller)
    with access.passing(caller) as first, access.passing(caller) as second:
        assert first is None
        assert second is not None
        assert second.status == 429
    with access.passing(caller) as third:
        assert third is None


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/pull", {"model": "x"}),
        ("DELETE", "/api/delete", {"model": "x"}),
        ("GET", "/api/router/original/x", None),
        ("POST", "/api/generate", {"model": "smollm2:135m", "keep_alive": 0}),
    ],
)
def test_a_proxy_tells_who_asks(client: httpx.Client, method: str, path: str, body: Any) -> None:
    """And without keys, whoever is elsewhere only uses what there is."""
    far = {"X-Forwarded-For": "127.0.0.1, 192.168.1.9"}
    response = client.request(method, path, json=body, headers=far)
    assert response.status_code == 403
    assert "keys_file" in response.json()["error"]
    assert client.get("/api/tags", headers=far).status_code == 200


def test_who_starts_it_is_told_who_can_reach_it(key_file: Path) -> None:
    closed, opened = Access(LimitSettings(), read_keys(key_file)), Access(LimitSettings(), ())
    near, far = ("127.0.0.1", 1), ("192.168.1.9", 8512)
    assert warnings_of([near], opened) == warnings_of([near, far], closed) == []
    [warning] = warnings_of([near, far], opened)
    assert "192.168.1.9:8512" in warning
    assert "keys_file" in warning


def test_the_service_does_not_start_with_keys_that_others_can_read(
    key_file: Path, embedded_model: Path
) -> None:
    key_file.chmod(0o644)
    config = key_file.with_name("config.toml")
    config.write_text(f'keys_file = "{key_file}"\n' + embedded_config(embedded_model))
    command = [sys.executable, "-m", "server", "serve", "--config", str(config), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "chmod 600" in ended.stderr
    assert ADMIN not in ended.stderr + ended.stdout


def test_the_doctor_knows_the_service_without_a_key(guarded: RunningServer) -> None:
    assert running_at(*address_of(guarded)) == Running(None)


FORMS = {"/api/chat": "native", "/v1/chat/completions": "openai", "/v1/messages": "anthropic"}


def text_of(form: str, response: httpx.Response) -> str:
    """The error's text, whose form is that of its dialect."""
    body = response.json()
    if form == "native":
        return str(body["error"])
    if form == "openai":
        assert set(body["error"]) == {"message", "type", "param", "code"}
    else:
        assert body["type"] == "error"
        assert body["error"]["type"] in {"authentication_error", "permission_error", "request_too_large"}
    return str(body["error"]["message"])


@pytest.mark.parametrize(("path", "form"), FORMS.items())
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer x"}, {"x-api-key": USER + "x"}, {"Authorization": f"Basic {USER}"}],
    ids=["none", "bearer", "x-api-key", "basic"],
)
def test_without_the_right_key_there_is_nothing(
    stranger: httpx.Client, path: str, form: str, headers: dict[str, str]
) -> None:
    response = stranger.post(path, json=CHAT, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer ")
    assert "API key" in text_of(form, response)


def test_openai_says_which_kind_of_error_it_is(stranger: httpx.Client) -> None:
    assert stranger.get("/v1/models").json()["error"]["code"] == "invalid_api_key"


PASSWORD = base64.b64encode(f"anyone:{USER}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        BEARER,
        {"authorization": f"bearer  {USER}"},
        {"x-api-key": USER},
        {"x-api-key": USER, "Authorization": "Bearer something-else"},
        {"Authorization": f"Basic {PASSWORD}"},
    ],
    ids=["bearer", "lower case", "x-api-key", "one of two", "browser"],
)
def test_each_client_may_send_its_key_in_its_way(stranger: httpx.Client, headers: dict[str, str]) -> None:
    assert stranger.get("/api/tags", headers=headers).status_code == 200


def test_a_browser_is_asked_for_a_password(stranger: httpx.Client) -> None:
    response = stranger.get("/health/gpu", headers={"Accept": "text/html,*/*"})
    assert response.headers["www-authenticate"].startswith("Basic ")


def test_what_needs_no_key(stranger: httpx.Client) -> None:
    for path in ("/", "/health", "/health/ready"):
        assert stranger.get(path).status_code in {200, 503}
    asked = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    assert stranger.options("/api/chat", headers=asked).status_code == 204


def test_every_other_route_needs_one(guarded: RunningServer, stranger: httpx.Client) -> None:
    routes = stranger.get("/openapi.json", headers=BEARER).json()["paths"]
    assert len(routes) > 20
    for path, methods in {**routes, "/metrics": ["get"], "/docs": ["get"]}.items():
        for method in methods:
            response = stranger.request(method, path.replace("{", "").replace("}", ""))
            assert (response.status_code == 401) is (needed_right(path) is not None), path


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/pull", {"model": "x"}),
        ("POST", "/api/create", {"model": "x", "from": "tiny:1b"}),
        ("POST", "/api/copy", {"source": "tiny:1b", "destination": "x"}),
        ("DELETE", "/api/delete", {"model": "tiny:1b"}),
        ("POST", "/api/blobs/sha256:" + "0" * 64, {}),
        ("GET", "/api/router/original/x", None),
        ("POST", "/api/generate", {"model": "tiny:1b", "keep_alive": 0}),
        ("POST", "/api/chat", {"model": "tiny:1b", "messages": [], "keep_alive": "0s"}),
        ("POST", "/api/tokenize", {"model": "tiny:1b", "text": "a", "keep_alive": 0}),
    ],
)
def test_a_key_for_use_changes_nothing(stranger: httpx.Client, method: str, path: str, body: Any) -> None:
    response = stranger.request(method, path, json=body, headers=BEARER)
    assert response.status_code == 403, response.text
    assert '"admin"' in response.json()["error"]


def test_an_administrator_may(stranger: httpx.Client) -> None:
    headers = {"x-api-key": ADMIN}
    made = stranger.post(
        "/api/create", json={"model": "mine", "from": "tiny:1b", "stream": False}, headers=headers
    )
    assert made.json() == {"status": "success"}
    assert stranger.request("DELETE", "/api/delete", json={"model": "mine"}, headers=headers).is_success
    assert stranger.get("/api/router/original/x", headers=headers).status_code == 404


def test_a_key_for_use_unloads_nothing_on_its_way(stranger: httpx.Client) -> None:
    answer = stranger.post("/api/chat", json={**CHAT, "keep_alive": 0}, headers=BEARER).json()
    assert "keep_alive" in answer["llm_optimizer"]["ignored"]
    assert stranger.get("/api/ps", headers=BEARER).json()["models"]


def test_an_answer_ends_where_its_key_says(stranger: httpx.Client) -> None:
    frugal = {"x-api-key": FRUGAL}
    answer = stranger.post("/api/chat", json=CHAT, headers=frugal).json()
    assert (answer["eval_count"], answer["done_reason"]) == (3, "length")
    assert "num_predict above 3" in answer["llm_optimizer"]["ignored"]
    endless = {**CHAT, "options": {"num_predict": -1, "temperature": 0}}
    assert stranger.post("/api/chat", json=endless, headers=frugal).json()["eval_count"] == 3
    body = {"model": "tiny:1b", "max_tokens": 50, "messages": CHAT["messages"]}
    message = stranger.post("/v1/messages", json=body, headers=frugal).json()
    assert (message["usage"]["output_tokens"], message["stop_reason"]) == (3, "max_tokens")


@pytest.mark.parametrize(("path", "form"), FORMS.items())
@pytest.mark.parametrize(("key", "mib"), [(USER, 2), (FRUGAL, 1)])
def test_a_body_is_as_large_as_its_key_allows(
    stranger: httpx.Client, path: str, form: str, key: str, mib: int
) -> None:
    large = b'{"model": "nothing", "junk": "' + b"x" * (mib * 2**20) + b'"}'
    response = stranger.post(path, content=large, headers={"x-api-key": key})
    assert response.status_code == 413
    assert f"{mib} MiB" in text_of(form, response)
    small = b'{"model": "nothing", "max_tokens": 1, "junk": "' + b"x" * (mib * 2**20 - 99) + b'"}'
    assert stranger.post(path, content=small, headers={"x-api-key": key}).status_code != 413
