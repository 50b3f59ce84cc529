"""What a message says: a text, or parts of it with images in between."""

import base64
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from server.api.bodies import shown
from server.domain.errors import InvalidRequest

_TEXTS: Mapping[str, str] = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
"""Types of parts that are words, and the key that holds them."""

_IMAGES = ("image_url", "input_image")
_DATA_URL = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp))?;base64,", re.IGNORECASE)


class Content(NamedTuple):
    """Words, and images as base64 text."""

    text: str
    images: tuple[str, ...] = ()


def read_content(place: str, value: Any) -> Content:
    """Text parts become one text, a line each, as llama.cpp's own server joins them: parts that became
    messages of their own would change the prompt.

    Raises:
        InvalidRequest: naming ``place``, which is where the client wrote ``value``.
    """
    if isinstance(value, str):
        return Content(value)
    if not isinstance(value, list):
        raise InvalidRequest(
            f"invalid message content type: {place} must be a string or an array of parts, "
            f"but it is {shown(value)}"
        )
    parts = [_part(f"{place}.{number}", part) for number, part in enumerate(value)]
    texts = "\n".join(part for part in parts if isinstance(part, str))
    return Content(texts, tuple(part.base64 for part in parts if isinstance(part, _Image)))


class _Image(NamedTuple):
    base64: str


def _part(place: str, part: Any) -> str | _Image:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _IMAGES:
        return _Image(_image(place, part.get("image_url")))
    if not isinstance(kind, str) or kind not in _TEXTS:
        raise InvalidRequest(
            f"invalid message format: {place} must be a text or an image, but it is {shown(part)}"
        )
    text = part.get(_TEXTS[kind])
    if not isinstance(text, str):
        raise InvalidRequest(f"{place}.{_TEXTS[kind]} must be a string, but it is {shown(text)}")
    return text


def _image(place: str, held: Any) -> str:
    url = held.get("url") if isinstance(held, Mapping) else held
    found = _DATA_URL.match(url) if isinstance(url, str) else None
    if found is None:
        raise InvalidRequest(
            f"invalid image input: {place}.image_url must be a data: URL with the base64 of a JPEG, PNG or "
            f"WebP, but it is {shown(held)}; nothing is fetched from elsewhere"
        )
    data = found.string[found.end() :]
    try:
        base64.b64decode(data, validate=True)
    except ValueError as error:
        raise InvalidRequest(f"invalid image input: {place}: illegal base64 data: {error}") from error
    return data
