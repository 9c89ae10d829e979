"""Step reports as markdown, as tables for the terminal, and as a figure. Values are in percent."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_modules.metrics.calibration import NUM_BINS, CalibrationBin
from lightning_modules.metrics.step_overall_table import first_wrong_table, threshold_table
from lightning_modules.metrics.step_report import StepIndexMetrics, StepMetrics, StepReport
from lightning_modules.metrics.step_threshold import StepThreshold
from lightning_modules.metrics.table import Cell, Table

SHOWN_PLACES = 20
"""Steps from this place on share the last row of the table by step index; JSON has each place."""


def source_table(report: StepReport, coverage: str = "") -> Table:
    """One row per source, and one for all steps.

    Args:
        report: The step report.
        coverage: A sentence that says how much of the benchmark was evaluated.
    """
    header = ["Source", "Macro F1", "F1 correct", "F1 wrong", "Accuracy", "AUROC", "AP correct", "AP wrong", "ECE"]
    rows = [
        [Cell(name), *map(Cell, _shares(metrics)), Cell(str(_counted(metrics))), Cell(str(metrics.solutions))]
        for name, metrics in [*report.sources.items(), ("Overall", report.overall)]
    ]
    means = [_mean([shares[column] for shares in map(_values, report.sources.values())]) for column in range(8)]
    rows.append([Cell("Mean of sources"), *map(Cell, map(_percent, means)), *rows[-1][-2:]])
    notes = [
        f"A step with a score of at least {report.threshold.value:.4g} counts as judged correct "
        f"({report.threshold.label}).",
        _oracle_warning(report),
        f"{report.overall.neutral_steps} neutral steps are left out; Overall pools the steps of all sources, "
        "the mean of sources counts each source the same.",
        f"ECE: expected calibration error over {NUM_BINS} bins of equal width.",
        coverage,
    ]
    title = f"Step judgement on VisualProcessBench{_oracle_title(report)} (%)"
    return Table(title, [*header, "Steps", "Solutions"], rows, " ".join(note for note in notes if note))


def step_index_table(report: StepReport) -> Table:
    """One row per step index; late ones share a row."""
    rows = []
    for metrics in _shown_places(report.by_step_index):
        is_last = metrics.step_index == SHOWN_PLACES and report.by_step_index[-1].step_index > SHOWN_PLACES
        name = f"{metrics.step_index}{' and later' if is_last else ''}"
        shares = (metrics.error_rate, metrics.wrong_recall, metrics.correct_recall)
        rows.append(
            [Cell(text) for text in (name, *map(_percent, shares), str(metrics.wrong_steps), str(metrics.steps))]
        )
    header = ["Step (from 0)", "Error rate", "Wrong steps found", "Correct steps passed", "Wrong steps", "Steps"]
    note = (
        f"Error rate: share of steps that people marked wrong. Found, passed: by the {report.threshold.label}. "
        f"{_oracle_warning(report)}"
    )
    return Table(f"Errors by place of the step{_oracle_title(report)} (%)", header, rows, note.strip())


def step_report_tables(report: StepReport, coverage: str = "") -> list[Table]:
    """All tables of a report."""
    return [
        source_table(report, coverage),
        threshold_table(report.thresholds),
        first_wrong_table(report.thresholds[0]),
        step_index_table(report),
    ]


def step_report_markdown(report: StepReport, coverage: str = "") -> str:
    """All tables of a report in markdown."""
    return "\n".join(table.to_markdown() for table in step_report_tables(report, coverage))


def step_report_figure(report: StepReport) -> Figure:
    """A reliability diagram, and errors by step index."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    reliability, places = figure.subplots(1, 2)
    draw_reliability(reliability, report.calibration, report.threshold)
    _draw_places(places, report)
    figure.suptitle(f"VisualProcessBench{_oracle_title(report)}")
    return figure


