"""From the settings of a model that another server runs to a client for it."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from server.catalogue import Entry
from server.config import ModelSettings, read_key
from server.remote import Api, RemoteModel, RemoteSpec


def client_of(entry: Entry, tell: Callable[[str], None]) -> RemoteModel:
    """``tell`` is called with what goes wrong, once until the server answers again.

    Raises:
        ConfigError: the file of its key cannot be used.
    """
    return RemoteModel(_spec_of(entry), tell)


def _spec_of(entry: Entry) -> RemoteSpec:
    settings = entry.settings
    return RemoteSpec(
        url=_base_of(settings),
        model=settings.remote_model or settings.name,
        api=Api(settings.remote_api),
        key=_key_of(settings.remote_key_file, f"{entry.section}.remote_key_file"),
        context_tokens=settings.context,
        abilities=frozenset(settings.remote_abilities),
        first_token_s=settings.remote_first_token_s,
        silence_s=settings.remote_silence_s,
        retries=settings.remote_retries,
        slots=settings.slots,
        queue=settings.queue,
        exact=settings.remote_count == "auto",
    )


def _base_of(settings: ModelSettings) -> str:
    needs_version = settings.remote_api == "openai" and not urlsplit(settings.remote_url).path
    return f"{settings.remote_url}/v1" if needs_version else settings.remote_url


def _key_of(file: Path | None, setting: str) -> str:
    return "" if file is None else read_key(file, setting)
