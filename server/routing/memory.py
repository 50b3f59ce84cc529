"""Summaries that were made once: on disk, so that a restart does not make them again."""

import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

from server.domain.chat import Message

logger = logging.getLogger("llm-optimizer")

FILE = "summaries.sqlite3"
_TABLE = """CREATE TABLE IF NOT EXISTS summaries (
    key TEXT PRIMARY KEY, texts TEXT NOT NULL, bytes INTEGER NOT NULL, used INTEGER NOT NULL
) WITHOUT ROWID"""
_BUSY_S = 1.0


class Summaries:
    """Lists of texts by key, at most ``budget_bytes`` of them; those used longest ago go first.

    They lie in ``folder``, readable for its owner only, or in memory where there is none. Nothing here
    raises: a faulty disk is told in the log, once, and whatever was on it is made again. Callable from any
    thread.
    """

    def __init__(self, folder: Path | None, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._complained = False
        self._database = _opened(folder)

    def get(self, key: str) -> tuple[str, ...] | None:
        """The texts of ``key``, which count as used now; None if there are none."""
        try:
            with self._lock, self._database as database:
                row = database.execute("SELECT texts FROM summaries WHERE key = ?", (key,)).fetchone()
                if row is None:
                    return None
                database.execute("UPDATE summaries SET used = ? WHERE key = ?", (self._tick(), key))
                return tuple(json.loads(row[0]))
        except (sqlite3.Error, ValueError) as error:
            self._complain(error)
            return None

    def put(self, key: str, texts: Iterable[str]) -> None:
        """Keep ``texts``, and give up others for their room."""
        encoded = json.dumps(list(texts), ensure_ascii=False)
        size = len(encoded.encode()) + len(key)
        if size > self._budget_bytes:
            return
        try:
            with self._lock, self._database as database:
                database.execute(
                    "INSERT OR REPLACE INTO summaries VALUES (?, ?, ?, ?)", (key, encoded, size, self._tick())
                )
                self._make_room()
        except sqlite3.Error as error:
            self._complain(error)

    def settle(self, key: str, texts: Iterable[str]) -> tuple[str, ...]:
        """What is there for ``key``; where nothing is, ``texts`` from now on."""
        found = self.get(key)
        if found is None:
            found = tuple(texts)
            self.put(key, found)
        return found

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _tick(self) -> int:
        row = self._database.execute("SELECT coalesce(max(used), 0) + 1 FROM summaries").fetchone()
        return int(row[0])

    def _make_room(self) -> None:
        (taken,) = self._database.execute("SELECT coalesce(sum(bytes), 0) FROM summaries").fetchone()
        while taken > self._budget_bytes:
            key, size = self._database.execute(
                "SELECT key, bytes FROM summaries ORDER BY used LIMIT 1"
            ).fetchone()
            self._database.execute("DELETE FROM summaries WHERE key = ?", (key,))
            taken -= size

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("summaries are not kept: %s; they are made anew each time", error)


def chain_keys(scope: str, front: Iterable[Message], history: Iterable[Message]) -> list[str]:
    """A key for each beginning of ``history`` behind ``front``: of none of it, of one message, and so on.

    ``scope`` names all else that a summary depends on.
    """
    digest = hashlib.sha256(scope.encode())
    for message in front:
        _feed(digest, message)
    keys = [digest.hexdigest()]
    for message in history:
        _feed(digest, message)
        keys.append(digest.hexdigest())
    return keys


def _feed(digest: "hashlib._Hash", message: Message) -> None:
    calls = [(call.name, dict(call.arguments)) for call in message.tool_calls]
    digest.update(json.dumps([message.role, message.content, calls], sort_keys=True).encode() + b"\n")


def _opened(folder: Path | None) -> sqlite3.Connection:
    if folder is not None:
        try:
            return _opened_file(folder)
        except (sqlite3.Error, OSError) as error:
            logger.warning("%s cannot be used: %s; summaries do not outlive a restart", folder / FILE, error)
    return _prepared(sqlite3.connect(":memory:", check_same_thread=False))


def _opened_file(folder: Path) -> sqlite3.Connection:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / FILE
    # Before sqlite makes it: its text is private.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)
    try:
        return _prepared(_connected(path))
    except sqlite3.DatabaseError as error:
        logger.warning("%s is damaged and begun anew: %s", path, error)
        path.write_bytes(b"")
        return _prepared(_connected(path))


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)


def _prepared(database: sqlite3.Connection) -> sqlite3.Connection:
    try:
        database.execute("PRAGMA synchronous = NORMAL").close()
        with database:
            database.execute(_TABLE)
    except sqlite3.Error:
        database.close()
        raise
    return database
