import io
import re

from rich.console import Console

from lightning_modules.metrics.best_of_n import Estimate, best_of_n_report
from lightning_modules.metrics.best_of_n_figure import best_of_n_figure, figure_png
from lightning_modules.metrics.best_of_n_table import (
    _with_interval,
    accuracy_table,
    difference_table,
    report_markdown,
    report_tables,
)
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.table import print_tables

NAMES = ("MMMU", "MathVista", "MathVision", "MathVerse-VO", "DynaMath", "WeMath", "LogicVista")


def small_report(names=NAMES, outcome=True):
    candidates = {
        name: [
            QuestionCandidates(name, "0", [[0.2], [0.7, 0.9]], [False, True], [0, 1], [0.5, 0.1] if outcome else None),
            QuestionCandidates(name, "1", [[0.2], [0.1]], [True, True], [0, 0], [0.5, 0.1] if outcome else None),
        ]
        for name in names
    }
    return best_of_n_report(candidates, dict.fromkeys(names, lambda correct: correct), ns=(1, 2), resamples=20)


def test_accuracy_table_holds_methods_by_columns():
    table = accuracy_table(small_report())
    assert list(table.header) == ["Method", *NAMES, "All questions", "Overall"]
    rows = {row[0].text: row[1:] for row in table.rows}
    assert list(rows) == [
        "Pass@1",
        "Random choice",
        "Self-consistency",
        "ORM",
        "PRM (mean)",
        "PRM (min)",
        "PRM (max)",
        "PRM (last)",
        "PRM (product)",
        "PRM vote",
        "PRM (answered)",
        "Pass@2",
    ]
    assert {cell.text for cell in rows["Pass@1"]} == {"75.0"}
    assert {cell.text for cell in rows["ORM"]} == {"50.0"}
    assert all(cell.is_best for cell in rows["PRM (mean)"])
    assert not any(cell.is_best for cell in rows["Pass@2"] + rows["Self-consistency"])


def test_difference_table():
    table = difference_table(small_report())
    assert [row[0].text for row in table.rows] == [
        "PRM (mean) − Self-consistency",
        "PRM (mean) − ORM",
        "PRM (mean) − Pass@1",
        "PRM vote − Self-consistency",
        "PRM vote − PRM (mean)",
        "Self-consistency − Pass@1",
    ]
    assert re.fullmatch(r"\+50\.0 \[\+\d+\.\d, \+\d+\.\d\]", table.rows[0][1].text)
    assert table.rows[-1][2].text.startswith("-25.0 [")


def test_intervals_are_written_without_negative_zero():
    assert _with_interval(Estimate(-0.0001, -0.0123, 0.1)) == "+0.0 [-1.2, +10.0]"
    assert _with_interval(Estimate(0.5, 0.25, 1.0), signed=False) == "50.0 [25.0, 100.0]"


def test_markdown_tables_are_rectangular():
    text = report_markdown(small_report(("Map|Quiz", "b")))
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(bars) == 1
        assert len({len(line) for line in block.splitlines()}) == 1
    assert "| **100.0** |" in text
    assert "Questions: Map|Quiz 2, b 2." in text


def printed(width, is_terminal):
    console = Console(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None)
    print_tables(report_tables(small_report()), console)
    return console.file.getvalue()


def test_narrow_terminal_folds_headings_and_keeps_numbers():
    text = printed(80, is_terminal=True)
    assert max(map(len, text.splitlines())) <= 80
    (line,) = [line for line in text.splitlines() if line.startswith("PRM (mean)   ")]
    assert line.split() == ["PRM", "(mean)", *["100.0"] * 9]


def test_file_output_is_not_folded():
    text = printed(80, is_terminal=False)
    (header,) = [line for line in text.splitlines() if line.startswith("Method")]
    assert header.split() == ["Method", *NAMES, "All", "questions", "Overall"]


def test_figure_shows_the_methods_in_every_panel():
    report = small_report(outcome=False)
    figure = best_of_n_figure(report)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Overall", "All questions", *NAMES]
    for axes in figure.axes:
        assert len(axes.lines) == len(axes.collections) == len(report.methods) - 1  # but "answered only"
    line = next(line for line in figure.axes[0].lines if line.get_label() == "PRM (mean)")
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata().tolist() == [75.0, 100.0]  # one candidate is as good as the other
    assert figure_png(figure).startswith(b"\x89PNG")
