"""The results of one model as a picture: each ratio with its spread, and the bar it is held to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.figures import Bar, Better, Measured
from bench.report import Result

WIDTH_INCHES = 9.0
INCHES_A_LINE = 0.42
MET, MISSED = "#2a7f62", "#b3422f"


def draw(results: Sequence[Result], title: str, file: Path) -> None:
    """Write a PNG. A line at 1 is llama-server; arrows say on which side of its bar a ratio should be."""
    shown = [(result, result.measured) for result in reversed(results) if result.measured is not None]
    figure = Figure(figsize=(WIDTH_INCHES, 1.6 + INCHES_A_LINE * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)
    axes.axvline(1.0, color="#888888", linewidth=1)
    for height, (result, measured) in enumerate(shown):
        _draw_line(axes, height, result.scenario.bar, measured)
    axes.set_yticks(
        range(len(shown)), [f"{result.scenario.what}\n{result.scenario.figure}" for result, _ in shown]
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel(
        "ours / llama-server: median and quartiles; a triangle at the bar points to where it is met"
    )
    axes.set_title(title)
    FigureCanvasAgg(figure)
    figure.savefig(file)


def _draw_line(axes: Any, height: int, bar: Bar, measured: Measured) -> None:
    colour = MET if bar.is_met(measured.ratio) else MISSED
    axes.plot([measured.ratios.low, measured.ratios.high], [height, height], color=colour, linewidth=2)
    axes.plot([measured.ratio], [height], "o", color=colour)
    axes.plot([bar.ratio], [height], marker=">" if bar.better is Better.HIGHER else "<", color="#333333")
