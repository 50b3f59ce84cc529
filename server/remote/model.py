"""A model that another server runs, ready to work: its face, its queue, and how it is."""

import asyncio
import contextlib
import datetime
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import httpx2

from server.chat.calls import schemas_of
from server.chat.parse import Expected
from server.client.address import is_this_machine
from server.domain.chat import CompletionRequest, JsonObject, Message, RunOptions
from server.domain.errors import InvalidRequest, PromptTooLong, QueueFull, RemoteAway, Unloaded
from server.domain.generation import Usage
from server.engine.figures import Figures
from server.engine.pace import Speed
from server.remote.breaker import Breaker
from server.remote.counting import COUNTING_S, Counter
from server.remote.faults import Trouble, of_connection, of_status
from server.remote.ollama import Ollama
from server.remote.openai import OpenAi
from server.remote.run import Asked, RemoteRun
from server.remote.spec import Api, RemoteSpec
from server.remote.wire import Chat, Dialect

logger = logging.getLogger("llm-optimizer")

LOOK_S = 10.0
"""So long a look at a server may take."""

REUSED_S = 3.0
"""So long a connection may have been idle. Servers on uvicorn (vLLM) and llama-server end theirs after 5 s,
and a request that is on its way then is lost."""

_NEWEST = 0.3
_OK = 200
_POLICY = {"X-LLM-Optimizer-Policy": "direct"}
"""Another llm-optimizer need not shorten what was shortened here; nobody else knows the header."""


@dataclass(frozen=True, slots=True)
class RemoteState:
    """A look at a model that is elsewhere. ``fault`` None: the last try went well, or there was none.

    ``retry_in_s`` is how long it is left alone. ``seen_at`` is when it answered last.
    """

    running: int
    queued: int
    fault: str | None
    retry_in_s: float
    seen_at: datetime.datetime | None
    counts_exactly: bool
    failures: int
    times_left_alone: int

    @property
    def is_up(self) -> bool:
        """Whether it has answered, and did so the last time."""
        return self.seen_at is not None and self.fault is None


