"""``llm-optimizer pull``: models of the hub without a running service, and whether they are still whole."""

import contextlib
import json
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from server.catalogue import Catalogue
from server.catalogue.checking import Verdict, check, checkable
from server.catalogue.installing import Order, Progress, Tell, bring, enter, order_of
from server.catalogue.known import find_known
from server.catalogue.names import ModelName
from server.config import Settings
from server.domain.errors import ServiceError

DONE, FAILED, STOPPED = 0, 1, 130
"""Exit codes; the last is what a shell gives for Ctrl-C."""

STEP = 0.05
"""The part of a file after which a line is written where no bar can be drawn."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What there is to pull. ``repository`` None: only what is here; ``file`` None: whichever is usual."""

    name: str
    present: bool
    size_bytes: int | None
    path: Path
    repository: str | None
    file: str | None


class PullCommand:
    """What the command does with a catalogue; each method returns the exit code.

    ``names`` are as the user typed them; none of them stands for the models of the settings.
    """

    def __init__(self, catalogue: Catalogue, out: Console, errors: Console) -> None:
        self._catalogue = catalogue
        self._out = out
        self._errors = errors

    def pull(self, names: Sequence[str]) -> int:
        """Bring what is missing; what fails does not keep the others from coming."""
        return self._for_each(names or self._configured(), self._pull_one, "was not pulled")

    def verify(self, names: Sequence[str]) -> int:
        """Check the files that are here; without names also those that were pulled."""
        wanted = names or [name.display for name in checkable(self._catalogue)]
        return self._for_each(wanted, self._verify_one, "was not checked")

    def show(self, names: Sequence[str]) -> int:
        """Say what there is to pull, and what of it is here."""
        return self._for_each(names or self._all(), self._show_one, "is not listed")

    def show_as_json(self, names: Sequence[str]) -> int:
        """The same for programs: one list."""
        found: list[dict[str, Any]] = []

        def keep(name: str) -> bool:
            listed = self._look_up(name)
            found.append({**asdict(listed), "path": str(listed.path)})
            return True

        code = self._for_each(names or self._all(), keep, "is not listed")
        self._say(json.dumps(found, indent=2))
        return code

    def _all(self) -> list[str]:
        known = [*self._configured(), *(model.name for model in self._catalogue.known)]
        unique = {ModelName.parse(name).full.casefold(): name for name in reversed(known)}
        return [*reversed(unique.values())]

    def _configured(self) -> list[str]:
        return [entry.name.display for entry in self._catalogue.configured]

    def _for_each(self, names: Sequence[str], act: Callable[[str], bool], fault: str) -> int:
        # Whatever started this may ignore it, as a shell does for what it puts into the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = DONE
        for name in names:
            try:
                done = act(name)
            except KeyboardInterrupt:
                self._complain(
                    "\nStopped. What is here of the file stays, and the next pull goes on with it."
                )
                return STOPPED
            except (ServiceError, OSError) as error:
                self._complain(f"{name} {fault}: {error}")
                done = False
            code = code if done else FAILED
        return code

    def _pull_one(self, name: str) -> bool:
        order = order_of(self._catalogue, name)
        if order.source is None:
            return self._is_here(order)
        with _shown(self._out, order.name.display) as tell:
            brought = bring(self._catalogue, order, [order.asked], tell)
        if brought is None:
            return self._is_here(order)
        enter(self._catalogue, order, [order.asked], brought)
        self._say(f"{name}: {brought.path} {'is there now' if brought.is_new else 'is there already'}")
        return True

    def _is_here(self, order: Order) -> bool:
        """Of a model that the hub has nothing to say about."""
        path = self._catalogue.find(order.name.display).settings.path
        if not path.is_file():
            raise ServiceError(f"nobody knows where to pull it from: put its file there, {path}")
        self._say(f"{order.name.display}: {path} is there already")
        return True

    def _verify_one(self, name: str) -> bool:
        asked = ModelName.parse(name)
        with _shown(self._out, name) as tell:
            found = check(
                self._catalogue,
                asked,
                lambda done_bytes, all_bytes: tell(Progress("reading", "", all_bytes, done_bytes)),
            )
        line = f"{found.verdict:<8} {found.name}: {found.path} {found.words}"
        (self._say if found.verdict is Verdict.WHOLE else self._complain)(line)
        return found.verdict is Verdict.WHOLE

    def _look_up(self, name: str) -> Listed:
        order = order_of(self._catalogue, name)
        known = find_known(self._catalogue.known, order.name)
        entry = self._catalogue.look_up(order.name)
        path = entry.settings.path if entry else self._catalogue.models_dir / f"{order.name.file_stem}.gguf"
        present = path.is_file()
        return Listed(
            name,
            present,
            path.stat().st_size if present else known.size_bytes if known else None,
            path,
            order.source.repository if order.source else None,
            order.source.file or order.source.quant if order.source else None,
        )

    def _show_one(self, name: str) -> bool:
        listed = self._look_up(name)
        state = "present" if listed.present else "missing"
        size = f"{listed.size_bytes / 1e9:.1f} GB" if listed.size_bytes else "?"
        self._say(f"{name:<24} {state:<8} {size:>8}  {listed.path}")
        if listed.repository is not None:
            self._say(f"{'':<24} from {listed.repository}, {listed.file or 'the usual quantisation'}")
        return True

    def _say(self, text: str) -> None:
        self._out.print(text, markup=False, highlight=False, soft_wrap=True)

    def _complain(self, text: str) -> None:
        self._errors.print(text, markup=False, highlight=False, soft_wrap=True)


def pull_command(settings: Settings) -> PullCommand:
    """The command on the terminal. What the service would log stands there as well: that a broken download
    goes on, or that a file is not served."""
    out, errors = Console(), Console(stderr=True)
    handler = RichHandler(console=errors, show_time=False, show_path=False, show_level=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    return PullCommand(Catalogue(settings), out, errors)


@contextlib.contextmanager
def _shown(out: Console, name: str) -> Iterator[Tell]:
    """A bar on a terminal, and lines elsewhere."""
    if not out.is_terminal:
        yield _Lines(out, name).tell
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=out) as bars:
        yield _Bars(bars, name).tell


class _Bars:
    def __init__(self, bars: Bars, name: str) -> None:
        self._bars = bars
        self._name = name
        self._tasks: dict[str, TaskID] = {}

    def tell(self, step: Progress) -> None:
        if not step.total_bytes:
            return
        task = self._tasks.get(step.status)
        if task is None:
            description = f"{self._name}: {step.status}"
            self._tasks[step.status] = self._bars.add_task(
                description, total=step.total_bytes, completed=step.completed_bytes
            )
        else:
            self._bars.update(task, completed=step.completed_bytes)


class _Lines:
    """One for each step, and for each twentieth of a file."""

    def __init__(self, out: Console, name: str) -> None:
        self._out = out
        self._name = name
        self._told: tuple[str, float] = ("", 0.0)

    def tell(self, step: Progress) -> None:
        part = step.completed_bytes / step.total_bytes if step.total_bytes else 0.0
        status, told = self._told
        if step.status == status and part < min(told + STEP, 1):
            return
        self._told = (step.status, part)
        figures = f"{step.completed_bytes / 1e9:.2f} of {step.total_bytes / 1e9:.2f} GB"
        text = f"{self._name}: {step.status}" + (f", {figures}" if step.total_bytes else "")
        self._out.print(text, markup=False, highlight=False, soft_wrap=True)
