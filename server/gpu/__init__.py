"""The cards: what NVML reads, which is whose, and what fits."""
