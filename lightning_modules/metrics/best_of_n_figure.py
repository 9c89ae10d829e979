"""The figure of accuracy against N."""

from __future__ import annotations

import io
import math

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_modules.metrics.best_of_n import ALL_QUESTIONS, OVERALL, BestOfNReport
from lightning_modules.metrics.best_of_n_table import column_label
from lightning_modules.metrics.selection.methods import (
    BEST_ANSWERED,
    LONGEST,
    PASS_AT_1,
    PASS_AT_N,
    RANDOM_CHOICE,
    SELF_CONSISTENCY,
    SHORTEST,
    WEIGHTED_VOTE,
    method_label,
)
from lightning_modules.metrics.selection.pool import OUTCOME

_COLORS = {
    PASS_AT_1: "tab:gray",
    RANDOM_CHOICE: "darkgray",
    SELF_CONSISTENCY: "tab:orange",
    OUTCOME: "tab:green",
    WEIGHTED_VOTE: "tab:blue",
    PASS_AT_N: "black",
}
_CRITICS = ("tab:brown", "tab:pink", "tab:olive", "tab:cyan")
_LEFT_OUT = (SHORTEST, LONGEST, BEST_ANSWERED)
"""Methods that stand in the tables alone, so that the curves that matter can be told apart."""


def best_of_n_figure(report: BestOfNReport) -> Figure:
    """Accuracy (%) against N with 95 % bands: one panel for each summary and each benchmark.

    The primary method of the process reward model is drawn thick, its other aggregations thin and dashed.
    """
    panels = [OVERALL, ALL_QUESTIONS, *report.benchmarks]
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.8))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, column in zip(grid, panels, strict=False):
        _draw_panel(axes, report, column)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    legend_columns = min(2 * columns, len(labels))
    figure.legend(handles, labels, loc="lower center", ncols=legend_columns, frameon=False)
    _set_margins(figure, rows, columns, legend_rows=math.ceil(len(labels) / legend_columns))
    return figure


def _set_margins(figure: Figure, rows: int, columns: int, legend_rows: int) -> None:
    """Give titles, labels and the legend their room; to measure them takes longer than to draw them."""
    width, height = figure.get_size_inches()
    left, right, top, bottom = 0.62, 0.12, 0.32, 0.6 + 0.22 * legend_rows
    between_columns, between_rows = 0.66, 0.8
    panel_width = (width - left - right - (columns - 1) * between_columns) / columns
    panel_height = (height - top - bottom - (rows - 1) * between_rows) / rows
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=between_columns / panel_width,
        hspace=between_rows / panel_height,
    )


def figure_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _draw_panel(axes: Axes, report: BestOfNReport, column: str) -> None:
    methods = [method for method in report.methods if method not in _LEFT_OUT]
    others = [m for m in methods if m.startswith("prm_") and m != report.primary]
    critics = [method for method in methods if method.startswith("critic_")]
    shades = matplotlib.colormaps["Purples"]
    for method in methods:
        estimates = [report.accuracies[column, method, n] for n in report.ns]
        is_minor = method in others or method == RANDOM_CHOICE
        color = _COLORS.get(method, "tab:red")
        if method in others:
            color = matplotlib.colors.to_hex(shades(0.45 + 0.5 * others.index(method) / len(others)))
        if method in critics:
            color = _CRITICS[critics.index(method) % len(_CRITICS)]
        axes.plot(
            report.ns,
            [100 * estimate.value for estimate in estimates],
            label=method_label(method, critic=report.critic),
            color=color,
            linewidth=2.4 if method == report.primary else 1.0 if is_minor else 1.6,
            linestyle="--" if is_minor else ":" if method in (PASS_AT_1, PASS_AT_N) else "-",
            marker="o",
            markersize=3,
            zorder=3 if method == report.primary else 2,
        )
        axes.fill_between(
            report.ns,
            [100 * estimate.low for estimate in estimates],
            [100 * estimate.high for estimate in estimates],
            color=color,
            alpha=0.05 if is_minor else 0.13,
            linewidth=0,
        )
    axes.set_title(column_label(column))
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(report.ns), [str(n) for n in report.ns])
    axes.minorticks_off()
    axes.set_xlabel("N")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.25)
