"""Best-of-N of several runs of the recipe in one table: one row per seed, with paired differences.

Example::

    python -m tools.seed_report runs/quickstart/seed0 runs/quickstart/seed1 runs/quickstart/seed2
"""

from __future__ import annotations

import sys

from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import nonempty_path
from lightning_modules.metrics.table import print_tables
from tools.report.seeds import seed_table


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
