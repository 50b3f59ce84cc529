"""The file with the keys of those who may ask."""

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from server.config.errors import ConfigError

_HASHED = re.compile(r"sha256:([0-9a-f]{64})")
_SHORTEST_CHARS = 16
"""Anything shorter can be guessed, and its hash be turned back into it."""
_LARGEST_BYTES = 2**20
_READ_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH
_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Right(StrEnum):
    """What a key is for: to ask models, or to change what there is and see what others asked."""

    USE = "use"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Key:
    """A key by the sha256 of its text. Limits that are None are those of the settings."""

    name: str
    digest: bytes
    rights: frozenset[Right]
    body_mib: int | None = None
    requests: int | None = None
    answer_tokens: int | None = None


def _check_key(key: str) -> str:
    if key.startswith("sha256:") and not _HASHED.fullmatch(key):
        raise ValueError("must be sha256: and 64 hexadecimal digits in lower case")
    if len(key) < _SHORTEST_CHARS:
        raise ValueError(f"must have {_SHORTEST_CHARS} characters or more: openssl rand -hex 32 makes one")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("must be of ASCII characters without spaces, as a header can hold them")
    return key


class _Table(BaseModel, frozen=True, extra="forbid", strict=True):
    key: Annotated[str, AfterValidator(_check_key)]
    rights: list[Annotated[Right, Field(strict=False)]] = Field(default=[Right.USE], min_length=1)
    body_mib: int | None = Field(default=None, ge=1, le=2048)
    requests: int | None = Field(default=None, ge=1, le=100_000)
    answer_tokens: int | None = Field(default=None, ge=1, le=1_048_576)

    def named(self, name: str) -> Key:
        """The key that this table is about."""
        hashed = _HASHED.fullmatch(self.key)
        digest = bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(self.key.encode()).digest()
        return Key(name, digest, frozenset(self.rights), self.body_mib, self.requests, self.answer_tokens)


def read_keys(file: Path | None) -> tuple[Key, ...]:
    """The keys of ``file``: a TOML table for each, by its name. No file: no keys.

    Raises:
        ConfigError: it cannot be read, others may read or write it, or it holds something else.
    """
    if file is None:
        return ()
    text, status = _read(file, "keys_file")
    tables = _tables(file, text)
    secret = any(not _HASHED.fullmatch(table.key) for table in tables.values())
    if reason := fault_of(status, os.geteuid(), secret=secret):
        raise ConfigError(f"keys_file = {file}: {reason}")
    keys = tuple(table.named(name) for name, table in tables.items())
    if len({key.digest for key in keys}) < len(keys):
        raise ConfigError(f"keys_file = {file}: two names must not have the same key")
    return keys


def read_key(file: Path, setting: str) -> str:
    """The key that is all that ``file`` holds; ``setting`` names it.

    Raises:
        ConfigError: it cannot be read, others may read it, or it holds no key.
    """
    text, status = _read(file, setting)
    if reason := fault_of(status, os.geteuid(), secret=True):
        raise ConfigError(f"{setting} = {file}: {reason}")
    key = text.decode("utf-8", errors="replace").strip()
    if not (key and key.isascii() and key.isprintable() and len(key.split()) == 1):
        raise ConfigError(f"{setting} = {file}: must hold one key and nothing else")
    return key


def fault_of(status: os.stat_result, user: int, *, secret: bool) -> str | None:
    """What is wrong with a key file that has this ``status``, for a service that runs as ``user``.

    ``secret``: it holds keys themselves, and not only their hashes.
    """
    if not stat.S_ISREG(status.st_mode):
        return "must be a file"
    if status.st_uid not in (0, user):
        return f"belongs to user {status.st_uid}: chown it to root or to the user of the service"

    if status.st_mode & _WRITTEN_BY_OTHERS:
        return f"others may write it (mode {stat.S_IMODE(status.st_mode):04o}): chmod go-w"
    if secret and status.st_mode & _READ_BY_OTHERS:
        return (
            f"others may read its keys (mode {stat.S_IMODE(status.st_mode):04o}): "
            'chmod 600, or let it hold hashes ("sha256:...") only'
        )
    return None


def _read(file: Path, setting: str) -> tuple[bytes, os.stat_result]:
    try:
        # What is checked is what is read, whatever happens to the name meanwhile; a pipe is not waited for.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as opened:
            return opened.read(_LARGEST_BYTES), os.fstat(opened.fileno())
    except OSError as error:
        raise ConfigError(f"{setting} = {file}: cannot be read: {error.strerror or error}") from None


def _tables(file: Path, text: bytes) -> Mapping[str, _Table]:
    try:
        found: dict[str, Any] = tomllib.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"keys_file = {file}: not valid TOML: {error}") from None
    if not found:
        raise ConfigError(f"keys_file = {file}: holds no key; without it, leave the setting empty")
    return {name: _table(file, name, value) for name, value in found.items()}


def _table(file: Path, name: str, value: Any) -> _Table:
    try:
        return _Table.model_validate(value)
    except ValidationError as error:
        # The input is left out: it may be a key.
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join([name, *(str(part) for part in fault["loc"])])
        reason = str(fault.get("ctx", {}).get("error", fault["msg"]))
        raise ConfigError(f"keys_file = {file}: {place}: {reason}") from None