class RemoteModel:
    """Implements :class:`server.service.answering.Answerer`. Belongs to the event loop, but for what counts
    and writes prompts."""

    def __init__(self, spec: RemoteSpec, tell: Callable[[str], None]) -> None:
        """``tell`` is called with what goes wrong, once until the server answers again."""
        self.spec = spec
        self._tell = tell
        self.figures = Figures()
        headers = {**_POLICY, **({"Authorization": f"Bearer {spec.key}"} if spec.key else {})}
        # Certificates take a while to load, and a proxy for the internet knows nothing of this machine.
        verify, trust_env = spec.url.startswith("https:"), not is_this_machine(spec.url)
        self._counting = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(COUNTING_S, connect=spec.connect_s),
            verify=verify,
            trust_env=trust_env,
        )
        self._counter = Counter(spec, self._counting)
        self.http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=spec.connect_s),
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=spec.slots, keepalive_expiry=REUSED_S
            ),
            verify=verify,
            trust_env=trust_env,
        )
        self._breaker = Breaker()
        self._slots = asyncio.Semaphore(spec.slots)
        self._waiting = self._running = self._failures = 0
        self._runs: set[RemoteRun] = set()
        self._fault: str | None = None
        self._seen_at: datetime.datetime | None = None
        self._speed = Speed()

    @property
    def vocabulary(self) -> str:
        """Models with the same one count alike; estimates of a while are not remembered as counts."""
        return f"{self.spec.url} {self.spec.model} {'counted' if self.counts_exactly else 'estimated'}"

    @property
    def context_tokens(self) -> int:
        """The context window, as the settings have it."""
        return self.spec.context_tokens

    @property
    def counts_exactly(self) -> bool:
        """Whether the server counts tokens for us."""
        return self._counter.is_exact

    @property
    def speed(self) -> Speed:
        """How fast it was lately, the network included."""
        return self._speed

    @property
    def state(self) -> RemoteState:
        """How it is."""
        return RemoteState(
            running=self._running,
            queued=self._waiting,
            fault=self._fault,
            retry_in_s=self._breaker.wait_s(time.monotonic()),
            seen_at=self._seen_at,
            counts_exactly=self.counts_exactly,
            failures=self._failures,
            times_left_alone=self._breaker.opened,
        )

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[JsonObject], think: bool | str | None
    ) -> "RemotePrompt":
        """A chat, counted."""
        chat = Chat(tuple(messages), tuple(tools), think if "thinking" in self.spec.abilities else None)
        size_tokens, exact = self._counter.count_chat(chat)
        return RemotePrompt(self, chat, size_tokens, exact)

    def completion(self, request: CompletionRequest) -> "RemotePrompt":
        """A single prompt.

        Raises:
            InvalidRequest: it goes on from token ids, or fills a gap where that is not among the abilities.
        """
        if request.context:
            raise InvalidRequest(
                f"context: {self.spec.model} runs elsewhere and takes no token ids; "
                "send the conversation to /api/chat instead"
            )
        if request.suffix and "insert" not in self.spec.abilities:
            raise InvalidRequest(f"{self.spec.model} does not support insert")
        if request.suffix or request.raw:
            text = request.prompt + request.suffix
            return RemotePrompt(self, request, self._counter.count(text), self._counter.is_exact)
        system = [Message("system", request.system)] if request.system else []
        messages = (*system, *request.examples, Message("user", request.prompt))
        return self.prompt(messages, (), request.options.think)

    def count(self, text: str) -> int:
        """Tokens of a piece of text."""
        return self._counter.count(text)

    def refuse_when_full(self) -> None:
        """Raise what submitting would raise now."""
        self.check_worth()
        if self._running + self._waiting >= self.spec.slots + self.spec.queue:
            raise QueueFull

    async def check_format(self, options: RunOptions) -> None:
        """The server itself says what is wrong with a schema."""

    async def submit(self, asked: Asked) -> RemoteRun:
        """Ask the server."""
        self.refuse_when_full()
        position = max(self._running + self._waiting - self.spec.slots + 1, 0)
        run = RemoteRun(self, asked, position)
        self._runs.add(run)
        return await run.opened()

    def dialect(self) -> Dialect:
        """For one answer."""
        return Ollama(self.spec.context_tokens) if self.spec.api is Api.OLLAMA else OpenAi()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold one of the slots, once one is free."""
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._slots.release()

    def check_worth(self) -> None:
        """Raise RemoteAway while the server is left alone."""
        wait_s = self._breaker.wait_s(time.monotonic())
        if wait_s > 0:
            raise RemoteAway(f"{self._fault}; it is tried again in {wait_s:.0f} s")

    def begin(self) -> None:
        """A try begins."""
        self._breaker.begin(time.monotonic())

    def undecided(self) -> None:
        """A try was given up before it could tell anything."""
        self._breaker.undecided(time.monotonic())

    def failed(self, trouble: Trouble) -> None:
        """A try has failed."""
        if not trouble.is_ill:
            self.undecided()
            return
        self._failures += 1
        if self._fault is None:
            logger.warning("%s", trouble.error)
            self._tell(str(trouble.error))
        self._fault = str(trouble.error)
        self._breaker.failed(time.monotonic())

    def answered(self) -> None:
        """The server is well."""
        if self._fault is not None:
            logger.info("%s answers again", self.spec.host)
        self._fault = None
        self._seen_at = datetime.datetime.now(datetime.UTC)
        self._breaker.succeeded()

    def ended(self, run: RemoteRun) -> None:
        """Count a run that has ended."""
        self._runs.discard(run)
        usage, figures = run.usage(), self.figures
        figures.requests += 1
        figures.prompt_tokens += usage.prompt_tokens
        figures.cached_tokens += usage.cached_tokens
        figures.read_tokens += usage.read_tokens
        figures.generated_tokens += usage.generated_tokens
        figures.queue_s.see(usage.queued_ns / 1e9)
        if usage.generated_tokens:
            figures.first_token_s.see((usage.queued_ns + usage.prefill_ns) / 1e9)
            self._learn(usage)

    def is_among(self, names: Iterable[str]) -> bool:
        """Whether one of the ``names`` that the server lists is this model's."""
        return any(_is_same(name, self.spec.model) for name in names)

    async def look(self) -> tuple[str, ...]:
        """Ask the server for its models; empty where it lists none, or cannot be asked, which counts as a
        failed try."""
        self.begin()
        try:
            names = await self._names()
        except Trouble as trouble:
            self.failed(trouble)
            return ()
        self.answered()
        return names

    async def close(self) -> None:
        """Hang up; answers under way end with an error."""
        for run in tuple(self._runs):
            run.stop(Unloaded("the service is stopping"))
        await self.http.aclose()
        self._counting.close()

    async def _names(self) -> tuple[str, ...]:
        dialect = self.dialect()
        try:
            answer = await self.http.get(f"{self.spec.url}{dialect.models_path}", timeout=LOOK_S)
            if answer.status_code != _OK:
                raise of_status(self.spec, answer.status_code, answer.headers, answer.text)
            listed = answer.json()
        except httpx2.HTTPError as error:
            raise of_connection(self.spec, error) from error
        except ValueError:
            return ()
        return tuple(dialect.names(listed)) if isinstance(listed, dict) else ()

    def _learn(self, usage: Usage) -> None:
        self._speed = Speed(
            _nearer(self._speed.read_s, usage.prefill_ns, usage.read_tokens),
            _nearer(self._speed.write_s, usage.decode_ns, usage.generated_tokens - 1),
        )


