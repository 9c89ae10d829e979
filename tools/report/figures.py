"""The figures of a report: accuracy against N here, those of steps in ``step_figures.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datamodules.benchmarks import VISUAL_BENCHMARKS
from lightning_modules.metrics.best_of_n import OVERALL
from lightning_modules.metrics.best_of_n_figure import figure_png
from tools.report.best_of_n_tables import by_policy, curves
from tools.report.numbers import Entry
from tools.report.quoted import quoted_tables
from tools.report.results import BEST_OF_N

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours that the colour-blind can tell apart (Okabe and Ito)."""


@dataclass(frozen=True)
class ReportFigure:
    """A figure as a file.

    Attributes:
        name: Of the file, without its ending.
        title: Above it.
        caption: What it shows.
        png: The picture.
        files: Reports and scores that it was drawn from.
    """

    name: str
    title: str
    caption: str
    png: bytes
    files: tuple[str, ...]


def new_figure(panels: int, width: float = 4.4, height: float = 3.5, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with panels in rows; places that are left over stay empty."""
    columns = min(columns, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in grid[panels:]:
        axes.set_axis_off()
    return figure, grid[:panels]


def curve_figure(entries: Sequence[Entry]) -> ReportFigure | None:
    """Figure 4: overall accuracy against N, a panel for each policy, and the paper's two policies as it gives them."""
    scored = [entry for entry in entries if set(entry.first.benchmarks) & set(VISUAL_BENCHMARKS)]
    if not scored:
        return None
    policies = by_policy(scored)
    quoted = [table for table in quoted_tables() if table.beside in ("table6", "table7")]
    figure, panels = new_figure(len(policies) + len(quoted))
    for axes, (policy, members) in zip(panels, policies.items(), strict=False):
        for colour, (label, entry, method) in zip(_cycle(len(members) + 8), curves(members), strict=False):
            _draw_curve(axes, entry, method, label, colour)
        axes.set_title(policy)
    for axes, table in zip(panels[len(policies) :], quoted, strict=True):
        for colour, group in zip(COLOURS, dict.fromkeys(row["group"] for row in table.rows), strict=False):
            points = [(int(row["label"]), row["values"][-1]) for row in table.rows if row["group"] == group]
            axes.plot(*zip(*points, strict=True), label=group, color=colour, marker="o", markersize=3, linestyle="--")
        axes.set_title(f"quoted: {table.paper}, {table.table}")
    for axes in panels:
        axes.set_xscale("log", base=2)
        ticks = np.unique(np.concatenate([np.asarray(line.get_xdata(), dtype=int) for line in axes.lines])).tolist()
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("N")
        axes.set_ylabel("overall accuracy (%)")
        axes.grid(alpha=0.25)
        axes.legend(fontsize="small", frameon=False)
    several = len(scored[0].results) > 1
    caption = "Bands: " + ("standard deviation over seeds." if several else "95 % intervals.")
    files = tuple(str(result.folder / BEST_OF_N) for entry in scored for result in entry.results)
    title = "Best-of-N (Figure 4)"
    return ReportFigure("best_of_n", title, f"{caption} Dashed: quoted from the paper.", figure_png(figure), files)


def _cycle(count: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(count)]


def _draw_curve(axes: Axes, entry: Entry, method: str, label: str, colour: str) -> None:
    ns = [int(n) for n in (entry.first.best_of_n or {})["ns"]]
    found = [(n, entry.best_of_n("accuracies", OVERALL, method, str(n))) for n in ns]
    points = [(n, number) for n, number in found if number is not None]
    shown = [n for n, _ in points]
    axes.plot(shown, [number.value for _, number in points], label=label, color=colour, marker="o", markersize=3)
    bounds = []
    for _, number in points:
        if number.deviation is not None:
            bounds.append((number.value - number.deviation, number.value + number.deviation))
        elif number.low is not None and number.high is not None:
            bounds.append((number.low, number.high))
    if len(bounds) == len(points):
        lows, highs = zip(*bounds, strict=True)
        axes.fill_between(shown, lows, highs, color=colour, alpha=0.12, linewidth=0)
