"""What was found as a picture of six fields; a part that was not run leaves its fields empty."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SIZE_INCHES = (14.0, 8.0)
COLOURS = {
    "untouched": "#888888",
    "ours": "#2a7f62",
    "front-truncated": "#b3422f",
    "random blocks": "#c79a2b",
}
DEPTHS = (0, 25, 50, 75, 100)
BAR_RECALL = 0.9

Figures = Mapping[str, Mapping[str, Any]]
"""The figures of each part, by the part's name."""


def draw(figures: Figures, title: str, file: Path) -> None:
    """Write a PNG."""
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    fields = figure.subplots(2, 3).flat
    _recall(next(fields), "by_class", "recall by class, at 45% of the size", figures)
    _recall(next(fields), "by_age", "recall by age in turns, at 45% of the size", figures)
    _needles(next(fields), figures.get("needles", {}).get("found", {}))
    _likelihood(next(fields), figures.get("likelihood", {}).get("log_probability", {}))
    _turns(next(fields), figures.get("cost", {}).get("turns", {}))
    _waiting(next(fields), figures.get("cost", {}).get("first_token_s", {}))
    figure.suptitle(title)
    FigureCanvasAgg(figure)
    figure.savefig(file)


def _recall(axes: Any, name: str, title: str, figures: Figures) -> None:
    axes.set_title(title)
    axes.set_ylim(0, 1.05)
    rows = figures.get("recall", {}).get(name, {})
    for number, (method, shares) in enumerate(rows.items()):
        places = [place + 0.27 * (number - 1) for place in range(len(shares))]
        axes.bar(places, list(shares.values()), 0.25, color=COLOURS[method], label=method)
        axes.set_xticks(range(len(shares)), list(shares))
    if rows:
        axes.axhline(BAR_RECALL, color="#333333", linewidth=1, linestyle=":")
        axes.legend(fontsize=8)


def _needles(axes: Any, found: Mapping[str, Sequence[float]]) -> None:
    axes.set_title("needles that stand in the prompt, by depth")
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("% of the session before them")
    for method, shares in found.items():
        axes.plot(DEPTHS, shares, "o-", color=COLOURS[method], label=method)
    if found:
        axes.legend(fontsize=8)


def _likelihood(axes: Any, means: Mapping[str, float]) -> None:
    axes.set_title("log probability per token of the recorded answer")
    axes.barh(list(means), list(means.values()), color=[COLOURS[method] for method in means])


def _turns(axes: Any, sessions: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
    """Of the first session, which is the longest recorded one."""
    axes.set_xlabel("turn")
    for name, ways in list(sessions.items())[:1]:
        axes.set_title(f"tokens read by the generator, {name}")
        for way, tokens in ways.items():
            axes.plot(range(1, len(tokens) + 1), list(accumulate(tokens)), "-", label=way)
        axes.set_yscale("log")
        axes.legend(fontsize=7)


def _waiting(axes: Any, ways: Mapping[str, Sequence[float]]) -> None:
    axes.set_title("seconds to the first token (naive: reckoned)")
    axes.set_xlabel("turn")
    for way, seconds in ways.items():
        axes.plot(range(1, len(seconds) + 1), seconds, "o-", label=way)
    if ways:
        axes.set_yscale("log")
        axes.legend(fontsize=8)
