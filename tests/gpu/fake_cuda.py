"""``llm-optimizer`` on cards that are CUDA's in name only: all is real but the cards, and the CPU computes.

``python -m tests.gpu.fake_cuda serve ...`` with the environment of :class:`tests.gpu.fake_nvml.FakeNvml`.
What models take of a card is told to the fake NVML as this process's memory there, and where it has no more,
the process ends as ggml ends it. More lines of the script: ``holds DEVICE MIB`` is what it really has, and
``leaks DEVICE`` lets it give nothing back.
"""

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import server.app
import server.service.fleet
import server.service.guard
from server.cli import main
from server.engine.gguf.reader import read_header
from server.engine.llamacpp.context import Context, ContextShape
from server.engine.llamacpp.devices import Device
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.model import Model
from server.engine.spec import Share
from server.service.gate import Gate
from tests.gpu.fake_nvml import NAMES, PCI_BUS_IDS, TOTAL_MIB

MIB = 2**20
LOOK_S = 0.1
PATIENCE_S = 0.5
SCRIPT = Path(os.environ["FAKE_NVML_SCRIPT"])


class Cards:
    """What models have taken of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: Counter[int] = Counter()

    def take(self, card: int, size_bytes: int) -> Callable[[], None]:
        """Take memory; returns how to give it back. Ends the process where there is none."""
        with self._lock:
            self._change(card, size_bytes)
            if self._taken[card] > holds_mib(card) * MIB:
                os.abort()
        return partial(self._give_back, card, size_bytes)

    def _give_back(self, card: int, size_bytes: int) -> None:
        with self._lock:
            if ["leaks", str(card)] not in orders():
                self._change(card, -size_bytes)

    def _change(self, card: int, size_bytes: int) -> None:
        self._taken[card] += size_bytes
        lines = (
            f"process {card} {os.getpid()} {size // MIB}\n" for card, size in self._taken.items() if size
        )
        part = SCRIPT.with_suffix(".taking")
        part.write_text("".join(lines))
        part.replace(f"{SCRIPT}.taken")


class FakeCuda(Library):
    """Two cards that are CUDA's, faster one first as on NVML's side."""

    def __init__(self) -> None:
        super().__init__()
        self._cards = Cards()

    def devices(self) -> tuple[Device, ...]:
        cards = (
            Device(f"CUDA{number}", name, True, bus, total * MIB, total * MIB)
            for number, (name, bus, total) in enumerate(zip(NAMES, PCI_BUS_IDS, TOTAL_MIB, strict=True))
        )
        return (*cards, *super().devices())

    def load_model(
        self,
        path: Path,
        device: str,
        gpu_layers: int,
        progress: Callable[[float], bool] | None = None,
        *,
        dry: bool = False,
        shares: Sequence[Share] = (),
    ) -> Model:
        model = super().load_model(path, "CPU", gpu_layers, progress, dry=dry)
        if device.startswith("CUDA"):
            self._put_on_card(model, int(device.removeprefix("CUDA")))
        return model

    def _put_on_card(self, model: Model, card: int) -> None:
        give_back = self._cards.take(card, model.size_bytes)
        new_context, close, header = model.new_context, model.close, read_header(model.path)

        def new_context_on_card(shape: ContextShape) -> Context:
            kv_bytes = shape.context_tokens * (header.kv_bytes_per_token(shape.kv_type) or 0)
            free = self._cards.take(card, kv_bytes)
            context = new_context(shape)
            context.close = _both(context.close, free)  # type: ignore[method-assign]
            return context

        model.new_context = new_context_on_card  # type: ignore[method-assign]
        model.close = _both(close, give_back)  # type: ignore[method-assign]


def holds_mib(card: int) -> int:
    """What the script says, or all."""
    told = [int(words[2]) for words in orders() if words[:2] == ["holds", str(card)]]
    return told[-1] if told else TOTAL_MIB[card]


def orders() -> list[list[str]]:
    """The script's lines in words."""
    return [line.split() for line in SCRIPT.read_text().splitlines()] if SCRIPT.exists() else []


def _both(close: Callable[[], None], free: Callable[[], None]) -> Callable[[], None]:
    to_free = [free]

    def close_and_free() -> None:
        close()
        while to_free:
            to_free.pop()()

    return close_and_free


if __name__ == "__main__":
    server.app.Library = FakeCuda  # type: ignore[misc]
    server.service.guard.LOOK_S = LOOK_S
    server.service.fleet.Gate = partial(Gate, PATIENCE_S)  # type: ignore[misc, assignment]
    sys.argv[0] = "llm-optimizer"
    main()
