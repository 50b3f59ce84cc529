"""Sends captured requests to a running service again, and says how each fared.

    python scripts/replay.py ~/captures                          all of a folder, the oldest first
    python scripts/replay.py FILE.json --url http://box:8512     to another service
    python scripts/replay.py FILE.json --explain                 what the router would do, without an answer

A key goes with them if LLM_OPTIMIZER_API_KEY holds one: those of the clients are blanked in the files.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

BLANKED = "[blanked]"
EXPLAIN = "/api/router/explain"
NOT_SENT = frozenset(
    {"host", "connection", "content-length", "content-encoding", "transfer-encoding", "accept-encoding"}
)
"""Headers of the former connection, or of a body that was packed."""

SHOWN = ("strategy", "tokens-received", "tokens-sent")


@dataclass(frozen=True)
class Captured:
    """A request as it came."""

    name: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        text = self.body if isinstance(self.body, str) else json.dumps(self.body, ensure_ascii=False)
        return text.encode()


def main() -> int:
    """Replay what the command line names; 1 if any was answered with an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="captured requests, or folders of them")
    parser.add_argument("--url", default="http://127.0.0.1:8512", help="the service (%(default)s)")
    parser.add_argument("--model", help="ask this model instead")
    parser.add_argument("--explain", action="store_true", help="ask only what the router would do")
    chosen = parser.parse_args()
    failed = 0
    with httpx.Client(base_url=chosen.url, timeout=httpx.Timeout(10, read=600)) as client:
        for file in files_of(chosen.files):
            captured = with_model(read(file), chosen.model)
            failed += not (explain if chosen.explain else replay)(client, captured)
    return int(failed > 0)


def files_of(places: list[Path]) -> Iterator[Path]:
    """The files themselves, and those in folders, whose names begin with the time."""
    for place in places:
        yield from sorted(place.glob("*.json")) if place.is_dir() else (place,)


def read(file: Path) -> Captured:
    """The request in a file."""
    told = json.loads(file.read_text(encoding="utf-8"))
    return Captured(file.name, told["method"], told["path"], told["headers"], told["body"])


def with_model(captured: Captured, model: str | None) -> Captured:
    """The same request to another model."""
    if model is None or not isinstance(captured.body, dict):
        return captured
    body = {**captured.body, "model": model}
    return Captured(captured.name, captured.method, captured.path, captured.headers, body)


def headers_of(captured: Captured) -> dict[str, str]:
    """What is sent of the headers, with the key of whoever replays."""
    kept = {
        name: value
        for name, value in captured.headers.items()
        if name.casefold() not in NOT_SENT and BLANKED not in value
    }
    key = os.environ.get("LLM_OPTIMIZER_API_KEY")
    return {**kept, "Authorization": f"Bearer {key}"} if key else kept


def replay(client: httpx.Client, captured: Captured) -> bool:
    """Send one again and read the answer to its end; False if that is an error."""
    started_s = time.perf_counter()
    first_s = None
    with client.stream(
        captured.method, captured.path, content=captured.content, headers=headers_of(captured)
    ) as response:
        received_bytes = 0
        for piece in response.iter_bytes():
            first_s = first_s or time.perf_counter() - started_s
            received_bytes += len(piece)
    total_s = time.perf_counter() - started_s
    figures = [f"{name} {response.headers.get(f'x-llm-optimizer-{name}', '-')}" for name in SHOWN]
    print(
        f"{captured.name}: {captured.path} {response.status_code}, {', '.join(figures)}, "
        f"first byte {first_s or total_s:.2f} s, all {received_bytes} bytes {total_s:.2f} s"
    )
    return response.is_success


def explain(client: httpx.Client, captured: Captured) -> bool:
    """Ask what would be done with one; False if that is an error."""
    told_path = {"path": captured.path}
    response = client.post(EXPLAIN, params=told_path, content=captured.content, headers=headers_of(captured))
    if not response.is_success:
        print(f"{captured.name}: {response.status_code} {response.text}")
        return False
    told = response.json()
    print(
        f"{captured.name}: {told['model']} {told['strategy']}: {told['reason']}; {told['tokens_received']} "
        f"tokens received, {told['tokens_cached']} cached, {told['tokens_sent']} sent"
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
