"""The client, against a server that sends what it is told to."""

import asyncio
import contextlib
import socketserver
import threading
from collections.abc import Iterator

import pytest

from bench.client import HOST, Client, ConnectionBroke, NotReady, read_response
from bench.wire import AnswerFailed, EndedEarly, Ollama, Request
from tests.bench.test_wire import OURS

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


BODY = b"".join(chunk(line + b"\n") for line in OURS) + b"0\r\n\r\n"


class Speaker(socketserver.BaseRequestHandler):
    """Reads a request's head and sends what the server holds, piece by piece."""

    def handle(self) -> None:
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += self.request.recv(4096)
        for piece in self.server.pieces:  # type: ignore[attr-defined]
            self.request.sendall(piece)


@contextlib.contextmanager
def speaking(*pieces: bytes) -> Iterator[Client]:
    """A client of a server that answers each connection with ``pieces`` and hangs up."""
    with socketserver.ThreadingTCPServer((HOST, 0), Speaker) as server:
        server.pieces = pieces  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Client(server.server_address[1], Ollama())
        finally:
            server.shutdown()
            thread.join()


def test_answers_come_whole_and_in_order() -> None:
    with speaking(HEAD + BODY) as client:
        answers = asyncio.run(client.ask_all([Request("x", 3)] * 3))

    assert [answer.text for answer in answers] == ["```\n"] * 3
    assert all(0 < answer.first_token_s <= answer.total_s for answer in answers)


def test_fewer_tokens_than_asked_for_are_never_a_result() -> None:
    with speaking(HEAD + BODY) as client, pytest.raises(EndedEarly, match="3 of 4"):
        asyncio.run(client.ask(Request("x", 4)))


def test_an_early_end_is_fine_where_the_length_does_not_matter() -> None:
    with speaking(HEAD + BODY) as client:
        assert asyncio.run(client.ask_whatever_length(Request("x", 4))).generated_tokens == 3


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}", NotReady),
        (b'HTTP/1.1 400 Bad Request\r\nContent-Length: 15\r\n\r\n{"error":"no x"}', AnswerFailed),
        (HEAD + BODY[:40], ConnectionBroke),
        (b"", ConnectionBroke),
    ],
    ids=["loading", "refused", "broken off", "nothing"],
)
def test_failures_are_told_apart(sent: bytes, error: type[Exception]) -> None:
    with speaking(sent) as client, pytest.raises(error):
        asyncio.run(client.ask(Request("x", 3)))


def test_nobody_listening_is_not_ready() -> None:
    with pytest.raises(NotReady):
        asyncio.run(Client(1, Ollama()).ask(Request("x", 3)))


@pytest.mark.parametrize("step", [1, 7, 50, 10_000])
def test_lines_carry_the_time_when_their_end_arrived(step: int) -> None:
    raw = HEAD + BODY
    arrivals = [(float(start // step), raw[start : start + step]) for start in range(0, len(raw), step)]

    status, lines = read_response(arrivals)

    assert status == 200
    assert tuple(line for _, line in lines) == OURS
    # The last byte of a chunk is its line end's: two bytes behind the line's own.
    ends = [raw.index(line) + len(line) + len(b"\n\r\n") - 1 for line in OURS]
    assert [at_s for at_s, _ in lines] == [float(end // step) for end in ends]


def test_a_line_may_be_spread_over_chunks() -> None:
    raw = HEAD + chunk(b"ab") + chunk(b"c\nd") + chunk(b"\n") + b"0\r\n\r\n"

    assert [line for _, line in read_response([(1.0, raw)])[1]] == [b"abc", b"d"]


def test_the_answer_is_noticed_as_ended_however_its_bytes_are_cut() -> None:
    with speaking(*(bytes([byte]) for byte in HEAD + BODY)) as client:
        assert asyncio.run(client.ask(Request("x", 3))).text == "```\n"


def test_a_late_request_goes_out_when_the_others_are_being_answered() -> None:
    with speaking(*(bytes([byte]) for byte in HEAD + BODY)) as client:
        answers, late = asyncio.run(client.ask_late([Request("x", 3)] * 2, Request("late", 3)))

    assert all(answer.sent_s < late.sent_s for answer in answers)
    assert late.text == "```\n"


def test_a_late_request_does_not_wait_for_answers_that_never_come() -> None:
    with speaking() as client, pytest.raises(ConnectionBroke):
        asyncio.run(client.ask_late([Request("x", 3)] * 2, Request("late", 3)))
