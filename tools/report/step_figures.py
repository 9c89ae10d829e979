"""Figures of steps on VisualProcessBench: errors by place, reliability, histograms, ROC and precision-recall."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torchmetrics.functional.classification import binary_precision_recall_curve, binary_roc

from lightning_modules.callbacks.step_scores import STEP_SCORES
from lightning_modules.metrics.best_of_n_figure import figure_png
from lightning_modules.metrics.calibration import CalibrationBin
from lightning_modules.metrics.step_report import ScoredSolution, StepIndexMetrics, step_report
from lightning_modules.metrics.step_report_table import draw_reliability
from lightning_modules.metrics.step_threshold import StepThreshold
from tools.report.best_of_n_tables import label_of
from tools.report.figures import COLOURS, ReportFigure, new_figure
from tools.report.numbers import Entry
from tools.report.results import PROCESS_BENCH, RunResult

_BINS = 30


def place_figure(entries: Sequence[Entry]) -> ReportFigure | None:
    """Figure 5: share of steps, and error rate, by index of the step.

    The labels are the same for every critic, so those of the first one are drawn: by source where its test has kept the
    scores of single steps, else of all sources together.
    """
    judged = [entry.first for entry in entries if entry.first.process_bench]
    if not judged:
        return None
    result = next((each for each in judged if each.step_scores), judged[0])
    by_source = _places(result)
    figure, (shares, errors) = new_figure(2, 5.2, 3.6)
    for colour, (source, rows) in zip(COLOURS, by_source.items(), strict=False):
        places, steps = [row.step_index for row in rows], [row.steps for row in rows]
        wrong = [100 * row.error_rate for row in rows]
        shares.plot(places, [100 * count / sum(steps) for count in steps], color=colour, marker=".", linewidth=1.4)
        errors.plot(places, wrong, color=colour, marker=".", linewidth=1.4, label=source)
    for axes, label in ((shares, "share of the steps (%)"), (errors, "wrong steps (%)")):
        axes.set_xlabel("step index, from 0")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.set_ylim(bottom=0)
    errors.legend(fontsize="small", frameon=False)
    files = (str(result.folder / (STEP_SCORES if result.step_scores else PROCESS_BENCH)),)
    caption = "Labels of VisualProcessBench; neutral steps do not count."
    return ReportFigure("step_index", "Steps and errors by place (Figure 5)", caption, figure_png(figure), files)


def _places(result: RunResult) -> dict[str, list[StepIndexMetrics]]:
    if not result.step_scores:
        return {"all sources": [StepIndexMetrics(**row) for row in (result.process_bench or {})["by_step_index"]]}
    solutions = [ScoredSolution(s.sample_id, s.source, s.step_scores, s.correctness) for s in result.step_scores]
    sources = dict.fromkeys(solution.source for solution in solutions)
    by_source = {source: [each for each in solutions if each.source == source] for source in sources}
    # Labels depend on no threshold, and no interval is shown.
    return {
        source: step_report(members, StepThreshold(0.0), (-1.0, 1.0), resamples=1).by_step_index
        for source, members in by_source.items()
    }


def reliability_figure(entries: Sequence[Entry]) -> ReportFigure | None:
    """Share of correct steps against the score, a panel for each critic, with the expected calibration error."""
    found = [
        (label_of(entry), result)
        for entry in entries
        for result in entry.results
        if (result.process_bench or {}).get("calibration")
    ]
    if not found:
        return None
    figure, panels = new_figure(len(found))
    for axes, (label, result) in zip(panels, found, strict=True):
        report = result.process_bench or {}
        threshold = StepThreshold(report["threshold"], report["threshold_source"], report["threshold_chosen_on"])
        draw_reliability(axes, [CalibrationBin(**each) for each in report["calibration"]], threshold)
        axes.set_title(f"{label}: ECE {100 * report['overall']['expected_calibration_error']:.1f} %", fontsize="medium")
    files = tuple(str(result.folder / PROCESS_BENCH) for _, result in found)
    caption = "Expected calibration error over 15 bins of equal width; a panel for each critic and seed."
    return ReportFigure("reliability", "Reliability of step scores", caption, figure_png(figure), files)


def histogram_figure(entries: Sequence[Entry]) -> ReportFigure | None:
    """Scores of correct and of wrong steps, a panel for each critic; seeds are pooled."""
    found = [(entry, *_scored(entry.results)) for entry in entries if _has_steps(entry)]
    if not found:
        return None
    figure, panels = new_figure(len(found))
    for axes, (entry, scores, is_correct) in zip(panels, found, strict=True):
        bins = np.linspace(min(0.0, float(scores.min())), 1.0, _BINS + 1).tolist()
        for name, chosen, colour in (("correct", is_correct, COLOURS[0]), ("wrong", ~is_correct, COLOURS[1])):
            label = f"{name} steps ({int(chosen.sum())})"
            axes.hist(scores[chosen].numpy(), bins, density=True, alpha=0.55, color=colour, label=label)
        axes.set_title(label_of(entry))
        axes.set_xlabel("step score")
        axes.set_ylabel("density")
        axes.legend(fontsize="small", frameon=False)
    title, caption = "Scores of correct and wrong steps", "Each histogram has area 1; seeds of a critic are pooled."
    return ReportFigure("step_scores", title, caption, figure_png(figure), _files(entry for entry, _, _ in found))


def ranking_figure(entries: Sequence[Entry]) -> ReportFigure | None:
    """ROC of finding correct steps, and precision against recall of finding correct and wrong ones."""
    found = [entry for entry in entries if _has_steps(entry)]
    if not found:
        return None
    figure, (roc, correct, wrong) = new_figure(3)
    for place, entry in enumerate(found):
        colour = COLOURS[place % len(COLOURS)]
        for number, result in enumerate(entry.results):
            label = label_of(entry) if number == 0 else None
            _draw_ranking((roc, correct, wrong), result, label, colour)
    roc.plot([0, 1], [0, 1], color="gray", linestyle=":")
    roc.set(title="ROC of correct steps", xlabel="wrong steps passed", ylabel="correct steps passed")
    correct.set(title="Finding correct steps", xlabel="recall", ylabel="precision", ylim=(0, 1.03))
    wrong.set(title="Finding wrong steps", xlabel="recall", ylabel="precision", ylim=(0, 1.03))
    for axes in (roc, correct, wrong):
        axes.grid(alpha=0.25)
        axes.legend(fontsize="small", frameon=False)
    title, caption = "Ranking of steps", "A line for each critic and seed; AUROC and AP of the first seed."
    return ReportFigure("step_ranking", title, caption, figure_png(figure), _files(found))


def _draw_ranking(panels: tuple[Axes, Axes, Axes], result: RunResult, label: str | None, colour: str) -> None:
    scores, is_correct = _scored([result])
    low = -1.0 if float(scores.min()) < 0 else 0.0
    # What is outside of [0, 1] would be taken for logits.
    share, targets = (scores - low) / (1 - low), is_correct.long()
    overall = (result.process_bench or {}).get("overall", {})
    passed, found, _ = binary_roc(share, targets)
    curves = [
        (passed, found, overall.get("auroc")),
        (*_recall_and_precision(share, targets), overall.get("correct_average_precision")),
        (*_recall_and_precision(1 - share, 1 - targets), overall.get("wrong_average_precision")),
    ]
    for axes, (x, y, area) in zip(panels, curves, strict=True):
        name = label if label is None or area is None else f"{label}: {100 * area:.1f}"
        axes.plot(x.numpy(), y.numpy(), color=colour, label=name, linewidth=1.4, alpha=1.0 if label else 0.6)


def _recall_and_precision(scores: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    precision, recall, _ = binary_precision_recall_curve(scores, targets)
    return recall, precision


def _has_steps(entry: Entry) -> bool:
    """Whether single steps of both labels are at hand for every seed."""
    return all(
        {1, -1} <= {label for row in result.step_scores for label in row.correctness} for result in entry.results
    )


def _scored(results: Sequence[RunResult]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and labels of the steps that count: (n,) and (n,) bool."""
    steps = [
        (score, label == 1)
        for result in results
        for row in result.step_scores
        for score, label in zip(row.step_scores, row.correctness, strict=True)
        if label != 0
    ]
    scores, labels = zip(*steps, strict=True)
    return torch.tensor(scores, dtype=torch.float64), torch.tensor(labels)


def _files(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(str(result.folder / STEP_SCORES) for entry in entries for result in entry.results)
