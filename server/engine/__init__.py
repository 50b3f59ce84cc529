"""A model on a device: scheduling, batches, prefix reuse, sampling. Nothing of HTTP or chat."""
