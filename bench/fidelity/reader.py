"""A model that reads prompts and keeps what they have in common with the one before. No server around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from server.domain.errors import EngineFailed
from server.engine.cores import CoreWatch
from server.engine.llamacpp.batch import Batch
from server.engine.llamacpp.context import Context, ContextShape, DecodeResult, Logits
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.model import Model

BATCH_TOKENS = 512
SCORED_AT_ONCE = 64
"""Each scored token takes a row of logits, as long as the vocabulary."""


@dataclass(frozen=True)
class Read:
    """What a prompt took until the first token of its answer was there."""

    new_tokens: int
    seconds: float


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with together."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def open_model(path: Path) -> Model:
    """The weights, for the CPU. Raises ModelLoadFailed."""
    return Library().load_model(path, "CPU", 0)


class Reader:
    """One conversation after another in one context of ``context_tokens``."""

    def __init__(self, model: Model, context_tokens: int, threads: int) -> None:
        shape = ContextShape(
            context_tokens=context_tokens,
            batch_tokens=BATCH_TOKENS,
            sequences=1,
            outputs=SCORED_AT_ONCE,
            sequence_outputs=SCORED_AT_ONCE,
            threads=threads,
            kv_type="f16",
            flash_attention="auto",
            on_gpu=False,
        )
        self._model = model
        self._context: Context = model.new_context(shape)
        self._batch = Batch(BATCH_TOKENS)
        self._held: list[int] = []
        self._cores = CoreWatch(threads)

    def tokens(self, text: str) -> list[int]:
        """A prompt as the model takes it."""
        return self._model.tokenize(text, add_special=True)

    def read(self, prompt: Sequence[int]) -> Read:
        """Read a prompt up to the first token of an answer."""
        started = perf_counter()
        new = self._hold(prompt[:-1]) + 1
        self._next_token(prompt[-1])
        return Read(new, perf_counter() - started)

    def answer(self, prompt: Sequence[int], most_tokens: int) -> str:
        """The likeliest words, token by token."""
        self._hold(prompt[:-1])
        said: list[int] = []
        token = prompt[-1]
        while len(said) < most_tokens:
            token = self._next_token(token)
            if self._model.ends_generation(token):
                break
            said.append(token)
        return self._model.text(said)

    def scores(self, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
        """The log probability of each token of ``answer``, had the model said those before it."""
        self._hold(prompt[:-1])
        found: list[float] = []
        asked = [prompt[-1], *answer[:-1]]
        for start in range(0, len(asked), SCORED_AT_ONCE):
            part = asked[start : start + SCORED_AT_ONCE]
            self._decode(part, outputs=len(part))
            found += (
                _log_probability(self._context.logits(row), answer[start + row]) for row in range(len(part))
            )
        return found

    def close(self) -> None:
        """Free the context; the model is the caller's."""
        self._context.close()

    def _hold(self, tokens: Sequence[int]) -> int:
        """Bring the context to hold exactly ``tokens``; how many of them had to be read."""
        common = common_start(self._held, tokens)
        self._context.cut(0, common)
        del self._held[common:]
        for start in range(common, len(tokens), BATCH_TOKENS):
            self._decode(tokens[start : start + BATCH_TOKENS], outputs=0)
        return len(tokens) - common

    def _next_token(self, token: int) -> int:
        row = self._decode([token], outputs=1)
        return int(np.argmax(self._context.logits(row)))

    def _decode(self, tokens: Sequence[int], outputs: int) -> int:
        self._batch.clear()
        # As the service does: threads on cores that other programs use would hold up all others.
        if (threads := self._cores.threads()) is not None:
            self._context.use_threads(threads)
        row = self._batch.add(tokens, len(self._held), 0, outputs=outputs)
        if self._context.decode(self._batch) is not DecodeResult.DONE:
            raise EngineFailed(f"a prompt of {len(self._held) + len(tokens)} tokens does not fit its context")
        self._held += tokens
        return row


def _log_probability(logits: Logits, token: int) -> float:
    exact = logits.astype(np.float64)
    highest = exact.max()
    return float(exact[token] - highest - np.log(np.exp(exact - highest).sum()))
