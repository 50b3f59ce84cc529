"""What is done when an rpc server is lost: ggml cannot go on without it, so the process ends, with a word.

Nothing here runs before a model is loaded over one.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping

from server.engine.llamacpp.rpc_devices import on_abort
from server.service.crashes import Crashes
from server.service.faults import Faults
from server.service.rpc_servers import Held, RpcServers

logger = logging.getLogger("llm-optimizer")

LOOK_S = 1.0

EXIT_STATUS = 69
"""EX_UNAVAILABLE: a service that this one needs is not there."""

_ENDS = "the service ends, and its supervisor starts it again"


def end_process() -> None:
    """At once: whoever waits for ggml would wait for ever."""
    logging.shutdown()
    os._exit(EXIT_STATUS)


class RpcLoss:
    """Looks each second at the servers that models are split over. Belongs to the event loop.

    ``beats`` has what changes with each step of the models that work or are being loaded, and ``answering``
    says how many answers are under way.
    """

    def __init__(
        self,
        rpc_servers: RpcServers,
        crashes: Crashes,
        faults: Faults,
        *,
        beats: Callable[[], Mapping[str, float]],
        answering: Callable[[], int],
        end: Callable[[], None] = end_process,
    ) -> None:
        self._rpc_servers = rpc_servers
        self._crashes = crashes
        self._faults = faults
        self._beats = beats
        self._answering = answering
        self._end = end
        self._task: asyncio.Task[None] | None = None
        self._patience_s: dict[str, float] = {}
        self._stands: dict[Held, tuple[float, float]] = {}
        self._told: set[str] = set()

    def arm(self, model: str, patience_s: float) -> None:
        """``model`` is about to be split; a step of it may take ``patience_s``."""
        self._patience_s[model] = patience_s
        if self._task is None:
            on_abort(self._ggml_ends)
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Look no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self, now_s: float) -> None:
        """End the process where a server is lost: at once if its model waits for it, else when no answer is
        under way, for others may do without it."""
        beats, all_held = self._beats(), self._rpc_servers.held()
        self._stands = {held: stand for held, stand in self._stands.items() if held in all_held}
        for held in all_held:
            silence_s = self._silence_s(held, beats, now_s)
            if silence_s > self._patience_s.get(held.model, float("inf")):
                devices = ", ".join(server.device for server in held.servers)
                what = "is still being loaded over" if held.loading else "makes no step over"
                self._give_up(held, f"{held.model} {what} {devices} after {silence_s:.0f} s")
            elif (broken := held.broken()) is not None:
                self._tell(held, broken)
                if not self._answering():
                    self._give_up(held, broken)

    def _silence_s(self, held: Held, beats: Mapping[str, float], now_s: float) -> float:
        """How long the model has been at the same step; 0 where it waits for work."""
        beat = beats.get(f"loading {held.model}", 0.0) if held.loading else beats.get(held.model)
        if beat is None:
            self._stands.pop(held, None)
            return 0.0
        before, since_s = self._stands.get(held, (None, now_s))
        if before != beat:
            since_s = now_s
        self._stands[held] = (beat, since_s)
        return now_s - since_s

    def _tell(self, held: Held, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            self._faults.add(held.model, reason)
            logger.error(
                "%s; %s cannot answer any more. As soon as no answer is under way, %s",
                reason,
                held.model,
                _ENDS,
            )

    def _give_up(self, held: Held, reason: str) -> None:
        logger.critical("%s; %s", reason, _ENDS)
        self._rpc_servers.last_words(held, reason)
        self._crashes.acquit()
        self._end()

    def _ggml_ends(self, words: str, about_rpc: bool) -> None:
        """ggml's last words, on the thread that it ends the process on."""
        if not about_rpc:
            logger.critical("llama.cpp ends the process: %s", words)
            return
        held = self._rpc_servers.held()
        lost = next(((one, reason) for one in held if (reason := one.broken()) is not None), None)
        if lost is None and held:
            devices = ", ".join(server.device for server in held[0].servers)
            lost = held[0], f"{held[0].model} has lost one of {devices} ({words.rpartition(': ')[2]})"
        if lost is None:
            logger.critical("llama.cpp ends the process: %s", words)
            return
        self._give_up(*lost)

    async def _watch(self) -> None:
        while True:
            try:
                self.look(time.monotonic())
            except Exception:
                # systemd's watchdog is left, and ggml's own end.
                logger.exception("the look at rpc servers broke, and is taken again")
            await asyncio.sleep(LOOK_S)
