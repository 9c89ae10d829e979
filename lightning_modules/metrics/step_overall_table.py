"""Tables of the overall numbers of step judgement, with thresholds side by side. Values are in percent."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_modules.metrics.best_of_n import Estimate
from lightning_modules.metrics.step_overall import StepOverall
from lightning_modules.metrics.table import Cell, Table

_COLUMNS = {
    "macro_f1": "Macro F1",
    "first_wrong_exact": "First wrong step",
    "first_wrong_within_one": "Within one",
    "response_macro_f1": "Response macro F1",
    "response_accuracy": "Response accuracy",
}


def threshold_table(thresholds: Sequence[StepOverall]) -> Table:
    """Two rows a threshold: pooled over steps, and the mean of sources, with intervals."""
    rows = []
    for overall in thresholds:
        is_oracle = overall.threshold.source == "oracle"
        name = f"{'ORACLE' if is_oracle else overall.threshold.source} {overall.threshold.value:.4g}"
        for label, values in (("pooled", overall.pooled), ("mean of sources", overall.mean_of_sources)):
            rows.append([Cell(f"{name}, {label}"), *(Cell(_with_interval(values.get(key))) for key in _COLUMNS)])
    notes = [
        "Pooled: over all steps, or solutions. Mean of sources: every source counts the same.",
        "95 % intervals in brackets, from a bootstrap over solutions.",
        "First wrong step: share of the solutions with a wrong step whose first one is the first judged wrong; within "
        "one: at most a step away. Response: a solution is right without a wrong step.",
    ]
    notes += [f"{overall.threshold.label}." for overall in thresholds if overall.threshold.source == "validation"]
    if any(overall.threshold.source == "oracle" for overall in thresholds):
        notes.append("ORACLE: chosen on these very labels, an upper bound and no result.")
    return Table("Thresholds side by side (%)", ["Threshold", *_COLUMNS.values()], rows, " ".join(notes))


def first_wrong_table(overall: StepOverall) -> Table:
    """A row a source: first wrong steps and whole solutions, with counts."""
    keys = [key for key in _COLUMNS if key != "macro_f1"]
    rows = [
        [
            Cell(name),
            *(Cell(_percent(values[key])) for key in keys),
            Cell(str(overall.wrong_solutions[name])),
            Cell(str(overall.solutions[name])),
        ]
        for name, values in overall.sources.items()
    ]
    counts = [str(sum(overall.wrong_solutions.values())), str(sum(overall.solutions.values()))]
    for label, values in (("Overall", overall.pooled), ("Mean of sources", overall.mean_of_sources)):
        cells = (Cell(_percent(values[key].value if key in values else None)) for key in keys)
        rows.append([Cell(label), *cells, *map(Cell, counts)])
    header = ["Source", *(_COLUMNS[key] for key in keys), "With a wrong step", "Solutions"]
    is_oracle = overall.threshold.source == "oracle"
    title = f"First wrong steps and whole solutions{' with the ORACLE threshold' if is_oracle else ''} (%)"
    note = f"Judged by the {overall.threshold.label}. Neutral steps are passed over."
    return Table(title, header, rows, f"{note}{' Upper bounds, not results.' if is_oracle else ''}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _with_interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{_percent(estimate.value)} [{_percent(estimate.low)}, {_percent(estimate.high)}]"
