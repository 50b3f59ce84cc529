"""Models as OpenAI's clients see them."""

from typing import Any

from server.catalogue import Installed


def model_object(model: Installed, name: str | None = None) -> dict[str, Any]:
    """An item of ``/v1/models``; ``name`` is what the client called it. ``context_length`` is not OpenAI's,
    but what programs look for that must know how much a model can read."""
    entry = model.entry
    return {
        "id": name or entry.name.display,
        "object": "model",
        "created": int(model.modified_at.timestamp()),
        "owned_by": entry.name.namespace,
        "context_length": model.window_tokens,
    }
