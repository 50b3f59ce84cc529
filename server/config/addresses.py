"""URLs of other servers, as the settings name them."""

from urllib.parse import SplitResult, urlsplit


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
