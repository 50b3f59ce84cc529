"""Bodies of ``/v1/embeddings``: JSON to the domain, and vectors to JSON."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from server.api.bodies import Lenient, shown
from server.api.options import read_keep_alive, read_options
from server.domain.chat import EmbeddingRequest, RunOptions
from server.domain.errors import InvalidRequest

FLOAT, BASE64 = "float", "base64"


class EmbeddingsBody(Lenient):
    """``POST /v1/embeddings``. ``truncate``, ``options`` and ``keep_alive`` are Ollama's."""

    model: str = ""
    input: Any = None
    dimensions: int | None = None
    encoding_format: str = FLOAT
    truncate: bool = True
    options: dict[str, Any] = Field(default_factory=dict)
    keep_alive: Any = None

    def to_domain(self) -> EmbeddingRequest:
        """Raises InvalidRequest."""
        if not self.model:
            raise InvalidRequest("model is required")
        if self.encoding_format not in (FLOAT, BASE64):
            raise InvalidRequest(
                f'encoding_format must be "{FLOAT}" or "{BASE64}", but it is {shown(self.encoding_format)}'
            )
        if self.dimensions is not None and self.dimensions < 1:
            raise InvalidRequest(f"dimensions must be at least 1, but it is {shown(self.dimensions)}")
        return EmbeddingRequest(
            model=self.model,
            texts=_texts(self.input),
            dimensions=self.dimensions,
            truncate=self.truncate,
            options=self._options(),
            route="/v1/embeddings",
        )

    def _options(self) -> RunOptions:
        return replace(read_options(self.options), keep_alive_s=read_keep_alive(self.keep_alive))


def _texts(given: Any) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return tuple(texts)
    raise InvalidRequest(
        f"invalid input: it must be a string or an array of strings, but it is {shown(given)}; "
        "send the text where you have token ids"
    )


def embeddings_object(
    body: EmbeddingsBody, vectors: Sequence[ArrayLike], prompt_tokens: int
) -> dict[str, Any]:
    """The whole answer."""
    data = [
        {"object": "embedding", "embedding": _encoded(vector, body.encoding_format), "index": index}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "data": data, "model": body.model, "usage": usage}


def _encoded(vector: ArrayLike, form: str) -> list[float] | str:
    # Little-endian on every machine: the clients read the bytes as they come.
    numbers = np.asarray(vector, dtype="<f4")
    if form == BASE64:
        return base64.b64encode(numbers.tobytes()).decode()
    return [float(number) for number in numbers]
