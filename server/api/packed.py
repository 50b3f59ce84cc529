"""Bodies that clients have compressed: Codex sends zstd, other programs gzip."""

import zlib

import zstandard

from server.domain.errors import BodyTooLarge, InvalidRequest

MOST_ENCODINGS = 3
"""One after the other; each may take as long as the first."""

_GZIP_OR_ZLIB = zlib.MAX_WBITS + 32
_LARGEST_WINDOW_BYTES = 2**23
"""Memory that a zstd frame may claim before it has unpacked anything; RFC 8878 asks for no more."""


def unpacked(body: bytes, encodings: str, most_bytes: int) -> bytes:
    """``body`` without what ``encodings``, a ``Content-Encoding``, says was done to it. Blocks.

    Raises:
        InvalidRequest: it is something else, or is damaged.
        BodyTooLarge: it would have more than ``most_bytes``: a few kilobytes can unpack to gigabytes.
    """
    names = [name.strip() for name in encodings.casefold().split(",")]
    if len(names) > MOST_ENCODINGS:
        raise InvalidRequest(
            f"Content-Encoding names {len(names)} encodings; at most {MOST_ENCODINGS} are undone"
        )
    for name in reversed(names):
        body = _unpacked_once(body, name, most_bytes)
    return body


def _unpacked_once(body: bytes, name: str, most_bytes: int) -> bytes:
    if name in ("", "identity"):
        return body
    try:
        plain = _plain(body, name, most_bytes)
    except (zlib.error, zstandard.ZstdError) as error:
        raise InvalidRequest(f"the request body is not {name}, as Content-Encoding says: {error}") from error
    if len(plain) > most_bytes:
        raise BodyTooLarge(most_bytes)
    return plain


def _plain(body: bytes, name: str, most_bytes: int) -> bytes:
    """At most one byte more than is allowed."""
    if name == "zstd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW_BYTES)
        with decompressor.stream_reader(body) as reader:
            return reader.read(most_bytes + 1)
    if name in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, most_bytes + 1)
    raise InvalidRequest(
        f"Content-Encoding: {name} is not supported; send the body as it is, or as gzip, deflate or zstd"
    )
