"""A model on a device: scheduling, batches, prefix reuse, sampling. Nothing of HTTP or chat."""

import os

# OpenMP reads these when llama.cpp is loaded. Its threads spin while they wait for each other, by
# default for milliseconds: with another busy program on the same cores they then take turns in
# waiting, and generate 0.3 tokens a second instead of 23. A shorter spin costs nothing when an engine
# is alone.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# With more threads in the process than cores, as with two models, libgomp would spin for a tenth of
# that, and an engine beside an idle one would generate 40 tokens a second instead of 95.
os.environ.setdefault("OMP_WAIT_POLICY", "active")
