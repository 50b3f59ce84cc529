"""One Ollama-compatible service over two unequal GPUs."""

__version__ = "0.1.0"
