"""Loaded weights and their vocabulary, and the way to a context for them."""

import ctypes
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native

from server.domain.errors import EngineFailed, ModelLoadFailed
from server.engine.llamacpp.context import Context, ContextShape
from server.engine.llamacpp.log import NativeLog, reason
from server.engine.ownmemory import give_holes_back


class Model:
    """Loaded weights and their vocabulary."""

    def __init__(self, log: NativeLog, pointer: Any, path: Path) -> None:
        self._log = log
        self.pointer = pointer
        self.path = path
        self._lock = threading.Lock()
        self._vocabulary = native.llama_model_get_vocab(pointer)
        self._ends: dict[int, bool] = {}
        self.vocabulary_size = int(native.llama_vocab_n_tokens(self._vocabulary))
        self.trained_context_tokens = int(native.llama_model_n_ctx_train(pointer))
        self.size_bytes = int(native.llama_model_size(pointer))
        self.recurrent = bool(
            native.llama_model_is_recurrent(pointer) or native.llama_model_is_hybrid(pointer)
        )
        self.windowed = bool(native.llama_model_n_swa(pointer))
        self.adds_bos = bool(native.llama_vocab_get_add_bos(self._vocabulary))
        self.bos = self._special_text(native.llama_vocab_bos(self._vocabulary))
        self.eos = self._special_text(native.llama_vocab_eos(self._vocabulary))

    def new_context(self, shape: ContextShape) -> Context:
        """Allocate KV cache and compute buffers.

        Raises:
            ModelLoadFailed: the device has no room, or the shape does not fit the model.
        """
        params = shape.native()
        complaints = self._log.listen()
        pointer = native.llama_init_from_model(self.pointer, params)
        if not pointer:
            raise ModelLoadFailed(
                f"no context of {shape.context_tokens} tokens for {self.path}: {reason(complaints)}"
            )
        return Context(pointer, shape, self.vocabulary_size, complaints)

    @property
    def infill_tokens(self) -> tuple[int, int, int] | None:
        """Tokens for prefix, suffix and middle of a fill-in-the-middle prompt; None without them."""
        vocabulary = self._vocabulary
        tokens = (
            int(native.llama_vocab_fim_pre(vocabulary)),
            int(native.llama_vocab_fim_suf(vocabulary)),
            int(native.llama_vocab_fim_mid(vocabulary)),
        )
        return None if min(tokens) < 0 else tokens

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``. ``parse_special`` reads ``<|...|>`` as the control tokens they name.

        Raises:
            EngineFailed: the model was unloaded in between, or the text is absurdly large.
        """
        data = text.encode("utf-8", "replace")
        with self._lock:
            if self.pointer is None:
                raise EngineFailed("the model was unloaded while the request was being prepared")
            room = len(data) + 8
            tokens = (native.llama_token * room)()
            count = native.llama_tokenize(
                self._vocabulary, data, len(data), tokens, room, add_special, parse_special
            )
        if count < 0:
            raise EngineFailed(f"the text of {len(data)} bytes could not be split into tokens")
        return tokens[:count]

    def piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for; empty for control tokens."""
        return self._piece(token, special=False)

    def text(self, tokens: Sequence[int]) -> str:
        """What ``tokens`` say together, control tokens by their names; U+FFFD for half a character.

        Raises:
            EngineFailed: the model was unloaded in between.
        """
        with self._lock:
            if self.pointer is None:
                raise EngineFailed("the model was unloaded while the request was being prepared")
            pieces = [self._piece(token, special=True) for token in tokens]
        return b"".join(pieces).decode("utf-8", "replace")

    def ends_generation(self, token: int) -> bool:
        """Whether ``token`` is the model's way to say that it has finished."""
        if token not in self._ends:
            self._ends[token] = bool(native.llama_vocab_is_eog(self._vocabulary, token))
        return self._ends[token]

    def first_message_end(self, tokens: Sequence[int]) -> int:
        """Length of the beginning of ``tokens`` that ends with the first end of a message; 0 without one."""
        return next((place for place, token in enumerate(tokens, 1) if self.ends_generation(token)), 0)

    def last_message_end(self, tokens: Sequence[int]) -> int:
        """Length of the beginning of ``tokens`` that ends with the last end of a message; 0 without one."""
        return next(
            (place for place in range(len(tokens), 0, -1) if self.ends_generation(tokens[place - 1])), 0
        )

    def close(self) -> None:
        """Free the weights; every context of the model must be closed before."""
        with self._lock:
            if self.pointer is not None:
                native.llama_model_free(self.pointer)
                self.pointer = None
                give_holes_back()

    def chain(self, samplers: Sequence[Any]) -> Any:
        """A native sampler chain of ``samplers``; it owns them."""
        chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
        for sampler in samplers:
            native.llama_sampler_chain_add(chain, sampler)
        return chain

    def grammar(self, gbnf: str) -> Any:
        """A native sampler that allows only what ``gbnf`` allows; None where it is no grammar."""
        return native.llama_sampler_init_grammar(self._vocabulary, gbnf.encode(), b"root")

    def logit_bias(self, bias: Sequence[tuple[int, float]]) -> Any:
        """A native sampler that adds to the logits of some tokens."""
        entries = (native.llama_logit_bias * len(bias))(*(native.llama_logit_bias(*entry) for entry in bias))
        return native.llama_sampler_init_logit_bias(self.vocabulary_size, len(bias), entries)

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else self._piece(token, special=True).decode("utf-8", "replace")

    def _piece(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = native.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length
