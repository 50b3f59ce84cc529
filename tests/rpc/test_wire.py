"""An rpc server is asked before ggml is let near it: real servers, and others that are none."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from server.domain.errors import ModelLoadFailed
from server.engine import rpc
from server.engine.rpc import Unreachable, Wires, ask, resolve
from server.service.rpc_servers import RpcServers, Taken
from tests.rpc.hosts import Host, hosts


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with hosts(1) as [started]:
        yield started


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Takes one connection and then does what the test says."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def answering(listener: socket.socket, answer: bytes) -> int:
    """The port of somebody who says only this, whatever he is asked."""

    def serve() -> None:
        wire, _ = listener.accept()
        with wire:
            wire.recv(64)
            wire.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def test_a_server_says_what_it_has(host: Host) -> None:
    [device] = ask(host.device, "127.0.0.1", host.port)
    assert 0 < device.free_bytes <= device.total_bytes


def test_it_can_be_asked_again_and_again(host: Host) -> None:
    assert {ask(host.device, "127.0.0.1", host.port) for _ in range(5)}


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        Unreachable, match=r"^rpc://h:1 cannot be reached: connection refused; start ggml-rpc"
    ):
        ask("rpc://h:1", "127.0.0.1", port)


def test_a_server_that_serves_another_client_is_not_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "ANSWER_S", 0.3)
    with socket.create_connection(("127.0.0.1", host.port)):
        time.sleep(0.2)
        with pytest.raises(
            Unreachable, match=r"takes connections but does not answer: it may be stopped, or"
        ):
            ask(host.device, "127.0.0.1", host.port)
    monkeypatch.setattr(rpc, "ANSWER_S", 30)
    assert ask(host.device, "127.0.0.1", host.port), "it is none the worse for it"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer as an rpc server: an answer of"),
        (b"", "does not answer as an rpc server: it closed the connection"),
        (
            (28).to_bytes(8, "little") + bytes((6, 1, 0)) + bytes(25),
            "speaks version 6.1.0 of the rpc protocol",
        ),
        (
            (28).to_bytes(8, "little") + bytes((7, 1, 0)) + bytes(25),
            "speaks version 7.1.0 of the rpc protocol",
        ),
    ],
)
def test_who_is_no_server_of_ours(listener: socket.socket, answer: bytes, words: str) -> None:
    with pytest.raises(Unreachable, match=words):
        ask("rpc://h:1", "127.0.0.1", answering(listener, answer))


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(Unreachable, match=r"^rpc://nobody.invalid:1 cannot be found: "):
        resolve("rpc://nobody.invalid:1", "nobody.invalid", 1)


def test_wires_know_when_the_other_end_has_gone(listener: socket.socket) -> None:
    address, port = listener.getsockname()
    with socket.create_connection((address, port)) as own:
        wires, (other, _) = Wires(address, port), listener.accept()
        assert len(wires) == 1
        assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == rpc.SILENCE_S * 1000
        assert wires.broken() is None
        other.sendall(b"x")
        assert wires.broken() is None
        assert own.recv(1) == b"x", "a look takes nothing away"
        other.close()
        time.sleep(0.05)
        assert wires.broken() == "it has closed the connection"
        wires.close()
        assert own.recv(1) == b"", "the connection is its owner's"


def test_a_name_on_a_public_address_is_refused_unless_forced(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 1)) for text in ("10.0.0.2", "8.8.8.8")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    asked: list[str] = []
    monkeypatch.setattr(
        "server.service.rpc_servers.ask", lambda _device, address, _port: asked.append(address) or [1]
    )
    with pytest.raises(
        ModelLoadFailed, match=r"^rpc://far:1 at 8.8.8.8 is a public address, and .*rpc_public"
    ):
        RpcServers(None).look(["rpc://far:1"], public=False, model="m")
    assert asked == []
    [server] = RpcServers(None).look(["rpc://far:1"], public=True, model="m")
    assert (asked, server.endpoint) == (["10.0.0.2"], "10.0.0.2:1")


def test_a_server_holds_one_model_at_a_time(host: Host) -> None:
    rpc_servers = RpcServers(None)
    servers = rpc_servers.look([host.device], public=False, model="one")
    with rpc_servers.lending("one", servers):
        pass
    assert [held.model for held in rpc_servers.held()] == ["one"]
    with pytest.raises(Taken, match=f"^{host.device} has a part of one, and an rpc server holds one model"):
        rpc_servers.look([host.device], public=False, model="other")
    rpc_servers.give_back("one")
    assert rpc_servers.look([host.device], public=False, model="other")
