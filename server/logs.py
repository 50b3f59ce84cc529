"""How the log is written: lines for people, or JSON for programs."""

import datetime
import json
import logging
import sys
from typing import Any

_CONTROLS = {
    code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029) if code != ord("\t")
}
"""What would end a line, or do something to a terminal."""


def set_up_logging(level: str, form: str) -> None:
    """Write everything of ``level`` and above to stderr, as ``text`` or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else PlainLines())
    logging.basicConfig(handlers=[handler], level=level.upper())
    # uvicorn's own lines repeat what is announced already.
    for chatty in ("uvicorn", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class PlainLines(logging.Formatter):
    """With the time, as a journal shows them. Whatever a client has put into a name, it is one line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """The line, without a traceback."""
        return one_line(super().formatMessage(record))


def one_line(text: str) -> str:
    """``text`` without what could pass for a line of the log, or move a terminal's cursor."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(sign: str) -> str:
    return sign if sign.isprintable() else sign.encode("unicode_escape").decode()


class JsonLines(logging.Formatter):
    """An object for each message: time in UTC, level, logger, message, what else is known of it as keys of
    their own, and ``exception`` with the traceback of a bug."""

    def format(self, record: logging.LogRecord) -> str:
        """The object in one line."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        told: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str).translate(_CONTROLS)
