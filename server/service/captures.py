"""Requests as they came, kept in a folder so that they can be replayed; secrets are blanked."""

import contextlib
import datetime
import json
import logging
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

logger = logging.getLogger("llm-optimizer")

BLANKED = "[blanked]"

_SECRET_HEADER = re.compile(r"auth|cookie|credential|key|pass|secret|signature|token", re.IGNORECASE)
_SENSITIVE = (
    "(?:x-)?api[-_]?key|(?:proxy-)?authorization|(?:set-)?cookie|password|(?:client[-_]?)?secret"
    "|(?:access|auth|bearer|refresh|id)[-_]?token"
)
_SECRET_FIELD = re.compile(_SENSITIVE, re.IGNORECASE)
_SECRET_TEXT = re.compile(rf'("(?:{_SENSITIVE})"\s*:\s*)"[^"]*"?', re.IGNORECASE)
_FILE_NAME = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[A-Za-z0-9_.-]{1,128}\.json")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


class Captures:
    """A ring of files: when they take more than ``budget_bytes``, the oldest go. Any thread may call it.

    Only files that are named as its own count, and only those are deleted. Nothing here raises on a faulty
    disk: requests are more important than their copies.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._complained = False

    def add(self, at: datetime.datetime, request_id: str, captured: dict[str, Any]) -> None:
        """Keep a request that arrived at ``at``; blocks."""
        name = f"{at:%Y%m%dT%H%M%S.%fZ}-{_UNSAFE.sub('_', request_id)}.json"
        data = json.dumps(captured, ensure_ascii=False, indent=1).encode("utf-8", "replace")
        with self._lock:
            try:
                self._write(name, data)
            except OSError as error:
                self._complain(error)
            else:
                self._complained = False

    def _write(self, name: str, data: bytes) -> None:
        if len(data) > self._budget_bytes:
            logger.warning("a request of %d MiB is not captured: capture_mib has no room", len(data) // 2**20)
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / name
        # The file must never be there with the rights that the umask leaves.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        self._keep_to_budget()

    def _keep_to_budget(self) -> None:
        """Names begin with the time: the first are the oldest."""
        files = sorted(path for path in self._folder.iterdir() if _FILE_NAME.fullmatch(path.name))
        sizes = [path.lstat().st_size for path in files]
        surplus_bytes = sum(sizes) - self._budget_bytes
        for path, size in zip(files, sizes, strict=True):
            if surplus_bytes <= 0:
                return
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            surplus_bytes -= size

    def _complain(self, error: OSError) -> None:
        """Once, until it works again."""
        if not self._complained:
            self._complained = True
            logger.warning("requests are not captured in %s: %s", self._folder, error)


def blanked_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers without what anybody could use as a key."""
    return {name: BLANKED if _SECRET_HEADER.search(name) else value for name, value in headers}


def blanked_body(value: Any) -> Any:
    """A body without the texts of fields that are named like keys and passwords, at any depth."""
    if isinstance(value, list):
        return [blanked_body(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: BLANKED if isinstance(item, str) and _SECRET_FIELD.fullmatch(key) else blanked_body(item)
        for key, item in value.items()
    }


def blanked_text(text: str) -> str:
    """The same for a body that was meant to be JSON and is none."""
    return _SECRET_TEXT.sub(rf'\1"{BLANKED}"', text)
