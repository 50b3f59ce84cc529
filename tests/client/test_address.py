"""What users write, and the URL that it stands for."""

import pytest

from server.client.address import OLLAMAS_PORT, base_url, is_this_machine
from server.client.errors import ClientError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        (":9000", "http://127.0.0.1:9000"),
        ("gpu.example.org", "http://gpu.example.org:8512"),
        ("http://gpu.example.org", "http://gpu.example.org"),
        ("https://gpu.example.org/llm/", "https://gpu.example.org/llm"),
        ("https://gpu.example.org:8443", "https://gpu.example.org:8443"),
        ("0.0.0.0:8512", "http://127.0.0.1:8512"),
        ("[::]:8512", "http://[::1]:8512"),
        ("[::1]:8512", "http://[::1]:8512"),
        (' "localhost:1" ', "http://localhost:1"),
    ],
)
def test_an_address_in_every_form(text: str, url: str) -> None:
    assert base_url(text) == url


def test_ollamas_own_port() -> None:
    assert base_url("somewhere", OLLAMAS_PORT) == "http://somewhere:11434"


@pytest.mark.parametrize("text", ["host:many", "host:70000", "http://[::1", "ftp://host"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ClientError, match="must"):
        base_url(text)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("http://192.168.0.2", False),
        ("https://example.org", False),
    ],
)
def test_no_proxy_stands_before_this_machine(url: str, here: bool) -> None:
    assert is_this_machine(url) is here
