"""Whom a request is for."""

from typing import Any

import pytest

from server.cluster.reach import Reach, reach_of

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "reach"),
    [
        ("POST", "/api/chat", ASKED, Reach.ONE),
        ("POST", "/v1/messages", ASKED, Reach.ONE),
        ("POST", "/api/embed", {"model": "m", "input": "a"}, Reach.ONE),
        ("GET", "/", {}, Reach.ONE),
        ("GET", "/v1/models/m", {}, Reach.ONE),
        ("POST", "/api/show", {"model": "m"}, Reach.ONE),
        ("GET", "/health", {}, Reach.TOGETHER),
        ("HEAD", "/api/tags", {}, Reach.TOGETHER),
        ("GET", "/api/router/original/abc", {}, Reach.TOGETHER),
        ("POST", "/api/pull", {"model": "m"}, Reach.EVERY),
        ("DELETE", "/api/delete", {"model": "m"}, Reach.EVERY),
        ("POST", "/api/generate", {"model": "m", "keep_alive": 0}, Reach.EVERY),
        ("POST", "/api/chat", {"model": "m", "messages": []}, Reach.EVERY),
        ("POST", "/api/chat", {}, Reach.ONE),
        ("POST", "/api/blobs/sha256:1", {}, Reach.NOWHERE),
        ("HEAD", "/api/blobs/sha256:1", {}, Reach.NOWHERE),
    ],
)
def test_whom(method: str, path: str, body: dict[str, Any], reach: Reach) -> None:
    assert reach_of(method, path, body) is reach
