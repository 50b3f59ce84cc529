"""Renders one chat template, as a program of its own that may do nothing else.

:mod:`server.chat.renderer` starts it by its file's name: it imports nothing of this package. Jinja's sandbox
keeps a template away from Python's insides but limits neither time nor memory, and has had holes. Here the
kernel sets the limits: no file or socket can be opened, memory ends somewhere, and so does each rendering.

From standard input come 8 bytes of length and JSON: first the template's source as a text, then the variables
of each rendering as an object. To standard output go a ``+`` or ``-``, 8 bytes of length and the prompt or
the reason.
"""

import contextlib
import datetime
import json
import math
import pprint
import resource
import signal
import sys
from types import ModuleType
from typing import Any, BinaryIO, NoReturn

from jinja2 import Template, TemplateError, constants, debug
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S = 2
"""Time of a processor that one rendering may take; long sessions take some thousandths of it."""

MEMORY_BYTES = 2**30
"""Address space, the interpreter's own included."""

_LENGTH_BYTES = 8
_LONGEST_REASON_CHARS = 500
_OPEN_FILES = 3

IMPORTED_LATE: tuple[ModuleType, ...] = (constants, debug, pprint)
"""Jinja imports these when it needs them, and no file can be opened then."""

_REFUSALS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What a template raises when it meets what it was not written for; it runs as Python code."""


def main() -> None:
    """Answer until the input ends."""
    asked, told = sys.stdin.buffer, sys.stdout.buffer
    # They are for the service, which ends this program by closing its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    environment = _environment()
    _warm_up(environment)
    _shut_in()
    template: Template | None = None
    while (message := _next(asked)) is not None:
        _limit_time()
        try:
            if template is None:
                template, answer = environment.from_string(message), ""
            else:
                answer = template.render(message)
            sign, told_bytes = b"+", answer.encode("utf-8", "surrogatepass")
        except _REFUSALS as error:
            sign, told_bytes = b"-", _reason(error).encode("utf-8", "replace")
        told.write(sign + len(told_bytes).to_bytes(_LENGTH_BYTES, "big") + told_bytes)
        told.flush()


def _next(asked: BinaryIO) -> Any:
    length = asked.read(_LENGTH_BYTES)
    return json.loads(asked.read(int.from_bytes(length, "big"))) if length else None


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"it takes more than {MEMORY_BYTES // 2**20} MiB of memory"
    return str(error)[:_LONGEST_REASON_CHARS]


def _warm_up(environment: ImmutableSandboxedEnvironment) -> None:
    """Use what is read from files when it is first used: the time zone, and a codec for texts."""
    with contextlib.suppress(ZeroDivisionError):
        environment.from_string("{{ strftime_now('%Z\\n\\u00e9') }}{{ 1 // 0 }}").render()


def _shut_in() -> None:
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(kind, (most, most))


def _limit_time() -> None:
    """From now on; the kernel kills whoever takes longer, even within one long operation."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until_s = math.ceil(used.ru_utime + used.ru_stime) + CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (until_s, resource.RLIM_INFINITY))


def _environment() -> ImmutableSandboxedEnvironment:
    # trim_blocks and lstrip_blocks are what transformers renders with; templates count on them.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as transformers has it: Jinja's own filter would escape ``<`` and ``&`` for HTML."""
    form: dict[str, Any] = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, default=str, **form)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().astimezone().strftime(form)


if __name__ == "__main__":
    main()
