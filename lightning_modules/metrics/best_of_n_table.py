"""Best-of-N reports as markdown and as tables for the terminal. Accuracies are in percent."""

from __future__ import annotations

from lightning_modules.metrics.best_of_n import ALL_QUESTIONS, OVERALL, BestOfNReport, Estimate
from lightning_modules.metrics.selection.methods import PASS_AT_N, method_label
from lightning_modules.metrics.table import Cell, Table


def column_label(column: str) -> str:
    """Displayed name of a column."""
    return {ALL_QUESTIONS: "All questions", OVERALL: "Overall"}.get(column, column)


def accuracy_table(report: BestOfNReport) -> Table:
    """Methods by benchmarks at the largest N; the best of each column is bold, not counting Pass@N."""
    n = report.ns[-1]
    rows = []
    for method in report.methods:
        row = [Cell(method_label(method, n, report.critic))]
        for column in report.columns:
            value = _percent(report, column, method)
            rivals = [_percent(report, column, other) for other in report.methods if other != PASS_AT_N]
            row.append(Cell(value, is_best=method != PASS_AT_N and float(value) == max(map(float, rivals))))
        rows.append(row)
    header = ["Method", *(column_label(column) for column in report.columns)]
    return Table(f"Best-of-{n} accuracy (%)", header, rows, _coverage_note(report))


def difference_table(report: BestOfNReport) -> Table:
    """Paired differences at the largest N over all questions and overall, in percentage points with intervals."""
    n = report.ns[-1]
    columns = (ALL_QUESTIONS, OVERALL)
    rows = [
        [
            Cell(f"{method_label(better, n, report.critic)} − {method_label(other, n, report.critic)}"),
            *(Cell(_with_interval(report.differences[column, better, other, n])) for column in columns),
        ]
        for better, other in report.comparisons
    ]
    header = ["Difference", *(column_label(column) for column in columns)]
    note = f"95 % intervals in brackets, paired, from {report.resamples} bootstrap resamples."
    return Table(f"Paired differences at N = {n} (percentage points)", header, rows, note)


def curve_table(report: BestOfNReport) -> Table:
    """Overall accuracy of each method at each N, with intervals."""
    rows = [
        [
            Cell(method_label(method, critic=report.critic)),
            *(Cell(_with_interval(report.accuracies[OVERALL, method, n], signed=False)) for n in report.ns),
        ]
        for method in report.methods
    ]
    chosen_from = {
        "all": f"Means over all subsets of N of the {report.ns[-1]} candidates, or over a sample of them for votes.",
        "first": "Of the first N candidates.",
    }[report.subsets]
    header = ["Method", *(f"N = {n}" for n in report.ns)]
    return Table("Overall accuracy (%) against N", header, rows, chosen_from)


def report_tables(report: BestOfNReport) -> list[Table]:
    """The accuracy table and the table of differences."""
    return [accuracy_table(report), difference_table(report)]


def report_markdown(report: BestOfNReport) -> str:
    """All tables as one markdown text."""
    tables = [*report_tables(report), curve_table(report)]
    return "\n".join(table.to_markdown() for table in tables)


def _percent(report: BestOfNReport, column: str, method: str) -> str:
    return f"{100 * report.accuracies[column, method, report.ns[-1]].value:.1f}"


def _with_interval(estimate: Estimate, signed: bool = True) -> str:
    sign = "+" if signed else ""
    # Adding 0.0 turns a negative zero into a positive one.
    numbers = [round(100 * number, 1) + 0.0 for number in (estimate.value, estimate.low, estimate.high)]
    value, low, high = (f"{number:{sign}.1f}" for number in numbers)
    return f"{value} [{low}, {high}]"


def _coverage_note(report: BestOfNReport) -> str:
    counts = ", ".join(f"{name} {report.coverage[name].questions}" for name in report.benchmarks)
    everything = report.coverage[ALL_QUESTIONS]
    return (
        f"Questions: {counts}. No final answer could be read in {100 * everything.unparsed_share:.1f} % of the "
        f"{everything.candidates} candidates ({everything.unparsed_questions} questions have none at all)."
    )
