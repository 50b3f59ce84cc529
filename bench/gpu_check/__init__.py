"""Shows on a real NVIDIA card what the other tests can only compute; see docs/gpu-check.md."""
