"""Whether Ray is there, and what to do where it is not."""

import importlib.util

EXTRA = "llm-optimizer[cluster]"


class NotInstalled(ImportError):
    """The extra ``cluster`` is missing."""

    def __init__(self) -> None:
        super().__init__(
            "Ray Serve is not installed here. In a checkout: make cluster. Elsewhere: "
            f"pip install '{EXTRA}'. See docs/cluster.md"
        )


def check_installed() -> None:
    """Raise NotInstalled where Ray Serve cannot be imported."""
    if importlib.util.find_spec("ray") is None:
        raise NotInstalled
