"""Texts to tokens and back, in a model's own vocabulary. Threads, as texts may be long."""

import asyncio
from collections.abc import Sequence

from server.service.loaded import Loaded


async def tokens_of(loaded: Loaded, text: str, *, add_special: bool, parse_special: bool) -> tuple[int, ...]:
    """Token ids of ``text``. ``add_special`` puts in front what every prompt begins with; ``parse_special``
    reads ``<|...|>`` as the control tokens they name."""

    def split() -> tuple[int, ...]:
        model = loaded.engine.model
        return tuple(model.tokenize(text, add_special=add_special, parse_special=parse_special))

    return await asyncio.to_thread(split)


async def text_of(loaded: Loaded, tokens: Sequence[int]) -> str:
    """What ``tokens`` say.

    Raises:
        InvalidRequest: one of them is none of the model's.
    """
    loaded.check_tokens("tokens", tokens)
    return await asyncio.to_thread(loaded.engine.model.text, tokens)
