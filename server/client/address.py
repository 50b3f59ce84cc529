"""Where the service is, from what users write."""

import ipaddress
from urllib.parse import SplitResult, urlsplit

from server.client.errors import ClientError

OUR_PORT, OLLAMAS_PORT = 8512, 11434
_USUAL_PORTS = {"http": 80, "https": 443}
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # whom to ask, not where to listen


def base_url(text: str, port: int = OUR_PORT) -> str:
    """The URL of ``host``, ``host:port``, ``:port`` or a URL, without a slash at its end.

    ``port`` is that of an address which is no URL and names none. An address that stands for all of a
    machine's becomes its loopback address.

    Raises:
        ClientError: it is none of these.
    """
    plain = text.strip(" \t\"'")
    is_url = "://" in plain
    parts, named_port = _split(plain if is_url else f"http://{plain}", text)
    if parts.scheme not in _USUAL_PORTS:
        raise ClientError(f'"{text}" must begin with http:// or https://')
    shown_port = named_port or (None if is_url else port)
    host = _EVERYWHERE.get(parts.hostname or "127.0.0.1", parts.hostname or "127.0.0.1")
    bracketed = f"[{host}]" if ":" in host else host
    address = bracketed if shown_port is None else f"{bracketed}:{shown_port}"
    return f"{parts.scheme}://{address}{parts.path.rstrip('/')}"


def is_this_machine(url: str) -> bool:
    """Whether a URL's host is a loopback address: no proxy stands between it and us."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _split(url: str, text: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ClientError(f'"{text}" must be an address such as 127.0.0.1:8512 or a URL') from None
    return parts, port
