"""Addresses to listen on, origins of web pages, and URLs of other servers, as the settings name them."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_ORIGIN = re.compile(r"\*|[A-Za-z*][A-Za-z0-9+.*-]*://[^\s/]+")
_LARGEST_PORT = 65535


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; the brackets of an IPv6 host are taken off."""
    host, colon, port = address.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > _LARGEST_PORT:
        raise ValueError(_no_address(address))
    try:
        if host.startswith("[") and host.endswith("]"):
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        if re.fullmatch(r"[0-9.]+", host):
            return str(ipaddress.IPv4Address(host)), int(port)
    except ValueError:
        raise ValueError(_no_address(address)) from None
    if not _HOST.fullmatch(host):
        raise ValueError(_no_address(address))
    return host.lower(), int(port)


def _no_address(address: str) -> str:
    return f'"{address}" must be host:port, such as 127.0.0.1:8512 or [::1]:8512'


def check_listen(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses, one at least and none twice, or ValueError."""
    if not addresses:
        raise ValueError("must hold at least one host:port")
    if len({split_address(address) for address in addresses}) < len(addresses):
        raise ValueError("must not hold the same address twice")
    return addresses


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Origins of web pages, or ValueError."""
    wrong = next((origin for origin in origins if not _ORIGIN.fullmatch(origin)), None)
    if wrong is not None:
        raise ValueError(f'must hold origins such as https://chat.example.org or "*", and "{wrong}" is none')
    return origins


def check_url(url: str) -> str:
    """The URL without a slash at its end; empty is none. Else ValueError."""
    if url and not _is_base(url):
        raise ValueError(
            "must be the base of an API, such as http://192.168.1.20:8080/v1, without a user, a password, "
            "? or #"
        )
    return url.rstrip("/")


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if any(ord(sign) <= ord(" ") for sign in url) or not url.isascii():
        return False
    return parts.scheme in ("http", "https") and _has_only_a_host(parts) and port != 0


def _has_only_a_host(parts: SplitResult) -> bool:
    return bool(parts.hostname) and "@" not in parts.netloc and not parts.query and not parts.fragment