@dataclass(frozen=True, slots=True)
class RemotePrompt:
    """A chat, or a raw prompt. Implements :class:`server.service.answering.Prompt`.

    ``is_exact``: the size was counted by the server, and not estimated.
    """

    model: RemoteModel
    what: Chat | CompletionRequest
    size_tokens: int
    is_exact: bool
    tokens: tuple[int, ...] = field(default=(), init=False)
    held_tokens: int = field(default=0, init=False)

    async def submit(self, options: RunOptions, *, background: bool = False) -> RemoteRun:
        """Ask the server. It knows no background.

        Raises:
            PromptTooLong: it leaves no room for an answer in the context window.
            InvalidRequest: log probabilities are wanted, or the server refuses the request.
            QueueFull, RemoteAway, RemoteFailed: it was not accepted.
        """
        spec = self.model.spec
        if self.size_tokens >= spec.context_tokens:
            raise PromptTooLong(self.size_tokens, spec.context_tokens)
        if options.alternatives is not None:
            raise InvalidRequest(f"logprobs: {spec.model} runs elsewhere, and they are not passed on")
        dialect = self.model.dialect()
        if isinstance(self.what, Chat):
            path, body = dialect.chat(spec.model, self.what, options)
        else:
            path, body = dialect.completion(spec.model, self.what, options)
        asked = Asked(path, body, self.model.dialect, self._expected(), self.size_tokens)
        return await self.model.submit(asked)

    def _expected(self) -> Expected:
        """Thinking and calls that the server leaves in the text are found all the same."""
        if not isinstance(self.what, Chat):
            return Expected()
        thinks = "thinking" in self.model.spec.abilities and self.what.think is not False
        return Expected(thinking=thinks, tools=schemas_of(self.what.tools))


def _nearer(before: float | None, took_ns: int, tokens: int) -> float | None:
    if tokens <= 0:
        return before
    measured = took_ns / 1e9 / tokens
    return measured if before is None else before + _NEWEST * (measured - before)


def _is_same(name: str, wanted: str) -> bool:
    return name.removesuffix(":latest").casefold() == wanted.removesuffix(":latest").casefold()
