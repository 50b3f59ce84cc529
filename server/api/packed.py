"""Bodies that clients have compressed: Codex sends zstd, other programs gzip."""

import zlib

import zstandard

from server.domain.errors import InvalidRequest

LARGEST_BYTES = 256 * 2**20
"""A few kilobytes can unpack to gigabytes."""

_GZIP_OR_ZLIB = zlib.MAX_WBITS + 32


def unpacked(body: bytes, encodings: str) -> bytes:
    """``body`` without what ``encodings``, a ``Content-Encoding``, says was done to it.

    Raises:
        InvalidRequest: it is something else, is damaged, or is too large.
    """
    for name in reversed(encodings.casefold().split(",")):
        body = _unpacked_once(body, name.strip())
    return body


def _unpacked_once(body: bytes, name: str) -> bytes:
    if name in ("", "identity"):
        return body
    try:
        plain = _plain(body, name)
    except (zlib.error, zstandard.ZstdError) as error:
        raise InvalidRequest(f"the request body is not {name}, as Content-Encoding says: {error}") from error
    if len(plain) > LARGEST_BYTES:
        raise InvalidRequest(f"the request body has more than {LARGEST_BYTES // 2**20} MiB when unpacked")
    return plain


def _plain(body: bytes, name: str) -> bytes:
    """At most one byte more than is allowed."""
    if name == "zstd":
        with zstandard.ZstdDecompressor().stream_reader(body) as reader:
            return reader.read(LARGEST_BYTES + 1)
    if name in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, LARGEST_BYTES + 1)
    raise InvalidRequest(
        f"Content-Encoding: {name} is not supported; send the body as it is, or as gzip, deflate or zstd"
    )
