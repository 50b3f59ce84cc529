"""How long OpenMP's threads should spin while they wait: engines alone and two at once.

    .venv/bin/python bench/spin.py [GGUF]

Decodes single tokens for two seconds in child processes, with each setting of GOMP_SPINCOUNT in
turn and all of it repeated, so that a noisy machine disturbs every setting alike. Prints medians in
tokens a second. 300000 is about what libgomp takes by itself. The service's default stands in
``server/engine/__init__.py``.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from server.engine.llamacpp.batch import Batch
from server.engine.llamacpp.context import ContextShape
from server.engine.llamacpp.library import Library

PROJECT = Path(__file__).resolve().parents[1]
EMBEDDED = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SETTINGS = ("300000", "100000", "10000", "1000")
ROUNDS = 3
SECONDS = 2.0


def tokens_a_second(model_file: Path) -> float:
    """Decode one sequence, a token at a time, as an engine does for a single answer."""
    library = Library()
    model = library.load_model(model_file, "CPU", -1)
    shape = ContextShape(
        context_tokens=2048,
        batch_tokens=128,
        sequences=1,
        outputs=1,
        sequence_outputs=1,
        threads=2,
        kv_type="f16",
        flash_attention="auto",
        on_gpu=False,
    )
    context = model.new_context(shape)
    batch = Batch(1)
    started, count = time.monotonic(), 0
    while time.monotonic() - started < SECONDS:
        batch.clear()
        batch.add([1], count, 0, outputs=1)
        context.decode(batch)
        count += 1
    return count / (time.monotonic() - started)


def run(setting: str, processes: int, model_file: Path) -> list[float]:
    """The speed of each of so many processes at once."""
    environment = {**os.environ, "GOMP_SPINCOUNT": setting, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, __file__, "--child", str(model_file)]
    children = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return [float(child.communicate()[0]) for child in children]


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--child"]:
        print(tokens_a_second(Path(sys.argv[2])))
        return
    model_file = Path(sys.argv[1]) if len(sys.argv) > 1 else EMBEDDED
    speeds: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for setting in SETTINGS:
            for processes in (1, 2):
                speeds.setdefault((setting, processes), []).extend(run(setting, processes, model_file))
    print(f"{'GOMP_SPINCOUNT':>14} {'alone':>8} {'each of two':>12}   tokens/s, {model_file.name}")
    for setting in SETTINGS:
        alone, beside = (statistics.median(speeds[setting, processes]) for processes in (1, 2))
        print(f"{setting:>14} {alone:>8.1f} {beside:>12.1f}")


if __name__ == "__main__":
    main()
