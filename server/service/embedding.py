"""Texts to vectors: counted, cut where they are too long, embedded, cut to the wanted length."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from server.catalogue import Entry
from server.domain.chat import EmbeddingRequest
from server.domain.errors import InvalidRequest, TextTooLong
from server.engine.llamacpp.embedding_context import Vector
from server.engine.llamacpp.model import Model
from server.service.fleet import Fleet
from server.service.noting import note_admitted, note_tokens


@dataclass(frozen=True, slots=True)
class Embedded:
    """A vector of length 1 for each text, in their order. Times run from the request's arrival.

    ``prompt_tokens`` counts what was read of all texts.
    """

    vectors: tuple[Vector, ...]
    prompt_tokens: int
    total_ns: int
    load_ns: int


async def embed(fleet: Fleet, entry: Entry, request: EmbeddingRequest) -> Embedded:
    """Carry out the request; without texts it loads the model.

    Raises:
        TextTooLong: a text does not fit, and may not be cut.
        InvalidRequest: the vectors are shorter than wanted, or nothing of a text can be read.
        ModelLoadFailed, QueueFull, EngineFailed: as everywhere.
    """
    arrived_ns = time.monotonic_ns()
    async with fleet.lease_embedder(entry, keep_alive_s=request.options.keep_alive_s) as loaded:
        load_ns = time.monotonic_ns() - arrived_ns
        note_admitted(request.account, loaded.context_tokens, load_ns)
        _check_dimensions(request.dimensions, loaded.engine.dimensions)
        longest = min(loaded.context_tokens, request.options.context_tokens or loaded.context_tokens)
        texts = await asyncio.to_thread(_tokens_of, loaded.engine.model, request, longest)
        note_tokens(request.account, sum(map(len, texts)))
        vectors = await asyncio.wrap_future(loaded.engine.embed(texts))
    return Embedded(
        tuple(shortened(vector, request.dimensions) for vector in vectors),
        prompt_tokens=sum(map(len, texts)),
        total_ns=time.monotonic_ns() - arrived_ns,
        load_ns=load_ns,
    )


def shortened(vector: Vector, dimensions: int | None) -> Vector:
    """The first ``dimensions`` numbers, made of length 1 again."""
    if dimensions is None or dimensions >= len(vector):
        return vector
    cut = vector[:dimensions]
    length = float(np.linalg.norm(cut))
    return cut / np.float32(length) if length else cut


def without_tail(marked: Sequence[int], plain: Sequence[int], longest_tokens: int) -> list[int]:
    """A text's tokens, cut to ``longest_tokens``: the marks that the model wants around a text stay.

    ``marked`` are all tokens, ``plain`` those without the marks.

    Raises:
        InvalidRequest: nothing of the text is left.
    """
    marks = len(marked) - len(plain)
    room = longest_tokens - marks
    if room < 1:
        raise InvalidRequest("input after truncation exceeds maximum context length")
    size = len(plain)
    before = next((place for place in range(marks) if [*marked[place : place + size]] == [*plain]), marks)
    return [*marked[:before], *plain[:room], *marked[before + size :]]


def _tokens_of(model: Model, request: EmbeddingRequest, longest_tokens: int) -> list[list[int]]:
    return [_tokens(model, text, longest_tokens, truncate=request.truncate) for text in request.texts]


def _tokens(model: Model, text: str, longest_tokens: int, *, truncate: bool) -> list[int]:
    marked = model.tokenize(text, add_special=True, parse_special=False)
    if len(marked) <= longest_tokens:
        return marked
    if not truncate:
        raise TextTooLong(len(marked), longest_tokens)
    plain = model.tokenize(text, add_special=False, parse_special=False)
    return without_tail(marked, plain, longest_tokens)


def _check_dimensions(wanted: int | None, there: int) -> None:
    if wanted is not None and wanted > there:
        raise InvalidRequest(f"dimensions is {wanted}, but the model's vectors have {there}")
