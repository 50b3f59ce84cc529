"""A model on a device: scheduling, batches, prefix reuse, sampling. Nothing of HTTP or chat."""

import os

# OpenMP reads this when llama.cpp is loaded. Its threads spin while they wait for each other, by
# default for milliseconds: two engines on the same cores then take turns in waiting, and generate
# 0.3 tokens a second instead of 23. A shorter spin costs nothing when an engine is alone.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
