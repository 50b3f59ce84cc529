"""Compressed bodies: what was packed is read, what is damaged or much too large is refused."""

import gzip
import json
import zlib

import httpx
import pytest
import zstandard

from server.api.packed import unpacked
from server.domain.errors import BodyTooLarge, InvalidRequest
from tests.api.asking import GENERATOR

MOST_BYTES = 2**22
BODY = json.dumps({"model": GENERATOR, "input": "Hi", "max_output_tokens": 1}).encode()
PACKED = {
    "zstd": zstandard.compress(BODY),
    "ZSTD": zstandard.compress(BODY),
    "gzip": gzip.compress(BODY),
    "deflate": zlib.compress(BODY),
    "deflate, gzip": gzip.compress(zlib.compress(BODY)),
    "identity": BODY,
    "": BODY,
}


@pytest.mark.parametrize("encodings", PACKED)
def test_what_was_packed_is_read(encodings: str) -> None:
    assert unpacked(PACKED[encodings], encodings, MOST_BYTES) == BODY


def test_a_packed_request_is_answered(client: httpx.Client) -> None:
    headers = {"Content-Encoding": "zstd"}
    response = client.post("/v1/responses", content=PACKED["zstd"], headers=headers)
    assert (response.status_code, response.json()["status"]) == (200, "incomplete")


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "deflate"])
def test_what_is_not_packed_is_refused(encoding: str) -> None:
    with pytest.raises(InvalidRequest, match=f"the request body is not {encoding}, as Content-Encoding says"):
        unpacked(BODY, encoding, MOST_BYTES)


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_half_a_body_is_no_request(client: httpx.Client, encoding: str) -> None:
    half = PACKED[encoding][: len(PACKED[encoding]) // 2]
    response = client.post("/v1/responses", content=half, headers={"Content-Encoding": encoding})
    assert response.status_code == 400
    assert "request body" in response.json()["error"]["message"]


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_a_bomb_does_not_go_off(encoding: str) -> None:
    many = bytes(MOST_BYTES + 1)
    bomb = zstandard.compress(many) if encoding == "zstd" else gzip.compress(many, 1)
    with pytest.raises(BodyTooLarge, match="has more than 4 MiB"):
        unpacked(bomb, encoding, MOST_BYTES)
