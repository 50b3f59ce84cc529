"""The header of a GGUF file: what a model is and what it will cost, without loading it."""
