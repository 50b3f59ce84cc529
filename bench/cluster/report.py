"""The runs as tables, for the terminal and for docs/cluster.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cluster.runs import Disturbed, Poured, Talked
from bench.cluster.talking import Turn

BEGIN = "<!-- figures: python -m bench.cluster --write -->\n"
END = "<!-- end of the figures -->\n"
LEAST_SHARE = 0.9


@dataclass(frozen=True)
class Report:
    """Everything that was measured. ``facts`` are what it holds for."""

    date: str
    facts: Mapping[str, str]
    talked: Sequence[Talked]
    disturbed: Sequence[Disturbed]
    poured: Poured | None

    @property
    def faults(self) -> list[str]:
        """What is not as it must be."""
        found = [
            f"{one.policy}: {one.share:.0%} of the turns found their prefix, not {LEAST_SHARE:.0%}"
            for one in self.talked
            if one.policy == "prefix" and one.share < LEAST_SHARE
        ]
        found += [f"{one.policy}: not answered: {why}" for one in self.talked for why in one.lost]
        return found + [f"{one.what}: not answered: {why}" for one in self.disturbed for why in one.lost]

    def as_markdown(self) -> str:
        """A dated section with the tables."""
        facts = "; ".join(f"{name}: {value}" for name, value in self.facts.items())
        lines = [f"Measured on {self.date}; {facts}."]
        if self.talked:
            lines += ["", *self._talks()]
        if self.disturbed:
            lines += ["", *self._disturbances()]
        if self.poured is not None:
            lines += ["", *self._way_in(self.poured)]
        return "\n".join([*lines, *(f"\n**NOT as it must be**: {fault}" for fault in self.faults)]) + "\n"

    def _talks(self) -> list[str]:
        head = "| policy | ingresses | turns | found their prefix | prompt tokens | read anew |"
        rows = [
            f"| {one.policy} | {one.ingresses} | {len(one.turns)} | {one.share:.0%} | "
            f"{one.prompt_tokens:,} | {one.read_tokens:,} |"
            for one in self.talked
        ]
        return [head, "|---|---|---|---|---|---|", *rows]

    def _disturbances(self) -> list[str]:
        head = (
            "| what happened | turns | lost before they began | broken off, and said so | moved turns | "
            "tokens read per moved turn | per other turn | whole again after |"
        )
        rows = [
            f"| {one.what} | {len(one.turns)} | {len(one.lost)} | {one.broken} | {len(one.next_turns)} | "
            f"{_read(one.next_turns):.0f} | {_read(_others(one)):.0f} | {one.whole_again_s:.0f} s |"
            for one in self.disturbed
        ]
        return [head, "|---|---|---|---|---|---|---|---|", *rows]

    @staticmethod
    def _way_in(poured: Poured) -> list[str]:
        streaming_s = poured.way_in_cpu_s - poured.requests * poured.empty_request_cpu_s
        per_piece_ms = 1000 * streaming_s / max(poured.pieces, 1)
        return [
            "| the way in (Ray's proxy and the ingress together) | processor time |",
            "|---|---|",
            f"| a request | {poured.empty_request_cpu_s * 1000:.1f} ms |",
            f"| a piece of a streamed answer, of {poured.pieces:,} | {max(per_piece_ms, 0):.2f} ms |",
        ]


def _others(one: Disturbed) -> list[Turn]:
    return [turn for turn in one.turns if turn.good and turn.before_tokens and turn not in one.next_turns]


def _read(turns: Sequence[Turn]) -> float:
    return sum(turn.prompt_tokens - turn.cached_tokens for turn in turns) / len(turns) if turns else 0.0


def written_into(page: str, report: Report) -> str:
    """The page with these figures in place of those before.

    Raises ValueError for a page that has no place for them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{begin}\n{report.as_markdown()}\n{end}{after}"


def write(page: Path, report: Report) -> None:
    """Put the figures on the page."""
    page.write_text(written_into(page.read_text(encoding="utf-8"), report), encoding="utf-8")
