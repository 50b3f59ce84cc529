"""From what the user said, and left unsaid, to the service that runs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from server.client.address import OLLAMAS_PORT, base_url
from server.client.wire import KEY_VARIABLE
from server.commands.configured import settings_of

if TYPE_CHECKING:
    from server.client.service import Service

LISTEN_VARIABLE, OLLAMAS_VARIABLE = "LLM_OPTIMIZER_LISTEN", "OLLAMA_HOST"


def connect(url: str | None, config: Path | None) -> "Service":
    """The service, after a look whether it is one.

    Raises:
        NotThere: nobody answers, or somebody else.
    """
    service = service_at(url, config)
    service.version()
    return service


def service_at(url: str | None, config: Path | None, timeout_s: float | None = None) -> "Service":
    """The service, not asked yet."""
    from server.client.service import Service

    key = os.environ.get(KEY_VARIABLE, "").strip()
    return Service(address_of(url, config, os.environ), key, timeout_s)


def address_of(url: str | None, config: Path | None, environ: Mapping[str, str]) -> str:
    """Its URL: as given, else as Ollama's clients find theirs, else the first that the settings listen on."""
    if url:
        return base_url(url)
    is_said_elsewhere = config is not None or LISTEN_VARIABLE in environ
    if environ.get(OLLAMAS_VARIABLE, "").strip() and not is_said_elsewhere:
        return base_url(environ[OLLAMAS_VARIABLE], OLLAMAS_PORT)
    host, port = settings_of(config, {}).addresses[0]
    return base_url(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
