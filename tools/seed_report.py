"""Best-of-N of several runs of the recipe in one table: one row per seed, with paired differences.

Example::

    python -m tools.seed_report runs/quickstart/seed0 runs/quickstart/seed1 runs/quickstart/seed2
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import nonempty_path
from lightning_modules.metrics.table import Cell, Table, print_tables

REPORT = Path("process_reward_model_test", "best_of_n_test.json")
"""Where a run of the quickstart keeps its Best-of-N report."""


def seed_table(runs: Sequence[Path], column: str = "all_questions") -> Table:
    """Accuracies in percent of the methods, and differences in percentage points with their 95 % intervals.

    Args:
        runs: Folders of finished runs.
        column: ``all_questions``, ``overall`` or a benchmark.

    Raises:
        ValueError: If a run has no report yet, or the runs compare other methods or another number of solutions; names
            the folder.
    """
    reports: list[dict[str, Any]] = []
    for run in runs:
        if not (run / REPORT).is_file():
            raise ValueError(f"{run}: no {REPORT}; the run has not come to its end")
        reports.append(json.loads((run / REPORT).read_text()))
    first = reports[0]
    largest = str(first["ns"][-1])
    methods, differences = list(first["accuracies"][column]), list(first["differences"][column])
    rows = []
    for run, report in zip(runs, reports, strict=True):
        accuracies, of_pairs = report["accuracies"][column], report["differences"][column]
        if list(accuracies) != methods or list(of_pairs) != differences or str(report["ns"][-1]) != largest:
            raise ValueError(f"{run}: compares other methods or numbers of solutions than {runs[0]}")
        values = [f"{100 * accuracies[method][largest]['value']:.1f}" for method in methods]
        pairs = [
            "{value:+.1f} [{low:+.1f}, {high:+.1f}]".format(**{k: 100 * v for k, v in of_pairs[name][largest].items()})
            for name in differences
        ]
        rows.append([Cell(text) for text in (run.name, *values, *pairs)])
    return Table(f"Best-of-{largest} by seed, {column.replace('_', ' ')} (%)", ["run", *methods, *differences], rows)


@tool("seed_report")
def main() -> int:
    """Command line of the tool; returns the exit status."""
    parser = ToolParser(prog="seed_report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=nonempty_path, help="folders of finished runs")
    parser.add_argument("--column", default="all_questions", help="all_questions, overall, or a benchmark")
    arguments = parser.parse_args()
    print_tables([seed_table(arguments.runs, arguments.column)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
