import pytest

from lightning_modules.metrics.best_of_n_figure import figure_png
from lightning_modules.metrics.step_report import ScoredSolution, step_report
from lightning_modules.metrics.step_report_table import (
    SHOWN_PLACES,
    source_table,
    step_index_table,
    step_report_figure,
    step_report_markdown,
)
from lightning_modules.metrics.step_threshold import StepThreshold

SOLUTIONS = [
    ScoredSolution("a", "MMMU", [0.9, 0.4, 0.1], [1, 1, -1]),
    ScoredSolution("b", "DynaMath", [0.7, 0.2, 0.6], [-1, 0, 1]),
    ScoredSolution("c", "MMMU", [0.8], [1]),
    ScoredSolution("d", "WeMath", [0.5], [1]),
]


def texts(row):
    return [cell.text for cell in row]


def test_a_row_a_source():
    table = source_table(step_report(SOLUTIONS, StepThreshold(0.5)), "All samples.")
    assert [row[0].text for row in table.rows] == ["DynaMath", "MMMU", "WeMath", "Overall", "Mean of sources"]
    # MMMU: .9 and .8 right, .4 judged wrong, .1 found. ECE: four bins of one step: (.1 + .6 + .1 + .2) / 4.
    assert texts(table.rows[1]) == ["MMMU", "73.3", "80.0", "66.7", "75.0", "100.0", "100.0", "100.0", "25.0", "4", "2"]
    assert texts(table.rows[2])[5:8] == ["-", "-", "-"]
    # Macro F1: pooled (8 / 10 + 2 / 4) / 2; the mean of sources is (33.3 + 73.3 + 50) / 3.
    assert [texts(row)[1] for row in table.rows] == ["33.3", "73.3", "50.0", "65.0", "52.2"]
    assert "fixed threshold 0.5" in table.note
    assert "1 neutral steps are left out" in table.note
    assert table.note.endswith("All samples.")
    assert "ORACLE" not in table.note + table.title


def test_a_row_a_place():
    table = step_index_table(step_report(SOLUTIONS, StepThreshold(0.5)))
    assert [texts(row) for row in table.rows] == [
        ["0", "25.0", "0.0", "100.0", "1", "4"],
        ["1", "0.0", "-", "0.0", "0", "1"],
        ["2", "50.0", "100.0", "100.0", "1", "2"],
    ]


def test_late_places_share_a_row():
    long = [
        ScoredSolution("a", "MMMU", [0.9] * 30, [1] * 25 + [-1] * 5),
        ScoredSolution("b", "MMMU", [0.1] * 22, [1] * 21 + [-1]),
    ]
    report = step_report(long, StepThreshold(0.5))
    assert len(report.by_step_index) == 30
    rows = step_index_table(report).rows
    assert len(rows) == SHOWN_PLACES + 1
    # From place 20: 10 and 2 steps, 5 and 1 of them wrong; only the last is found; 5 of 6 correct ones pass.
    assert texts(rows[-1]) == ["20 and later", "50.0", "16.7", "83.3", "6", "12"]


@pytest.mark.parametrize(
    ("threshold", "is_oracle"), [(None, True), (StepThreshold(0.3, "validation", "v.jsonl"), False)]
)
def test_where_the_threshold_is_from_is_said_in_every_table(threshold, is_oracle):
    report = step_report(SOLUTIONS, threshold)
    for table in (source_table(report), step_index_table(report)):
        assert ("with the ORACLE threshold" in table.title) == is_oracle
        assert ("upper bounds, not results" in table.note) == is_oracle
        assert report.threshold.label in table.note
    assert step_report_markdown(report).count("ORACLE") == (8 if is_oracle else 0)
    figure = step_report_figure(report)
    assert ("ORACLE" in figure.get_suptitle()) == is_oracle


def test_figure():
    figure = step_report_figure(step_report(SOLUTIONS, StepThreshold(0.5)))
    reliability, places = figure.axes
    lines = {line.get_label(): line for line in reliability.lines}
    assert list(lines["correct steps"].get_xdata()) == pytest.approx([0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert list(lines["correct steps"].get_ydata()) == [0, 1, 1, 1, 0, 1, 1]
    assert list(places.lines[0].get_ydata()) == [25, 0, 50]
    assert figure_png(figure).startswith(b"\x89PNG")


def test_figure_of_nothing_but_neutral_steps():
    assert figure_png(step_report_figure(step_report([ScoredSolution("a", "MMMU", [0.9], [0])], StepThreshold(0.5))))
