"""Compares this service with llama.cpp's own llama-server: same model file, same machine, same client."""
