"""Run the whole recipe in miniature, stage by stage; a stage whose result exists is skipped.

Example::

    python -m tools.quickstart --seed 0
    python -m tools.quickstart --seed 2 3 4  # three times, and one table of all
    python -m tools.quickstart --seed 2 3 4 --tables  # with the other critics of the paper's tables, and a report
    python -m tools.quickstart --seed 2 3 4 --beyond  # with what experiments/beyond has
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.storage.files import require_writable_folder
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import MAX_PROCESSES, nonempty_path, whole_number
from lightning_modules.metrics.table import print_tables
from tools.report.command import main as report
from tools.report.seeds import seed_table


def run_recipe(run: Path, seed: int, threads: int, more: Sequence[str] = ()) -> int:
    """Run the unfinished stages of :mod:`tools.quickstart_stages` in a process of their own.

    Args:
        run: Folder of the run.
        seed: Seed of the world and of all sampling and initialisation.
        threads: Number of CPU threads.
        more: Sets of stages to run besides, of ``tables`` (:mod:`tools.table_stages`) and ``beyond``
            (:mod:`tools.beyond_stages`).

    Returns:
        The exit status; that of the stage that failed, which has said why.
    """
    environment = os.environ | {
        "VISUALPRM_RUN": str(run),
        "VISUALPRM_SEED": str(seed),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "tools.quickstart_stages", *more]
    return subprocess.run(command, check=False, env=environment).returncode  # noqa: S603 - our own command


@tool("quickstart")
def main() -> int:
    """Command line of the tool; returns the exit status."""
    parser = ToolParser(prog="quickstart", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seed", type=whole_number(0, 2**32 - 1), nargs="+", default=[0], help="one run each, in seedN of the output"
    )
    parser.add_argument("--output", type=nonempty_path, default=Path("runs", "quickstart"), help="folder of the runs")
    parser.add_argument(
        "--threads", type=whole_number(1, MAX_PROCESSES), default=os.cpu_count() or 1, help="processor threads to use"
    )
    parser.add_argument(
        "--tables", action="store_true", help="train the other critics of the paper's tables, too, and write a report"
    )
    parser.add_argument("--beyond", action="store_true", help="measure what is in experiments/beyond, too")
    arguments = parser.parse_args()
    more = [name for name in ("tables", "beyond") if getattr(arguments, name)]
    runs = [arguments.output / f"seed{seed}" for seed in arguments.seed]
    for run, seed in zip(runs, arguments.seed, strict=True):
        require_writable_folder(run)
        if status := run_recipe(run, seed, arguments.threads, more):
            return status
    if len(runs) > 1:
        print_tables([seed_table(runs)])
    if arguments.tables:
        # Temperatures are other candidates, and are compared on purpose.
        seeds = ["--seeds"] if len(runs) > 1 else []
        return report([*map(str, runs), "--output", str(arguments.output / "report"), *seeds, "--allow", "rollouts"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
