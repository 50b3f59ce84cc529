"""The settings on their way to a child process: JSON alone forgets which of them the user has set."""

import json

from server.config import Settings

_MODELS = ("generator", "helper")


def hand_over(settings: Settings) -> str:
    """For a child's standard input."""
    set_by_user = {name: sorted(getattr(settings, name).set_by_user) for name in _MODELS}
    return json.dumps({"settings": settings.model_dump(mode="json"), "set_by_user": set_by_user})


def take_over(text: str) -> Settings:
    """What :func:`hand_over` was given."""
    told = json.loads(text)
    settings = Settings.model_validate_json(json.dumps(told["settings"]))
    models = {name: getattr(settings, name).with_set(told["set_by_user"][name]) for name in _MODELS}
    return settings.model_copy(update=models)
