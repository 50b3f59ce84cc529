"""One client: sends a plan's request, hangs up when the plan says so, and notes what came back."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping

import httpx

from bench.soak.answers import judged, says_something
from bench.soak.findings import Findings
from bench.soak.plans import Answer, Key, Plan, Told, Wire

ANSWER_S = 600


class Asker:
    """Asks one server on behalf of all clients. Belongs to the event loop."""

    def __init__(self, url: str, keys: Mapping[Key, str], findings: Findings) -> None:
        self.findings = findings
        self.keys = keys
        self._client = httpx.AsyncClient(
            base_url=url, timeout=ANSWER_S, limits=httpx.Limits(max_connections=None)
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def ask(self, plan: Plan, *, begun: asyncio.Event | None = None) -> tuple[Answer, Told] | None:
        """Ask and note what came; ``begun`` is set with the first line. None: the connection broke."""
        try:
            answer = await self._answer(plan, begun)
        except httpx.HTTPError as error:
            self.findings.broke(plan, error)
            return None
        told = judged(plan, answer) if answer.status else Told()
        self.findings.note(plan, answer, told)
        return answer, told

    async def half_a_body(self, plan: Plan) -> None:
        """Promise a body, send less than half of it, and hang up."""
        url = self._client.base_url
        whole = json.dumps(plan.body).encode()
        head = [f"POST {plan.path} HTTP/1.1", f"Host: {url.host}", f"Content-Length: {len(whole)}"]
        head += [f"{name}: {value}" for name, value in self._headers(plan).items()]
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write("\r\n".join([*head, "", ""]).encode() + whole[: len(whole) // 2])
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()
        self.findings.note(plan, Answer(0, (), complete=False), Told())

    async def _answer(self, plan: Plan, begun: asyncio.Event | None) -> Answer:
        lines: list[str] = []
        status, complete, heard = 0, False, False
        asked_s = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(plan.hang_up_after_s), self._stream(plan) as response:
                status = response.status_code
                async for line in lines_of(response):
                    lines.append(line)
                    if begun is not None:
                        begun.set()
                    if plan.stream and not heard and says_something(plan.wire, line):
                        heard = True
                        self.findings.first_token_s.append(time.monotonic() - asked_s)
                    if len(lines) == plan.hang_up_after_lines:
                        break
                else:
                    complete = True
        return Answer(status, tuple(lines), complete)

    def _stream(self, plan: Plan) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        body = plan.body
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return self._client.stream(plan.method, plan.path, content=content, headers=self._headers(plan))

    def _headers(self, plan: Plan) -> dict[str, str]:
        key = self.keys.get(plan.key)
        if key is None:
            return dict(plan.headers)
        # Each client sends it as its dialect has it.
        own = {"x-api-key": key} if plan.wire is Wire.ANTHROPIC else {"Authorization": f"Bearer {key}"}
        return {**own, **plan.headers}


async def lines_of(response: httpx.Response) -> AsyncIterator[str]:
    """The lines of an answer; httpx would end lines at signs that JSON may hold, too."""
    rest = b""
    async for data in response.aiter_bytes():
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.decode()
    if rest:
        yield rest.decode()
