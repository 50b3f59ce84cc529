"""What the model made of whole prompts: one that comes again word for word is answered without reading."""

from collections import OrderedDict

from server.engine.llamacpp.context import Logits
from server.engine.prefix import Tokens

_MOST = 8


class Openings:
    """The logits behind the last prompts, from which their answers' first tokens are picked."""

    def __init__(self) -> None:
        self._logits: OrderedDict[bytes, Logits] = OrderedDict()

    def remember(self, prompt: Tokens, logits: Logits) -> None:
        """Keep a copy, and give up the one used longest ago where there are too many."""
        key = prompt.tobytes()
        self._logits[key] = logits.copy()
        self._logits.move_to_end(key)
        if len(self._logits) > _MOST:
            self._logits.popitem(last=False)

    def recall(self, prompt: Tokens) -> Logits | None:
        """The logits behind exactly this prompt, if it is one of the last."""
        key = prompt.tobytes()
        if key not in self._logits:
            return None
        self._logits.move_to_end(key)
        return self._logits[key]