def draw_reliability(axes: Axes, calibration: Sequence[CalibrationBin], threshold: StepThreshold) -> None:
    """Draw a reliability diagram: the share of correct steps against the mean score of each bin."""
    bins = [entry for entry in calibration if entry.steps]
    most = max((entry.steps for entry in bins), default=1)
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":", label="perfect")
    axes.bar(
        [entry.low for entry in bins],
        [entry.steps / most for entry in bins],
        width=[entry.high - entry.low for entry in bins],
        align="edge",
        color="lightsteelblue",
        label="steps (share of the fullest bin)",
    )
    if not bins:
        axes.text(0.5, 0.4, "no probabilities to calibrate", ha="center", color="gray")
    points = [(entry.mean_score or 0.0, entry.correct_share or 0.0) for entry in bins]
    axes.plot(*zip(*points, strict=True) if points else ([], []), color="tab:red", marker="o", label="correct steps")
    axes.axvline(threshold.value, color="black", linewidth=0.8, linestyle="--", label=threshold.source)
    axes.set_xlabel("step score")
    axes.set_ylabel("share")
    axes.set_title("Calibration")
    axes.legend(fontsize="small", frameon=False)


def _draw_places(axes: Axes, report: StepReport) -> None:
    shown = _shown_places(report.by_step_index)
    for name, style in (("error_rate", "-"), ("wrong_recall", "--"), ("correct_recall", ":")):
        points = [(row.step_index, 100 * getattr(row, name)) for row in shown if getattr(row, name) is not None]
        label = {"error_rate": "error rate", "wrong_recall": "wrong steps found", "correct_recall": "correct passed"}
        axes.plot(*zip(*points, strict=True) if points else ([], []), linestyle=style, marker=".", label=label[name])
    axes.set_ylim(-3, 103)
    axes.set_xlabel(f"place of the step, from 0; {SHOWN_PLACES} and later together")
    axes.set_ylabel("%")
    axes.set_title("Errors by place")
    axes.legend(fontsize="small", frameon=False)


def _shown_places(rows: list[StepIndexMetrics]) -> list[StepIndexMetrics]:
    """The rows; those from :data:`SHOWN_PLACES` on are pooled into one."""
    late = [row for row in rows if row.step_index >= SHOWN_PLACES]
    if len(late) < 2:
        return rows
    steps, wrong = sum(row.steps for row in late), sum(row.wrong_steps for row in late)
    found = sum((row.wrong_recall or 0.0) * row.wrong_steps for row in late)
    passed = sum((row.correct_recall or 0.0) * (row.steps - row.wrong_steps) for row in late)
    pooled = StepIndexMetrics(
        step_index=SHOWN_PLACES,
        steps=steps,
        wrong_steps=wrong,
        error_rate=wrong / steps,
        wrong_recall=found / wrong if wrong else None,
        correct_recall=passed / (steps - wrong) if steps > wrong else None,
    )
    return [*(row for row in rows if row.step_index < SHOWN_PLACES), pooled]


def _shares(metrics: StepMetrics) -> list[str]:
    return [_percent(value) for value in _values(metrics)]


def _mean(values: list[float | None]) -> float | None:
    """The mean of those that are defined."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _values(metrics: StepMetrics) -> tuple[float | None, ...]:
    return (
        metrics.macro_f1,
        metrics.correct_f1,
        metrics.wrong_f1,
        metrics.accuracy,
        metrics.auroc,
        metrics.correct_average_precision,
        metrics.wrong_average_precision,
        metrics.expected_calibration_error,
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _counted(metrics: StepMetrics) -> int:
    return metrics.correct_steps + metrics.wrong_steps


def _oracle_title(report: StepReport) -> str:
    return " with the ORACLE threshold" if report.threshold.source == "oracle" else ""


def _oracle_warning(report: StepReport) -> str:
    if report.threshold.source != "oracle":
        return ""
    return "ORACLE: the threshold was chosen on these very labels, so F1 and accuracy are upper bounds, not results."
