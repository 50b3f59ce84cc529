"""A program of its own: decodes a batch and a token with a model, on one device.

``python -m server.doctor.decode MODEL DEVICE``. A build that uses instructions which this CPU does not have,
or a virtual machine does not let it use, or that has no code for a card, kills the process at the first
decode: better here, with a remedy, than at the first request.
"""

import sys
import time
from pathlib import Path

import numpy as np

from server.engine.llamacpp.batch import Batch
from server.engine.llamacpp.context import Context, ContextShape
from server.engine.llamacpp.library import Library

_PROMPT_TOKENS = 100
"""A batch takes other code paths than a single token."""


def main(model_path: Path, device: str) -> None:
    """Print how long it took."""
    library = Library()
    model = library.load_model(model_path, device, -1)
    context = model.new_context(_shape(on_gpu=device != "CPU"))
    tokens = model.tokenize("Hello " * _PROMPT_TOKENS, add_special=True)[:_PROMPT_TOKENS]
    started_s = time.monotonic()
    token = _next_token(context, tokens, 0)
    _next_token(context, [token], len(tokens))
    print(f"{time.monotonic() - started_s:.3f}")  # noqa: T201


def _shape(*, on_gpu: bool) -> ContextShape:
    return ContextShape(
        context_tokens=256,
        batch_tokens=128,
        sequences=1,
        outputs=1,
        sequence_outputs=1,
        threads=2,
        kv_type="f16",
        flash_attention="auto",
        on_gpu=on_gpu,
    )


def _next_token(context: Context, tokens: list[int], position: int) -> int:
    batch = Batch(len(tokens))
    row = batch.add(tokens, position, 0, outputs=1)
    context.decode(batch)
    logits = context.logits(row)
    if not np.isfinite(logits).all():
        raise SystemExit("it computes numbers that are none (NaN)")
    return int(logits.argmax())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
