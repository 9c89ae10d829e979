"""The paper's Table 3, VisualProcessBench by critic and source, and what else its reports say."""

from __future__ import annotations

from collections.abc import Sequence

from tools.report.best_of_n_tables import STEP_F1, label_of
from tools.report.numbers import Entry, ReportTable, Row
from tools.report.quoted import quoted_beside

SOURCES = {
    "MMMU": "MMMU",
    "MathVision": "MathVision",
    "MathVerse": "MathVerse-VO",
    "DynaMath": "DynaMath",
    "WeMath": "WeMath",
}
"""Sources in the paper's order, with the paper's names."""

_MEASURES = {
    "Macro F1": STEP_F1,
    "Mean of sources": ("thresholds", "0", "mean_of_sources", "macro_f1"),
    "F1 correct": ("thresholds", "0", "pooled", "correct_f1"),
    "F1 wrong": ("thresholds", "0", "pooled", "wrong_f1"),
    "AUROC": ("overall", "auroc"),
    "ECE": ("overall", "expected_calibration_error"),
    "First wrong step": ("thresholds", "0", "pooled", "first_wrong_exact"),
}


def source_table(entries: Sequence[Entry]) -> ReportTable | None:
    """Table 3: macro F1 of each critic by source, and over all steps."""
    judged = [entry for entry in entries if entry.first.process_bench]
    if not judged:
        return None
    rows = [
        Row(
            f"{label_of(entry)}, threshold {(entry.first.process_bench or {})['threshold']:.3g}",
            [
                *(entry.process_bench("sources", source, "macro_f1") for source in SOURCES),
                entry.process_bench(*STEP_F1),
            ],
            "this report",
        )
        for entry in judged
    ]
    quoted, about = quoted_beside("table3", [*SOURCES.values(), "overall"])
    title = "Macro F1 of steps on VisualProcessBench by critic and source (Table 3) (%)"
    columns = [*SOURCES.values(), "Overall"]
    note = " ".join(filter(None, ("Overall pools the steps of all sources.", _coverage(judged), about)))
    return ReportTable("table3", title, "Critic", columns, [*rows, *quoted], note, frozenset({len(SOURCES)}))


def measure_table(entries: Sequence[Entry]) -> ReportTable | None:
    """Both overall numbers, ranking, calibration and first wrong steps of each critic."""
    judged = [entry for entry in entries if entry.first.process_bench]
    if not judged:
        return None
    rows = [Row(label_of(entry), [entry.process_bench(*keys) for keys in _MEASURES.values()]) for entry in judged]
    title = "More about VisualProcessBench (%)"
    note = "ECE: expected calibration error over 15 bins. First wrong step: found in this share of the wrong solutions."
    return ReportTable("step_measures", title, "Critic", list(_MEASURES), rows, note, frozenset({0, 1}))


def _coverage(entries: Sequence[Entry]) -> str:
    """Which set it is, if it is not the released one."""
    reports = [result.process_bench or {} for entry in entries for result in entry.results]
    partial = dict.fromkeys(report.get("coverage", "") for report in reports if not report.get("is_released_set"))
    return next(iter(partial), "")
