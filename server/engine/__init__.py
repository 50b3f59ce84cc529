"""A model on a device: scheduling, batches, prefix reuse, sampling. Nothing of HTTP or chat."""

import os

# OpenMP reads these when llama.cpp is loaded. Its threads spin while they wait for each other: for about
# a millisecond here, so that they are still awake when the next step comes. Cores that other programs
# take are left to them (see cores.py), since threads that spin there would wait each other to death.
os.environ.setdefault("GOMP_SPINCOUNT", "100000")
# With more threads in the process than cores, as with two models, libgomp would hardly spin at all, and
# an engine beside an idle one would generate 40 tokens a second instead of 95.
os.environ.setdefault("OMP_WAIT_POLICY", "active")
