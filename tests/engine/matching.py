"""Whether llama.cpp itself lets a text pass through a grammar."""

import functools
import json
from typing import Any

import llama_cpp.llama_cpp as native

from server.engine.grammar import grammar_of
from server.engine.llamacpp.candidates import CandidateTable
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.model import Model
from server.engine.sampling import compile_grammar
from tests.conftest import EMBEDDED


@functools.cache
def model() -> Model:
    """The embedded model, for its vocabulary."""
    return Library().load_model(EMBEDDED, "CPU", -1)


def accepts_text(form: Any, text: str) -> bool:
    """Feed the tokens of ``text`` to the native grammar, and the token that ends an answer."""
    gbnf = grammar_of(form)
    assert gbnf is not None
    sampler = compile_grammar(model(), gbnf)
    tokens = model().tokenize(text, add_special=False, parse_special=False)
    try:
        return all(_passes(sampler, token) for token in [*tokens, _end()])
    finally:
        native.llama_sampler_free(sampler)


def accepts(form: Any, document: Any) -> bool:
    """Whether ``document``, written without spaces, has the form."""
    return accepts_text(form, json.dumps(document, separators=(",", ":"), ensure_ascii=False))


def _passes(sampler: Any, token: int) -> bool:
    _, verdict = CandidateTable(1).single(token).run([sampler])
    if verdict == float("-inf"):
        return False
    native.llama_sampler_accept(sampler, token)
    return True


@functools.cache
def _end() -> int:
    return next(token for token in range(model().vocabulary_size) if model().ends_generation(token))
