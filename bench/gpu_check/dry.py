"""A program of its own: the memory plan against what llama.cpp says that it would allocate.

    python -m bench.gpu_check.dry DEVICE GGUF

DEVICE in ggml's words (CPU, CUDA0). Prints one JSON object; nothing is allocated.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bench.memory import Comparison, compare
from server.engine.llamacpp.library import Library
from server.gpu.compute import Shape

SHAPES = (
    Shape(32_768, 512, 71, 20),
    Shape(32_768, 512, 71, 20, kv_type="q8_0", flash_attention="on"),
    Shape(4096, 512, 12, 12, kv_type="q8_0"),
    Shape(4096, 128, 20, 20),
    Shape(8192, 2048, 71, 20),
    Shape(8192, 512, 71, 20, flash_attention="off"),
)
"""The two models as they are by default, and what the plan gives up, or a user may set."""


def worst(device: str, path: Path) -> dict[str, Any]:
    """The shape whose plan is furthest off, and how many shapes were compared."""
    rows: list[Comparison] = list(compare(Library(), path, SHAPES, device))
    furthest = max(rows, key=lambda row: abs(row.off_bytes))
    return {
        "shapes": len(rows),
        "within": sum(row.within for row in rows),
        "off_bytes": furthest.off_bytes,
        "of_bytes": furthest.real_total,
    }


if __name__ == "__main__":
    print(json.dumps(worst(sys.argv[1], Path(sys.argv[2]))))
