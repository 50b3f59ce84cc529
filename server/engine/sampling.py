"""How the next token is picked: llama.cpp's samplers, in the order that Ollama's users expect."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import llama_cpp.llama_cpp as native
import numpy as np

from server.domain.errors import InvalidRequest
from server.domain.generation import Generation, Sampling, TokenScore
from server.engine.llamacpp.candidates import CandidateTable
from server.engine.llamacpp.context import Context, Logits
from server.engine.llamacpp.model import Model


class Row(Protocol):
    """The logits that the model gives for what comes next."""

    def logits(self) -> Logits:
        """One for each token."""

    def sample(self, chain: Any) -> int:
        """Let ``chain`` pick a token and take note of it."""


@dataclass(frozen=True, slots=True)
class DecodedRow:
    """A row of the batch decoded last. ``logits`` are valid until the next one."""

    context: Context
    number: int

    def logits(self) -> Logits:
        """See :class:`Row`."""
        return self.context.logits(self.number)

    def sample(self, chain: Any) -> int:
        """See :class:`Row`."""
        return self.context.sample(chain, self.number)


@dataclass(frozen=True, slots=True)
class KeptRow:
    """Logits of an earlier batch."""

    kept: Logits

    def logits(self) -> Logits:
        """See :class:`Row`."""
        return self.kept

    def sample(self, chain: Any) -> int:
        """See :class:`Row`."""
        token, _ = CandidateTable(len(self.kept)).fill(self.kept).run([chain])
        native.llama_sampler_accept(chain, token)
        return token


class Sampler:
    """Picks the tokens of one generation. Belongs to the engine's thread; must be closed."""

    def __init__(self, model: Model, context: Context, generation: Generation) -> None:
        gbnf = generation.grammar
        self._grammar = None if gbnf is None else compile_grammar(model, gbnf)
        self._candidates = None if gbnf is None else CandidateTable(model.vocabulary_size)
        self._awaited = (generation.grammar_after or "").encode()
        self._beginning = (generation.grammar_unless or "").encode()
        self._seen = b""
        self._model = model
        self._alternatives = generation.alternatives
        self._plain_greedy = gbnf is None and _is_plain_greedy(generation.sampling)
        self._chain = model.chain(_steps(model, context, generation.sampling))

    def remember(self, prompt: Sequence[int]) -> None:
        """Let the penalties know the end of the prompt."""
        for token in prompt:
            native.llama_sampler_accept(self._chain, token)

    def pick(self, row: Row) -> int | None:
        """The next token; None when the grammar leaves nothing to say."""
        if self._plain_greedy:
            return int(row.logits().argmax())
        if self._candidates is None:
            return row.sample(self._chain)
        if self._awaited:
            token = row.sample(self._chain)
            if self._goes_on_freely(self._model.piece(token)):
                return token
            self._awaited = b""
        return self._pick_within_grammar(self._candidates, row.logits())

    def score(self, row: Row, token: int) -> TokenScore | None:
        """How probable the picked ``token`` was, if the generation asks for that."""
        if self._alternatives is None:
            return None
        return score(self._model, row.logits(), token, self._alternatives)

    def close(self) -> None:
        """Free the native samplers."""
        for sampler in (self._chain, self._grammar):
            if sampler is not None:
                native.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def _goes_on_freely(self, piece: bytes) -> bool:
        """Whether a token may be as it is; the grammar holds from the next one on once the awaited text is
        complete, and from this one on where the answer begins with anything but what it should.

        llama.cpp's own lazy grammars end the process when a token runs over the border.
        """
        if self._beginning:
            begun = (self._seen + piece).lstrip()
            if not piece or not (begun.startswith(self._beginning) or self._beginning.startswith(begun)):
                return False
            if begun.startswith(self._beginning):
                self._beginning = b""
        self._seen = self._seen[-len(self._awaited) :] + piece
        if self._awaited in self._seen:
            self._awaited = b""
        return True

    def _pick_within_grammar(self, candidates: CandidateTable, logits: Logits) -> int | None:
        """Pick freely and ask the grammar about that one token; only if it refuses, ask about all."""
        token, _ = candidates.fill(logits).run([self._chain])
        _, verdict = candidates.single(token).run([self._grammar], size=1)
        if verdict == float("-inf"):
            token, logit = candidates.fill(logits).run([self._grammar, self._chain])
            if logit == float("-inf"):
                return None
        native.llama_sampler_accept(self._grammar, token)
        native.llama_sampler_accept(self._chain, token)
        return token


def score(model: Model, logits: Logits, token: int, alternatives: int) -> TokenScore:
    """A token's log probability, and that of the ``alternatives`` likeliest ones."""
    shifted = logits.astype(np.float64) - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    count = min(alternatives, len(logits))
    likeliest = np.argpartition(-logprobs, count - 1)[:count] if count else np.empty(0, np.intp)
    ordered = sorted(likeliest.tolist(), key=lambda other: (-logprobs[other], other))
    return TokenScore(
        token,
        model.piece(token),
        float(logprobs[token]),
        tuple(TokenScore(other, model.piece(other), float(logprobs[other])) for other in ordered),
    )


def compile_grammar(model: Model, gbnf: str) -> Any:
    """A native grammar sampler, to be freed by the caller.

    Raises:
        InvalidRequest: llama.cpp does not take ``gbnf``.
    """
    sampler = model.grammar(gbnf)
    if not sampler:
        raise InvalidRequest("invalid format: llama.cpp cannot build a grammar from this schema")
    return sampler


def check_grammar(model: Model, gbnf: str) -> None:
    """Raise InvalidRequest if ``gbnf`` is no grammar."""
    native.llama_sampler_free(compile_grammar(model, gbnf))


def _steps(model: Model, context: Context, sampling: Sampling) -> list[Any]:
    first = [*_bias(model, sampling), *_penalties(model, context, sampling)]
    if sampling.temperature <= 0:
        return [*first, native.llama_sampler_init_greedy()]
    # llama.cpp takes the largest seed for "random".
    seed = (secrets.randbits(32) if sampling.seed is None else sampling.seed) % 0xFFFFFFFF
    return [
        *first,
        native.llama_sampler_init_top_k(sampling.top_k),
        native.llama_sampler_init_typical(sampling.typical_p, 1),
        native.llama_sampler_init_top_p(sampling.top_p, 1),
        native.llama_sampler_init_min_p(sampling.min_p, 1),
        native.llama_sampler_init_temp(sampling.temperature),
        native.llama_sampler_init_dist(seed),
    ]


def _is_plain_greedy(sampling: Sampling) -> bool:
    """Whether the largest logit is what is wanted, and nothing has a say in it."""
    return sampling.temperature <= 0 and not sampling.logit_bias and not _penalises(sampling)


def _penalises(sampling: Sampling) -> bool:
    return sampling.repeat_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0


def _bias(model: Model, sampling: Sampling) -> list[Any]:
    if not sampling.logit_bias:
        return []
    return [model.logit_bias(sampling.logit_bias)]


def penalised_tokens(sampling: Sampling, context_tokens: int) -> int:
    """How many of the last tokens the penalties look at; 0 when there are none."""
    if not _penalises(sampling):
        return 0
    # llama.cpp allocates what is asked for, be it gigabytes.
    last_n = sampling.repeat_last_n
    return context_tokens if last_n < 0 else min(last_n, context_tokens)


def _penalties(model: Model, context: Context, sampling: Sampling) -> list[Any]:
    last_n = penalised_tokens(sampling, context.context_tokens)
    if last_n == 0:
        return []
    return [
        native.llama_sampler_init_penalties(
            model.vocabulary_size,
            last_n,
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
    ]
