r"""The tables and figures of the paper from finished tests, beside the paper's own numbers.

Examples::

    visualprm-report runs/prm_test runs/orm_test --output report       # critics on the same candidates
    visualprm-report "early stop"=runs/a_test runs/b_test --output report   # what tables call a critic
    visualprm-report runs/quickstart/seed* --seeds --output report     # mean and deviation over seeds

A run is a folder with the results of `visualprm test`, or one with such folders in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.storage.files import atomic_write_bytes, atomic_write_text, require_writable_folder
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import nonempty_path, nonempty_text
from tools.report.belonging import DIFFERENCES, check_belonging
from tools.report.best_of_n_tables import aggregation_table, curve_table, policy_table, setting_table
from tools.report.figures import ReportFigure, curve_figure
from tools.report.numbers import Entry, ReportTable
from tools.report.page_file import page_html
from tools.report.process_bench_tables import measure_table, source_table
from tools.report.results import RunResult, find_results
from tools.report.seeds import seed_rows
from tools.report.step_figures import histogram_figure, place_figure, ranking_figure, reliability_figure
from tools.report.writers import csv_of, json_of, latex_of, markdown_of


@tool("visualprm-report")
def main(arguments: list[str] | None = None) -> int:
    """Command line of the tool.

    Returns:
        0 if the report is written, 2 if something is wrong with what was given.
    """
    parser = ToolParser(
        prog="visualprm-report",
        description=(__doc__ or "").splitlines()[0],
        epilog="\n".join((__doc__ or "").splitlines()[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=nonempty_text, metavar="[NAME=]FOLDER", help="of runs or tests")
    parser.add_argument("--output", type=nonempty_path, required=True, metavar="FOLDER", help="of the report")
    parser.add_argument("--seeds", action="store_true", help="the folders are seeds of one recipe: mean and deviation")
    parser.add_argument(
        "--allow",
        nargs="+",
        choices=DIFFERENCES,
        default=[],
        metavar="KIND",
        help=f"show results that differ in this beside each other, with a note: {', '.join(DIFFERENCES)}",
    )
    parser.add_argument("--title", default="Report", help="of the page")
    given = parser.parse_args(arguments)
    require_writable_folder(given.output)
    entries = find_entries(given.runs, given.seeds)
    notes = check_belonging(entries, given.allow)
    tables, figures = make_tables(entries), make_figures(entries)
    write_report(given.output, given.title, tables, figures, [*notes, *_what_was_read(entries)])
    print(
        f"{given.output / 'report.html'}: {len(tables)} tables, {len(figures)} figures of {len(entries)} reward models"
    )
    return 0


def find_entries(runs: Sequence[str], are_seeds: bool) -> list[Entry]:
    """The reward models of some runs, those of the same name told apart by their run.

    Args:
        runs: See :func:`tools.report.results.find_results`.
        are_seeds: Whether each run is a seed of one recipe; then results of the same place in it belong together.

    Raises:
        FileNotFoundError: If a folder or its results are not there.
        ValueError: If a folder is given twice, or seeds hold other tests.
    """
    found = [find_results(run) for run in runs]
    folders = [result.folder.resolve() for _, results in found for result in results.values()]
    twice = [folder for folder in folders if folders.count(folder) > 1]
    if twice:
        raise ValueError(f"{twice[0]}: given twice")
    if are_seeds:
        return _seeds(runs, [results for _, results in found])
    results = [result for _, results in found for result in results.values()]
    return [Entry(_name_among(result, results), [result]) for result in results]


def _name_among(result: RunResult, results: Sequence[RunResult]) -> str:
    """The name, behind as many folders as tell the result from others of the same name."""
    own = result.folder.absolute().parts[:-1]
    others = [each.folder.absolute().parts[:-1] for each in results if each.name == result.name and each is not result]
    depth = 0
    while depth < len(own) and any(other[len(other) - depth :] == own[len(own) - depth :] for other in others):
        depth += 1
    return "/".join([*own[len(own) - depth :], result.name])


def _seeds(runs: Sequence[str], found: Sequence[dict[str, RunResult]]) -> list[Entry]:
    if len(found) < 2:
        raise ValueError(f"{runs[0]}: --seeds needs at least two runs")
    for run, results in zip(runs, found, strict=True):
        if absent := set(found[0]) ^ set(results):
            raise ValueError(
                f"{runs[0]} and {run}: seeds of one recipe hold the same tests; only one of them has "
                f"{', '.join(sorted(absent))}"
            )
    return [Entry(result.name, [results[place] for results in found]) for place, result in found[0].items()]


def make_tables(entries: Sequence[Entry]) -> list[ReportTable]:
    """Every table that there are numbers for, in the order of the paper."""
    tables = [
        policy_table(entries),
        source_table(entries),
        aggregation_table(entries),
        policy_table(entries, is_text=True),
        curve_table(entries),
        setting_table(entries),
        measure_table(entries),
    ]
    for entry in entries:
        if len(entry.results) > 1 and entry.first.best_of_n and entry.first.critic != "ORM":
            tables.append(seed_rows(entry))
    return _named_apart([table for table in tables if table is not None])


def _named_apart(tables: Sequence[ReportTable]) -> list[ReportTable]:
    """Tables of the same name with a number, for the files' sake."""
    names = [table.name for table in tables]
    return [
        table
        if names.count(table.name) == 1
        else ReportTable(**{**vars(table), "name": f"{table.name}_{names[:place].count(table.name) + 1}"})
        for place, table in enumerate(tables)
    ]


def make_figures(entries: Sequence[Entry]) -> list[ReportFigure]:
    """Every figure that there are numbers for."""
    makers = (curve_figure, place_figure, reliability_figure, histogram_figure, ranking_figure)
    return [figure for make in makers if (figure := make(entries)) is not None]


def _what_was_read(entries: Sequence[Entry]) -> list[str]:
    """A sentence about each result."""
    sentences = []
    for entry in entries:
        for result in entry.results:
            model = (result.best_of_n or result.process_bench or {}).get("model", "")
            candidates = sum(rows.count for rows in result.candidates.values())
            parts = [f"{entry.name}: {result.folder}", f"model {model}" if model else ""]
            parts += [f"{candidates} candidates of {result.policy}" if candidates else ""]
            parts += [f"{len(result.step_scores)} solutions of VisualProcessBench" if result.step_scores else ""]
            sentences.append(", ".join(filter(None, parts)) + ".")
    return sentences


def write_report(
    folder: Path,
    title: str,
    tables: Sequence[ReportTable],
    figures: Sequence[ReportFigure],
    notes: Sequence[str],
) -> None:
    """Write the tables and figures, each as files of its own, and the page last.

    Args:
        folder: Of ``report.html``, ``report.md``, ``origins.json``, ``tables`` and ``figures``.
        title: Of the page.
        tables: In order.
        figures: In order.
        notes: What is to be known about the report.
    """
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for table in tables:
        for ending, text in (("md", table.to_table().to_markdown()), ("csv", csv_of(table)), ("tex", latex_of(table))):
            atomic_write_text(folder / "tables" / f"{table.name}.{ending}", text)
    for figure in figures:
        atomic_write_bytes(folder / "figures" / f"{figure.name}.png", figure.png)
    atomic_write_text(folder / "report.md", markdown_of(title, tables, notes))
    atomic_write_text(folder / "origins.json", json_of(tables, figures))
    atomic_write_text(folder / "report.html", page_html(title, notes, tables, figures))


def run() -> None:
    """Console entry point."""
    sys.exit(main())


if __name__ == "__main__":
    run()
