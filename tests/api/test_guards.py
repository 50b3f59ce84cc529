import httpx
import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from server.api.access import Access
from server.api.accounting import Accounting
from server.api.guards import LOCAL_ORIGINS, Guard, host_allowed, origin_allowed
from server.config import LimitSettings
from server.service.ledger import Ledger
from server.sockets import is_loopback
from tests.api.asking import chat_body, error_of

PAGE = "https://chat.example.org"


@pytest.mark.parametrize(
    "origin",
    [
        *("http://localhost", "https://localhost:3000", "http://127.0.0.1:8080", "http://0.0.0.0:1"),
        *("HTTP://LocalHost:3000", "app://obsidian.md", "file://", "tauri://localhost"),
        *("vscode-webview://0abc", "vscode-file://vscode-app"),
    ],
)
def test_pages_of_this_machine_and_apps_may_ask(origin: str) -> None:
    assert origin_allowed(origin, LOCAL_ORIGINS)


@pytest.mark.parametrize(
    "origin",
    [
        *(PAGE, "http://localhost.example.org", "http://example.org/localhost", "null", "https://127.0.0.2"),
        "chrome-extension://abc",
    ],
)
def test_other_pages_may_not(origin: str) -> None:
    assert not origin_allowed(origin, LOCAL_ORIGINS)


@pytest.mark.parametrize("pattern", [PAGE, "https://*.example.org", "*", "*://chat.example.org"])
def test_a_setting_lets_a_page_in(pattern: str) -> None:
    assert origin_allowed(PAGE, [pattern])


@pytest.mark.parametrize(
    "host",
    [
        *("", "localhost", "LOCALHOST:8512", "127.0.0.1:8512", "[::1]:8512", "[::1]", "10.0.0.7", "0.0.0.0"),
        *("box", "box:8512", "nas.local", "a.localhost", "api.internal:80", "localhost."),
    ],
)
def test_hosts_that_can_only_be_this_machine(host: str) -> None:
    assert host_allowed(host, "box")


@pytest.mark.parametrize("host", ["example.org", "localhost.example.org:8512", "8.8.8.8", "notlocal", "a b"])
def test_hosts_that_may_be_anybody(host: str) -> None:
    assert not host_allowed(host, "box")


@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("192.168.1.2", False)],
)
def test_which_addresses_only_this_machine_reaches(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_a_foreign_page_is_refused_in_words(client: httpx.Client) -> None:
    for method, path in (("GET", "/api/tags"), ("POST", "/api/chat"), ("OPTIONS", "/api/chat")):
        response = client.request(method, path, headers={"Origin": PAGE})
        assert "origins" in error_of(response, 403)
        assert "access-control-allow-origin" not in response.headers


def test_a_foreign_host_is_refused_in_words(client: httpx.Client) -> None:
    response = client.get("/api/tags", headers={"Host": "rebound.example.org"})
    assert "rebound.example.org" in error_of(response, 403)
    messages = client.post("/v1/messages", headers={"Host": "rebound.example.org"})
    assert messages.status_code == 403
    assert messages.json()["error"]["type"] == "permission_error"


def test_a_page_of_this_machine_is_let_in(client: httpx.Client) -> None:
    origin = "http://localhost:3000"
    response = client.post("/api/chat", json=chat_body(), headers={"Origin": origin})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == origin
    assert response.headers["vary"] == "Origin"


def test_a_page_of_this_server_needs_no_permission(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    response = client.get("/api/tags", headers={"Origin": own})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


def test_a_browser_asks_beforehand(client: httpx.Client) -> None:
    asked = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "DELETE"}
    response = client.options("/api/delete", headers=asked)
    assert response.status_code == 204
    assert response.content == b""
    assert response.headers["access-control-allow-origin"] == asked["Origin"]
    assert "DELETE" in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].casefold()
    for name in ("authorization", "content-type", "openai-beta", "x-stainless-retry-count"):
        assert name in allowed


def test_every_answer_has_an_id(client: httpx.Client) -> None:
    first = client.get("/api/version").headers["x-request-id"]
    second = client.get("/api/nothing").headers["x-request-id"]
    assert first != second
    assert client.get("/", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/", headers={"X-Request-Id": "a b"}).headers["x-request-id"].startswith("req_")


@pytest.mark.anyio
async def test_the_answer_to_a_bug_has_its_id_and_may_be_read() -> None:
    """Starlette makes such answers outside of all middleware."""

    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ZeroDivisionError

    def refusal(_scope: Scope, status: int, text: str) -> Response:
        return JSONResponse({"error": text}, status)

    access = Access(LimitSettings(), ())
    guard = Guard(broken, origins=[PAGE], check_host=True, access=access, refusal=refusal)
    transport = httpx.ASGITransport(Accounting(guard, ledger=Ledger()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.get("/api/ps", headers={"Origin": PAGE, "X-Request-Id": "mine"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "mine")
    assert response.headers["access-control-allow-origin"] == PAGE
    assert response.json() == {"error": "internal error; the server's log has the details"}
