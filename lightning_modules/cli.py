"""The `visualprm` command.

What is slow to import is imported when a command runs: ``visualprm --help`` needs none of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from lightning_modules.configuration.interrupted_imports import stop_in_one_line
from lightning_modules.configuration.kept_help import KeptHelp, asks_for_help
from lightning_modules.configuration.mistakes import ToolParser

if TYPE_CHECKING:
    from lightning_modules.configuration.command import VisualPRMCLI

PROGRAM = "visualprm"
SUBCOMMANDS = {
    "fit": "train a reward model or a policy, or go on with a run",
    "validate": "evaluate on the validation data",
    "test": "evaluate: step F1 on VisualProcessBench, Best-of-N on benchmarks",
    "predict": "sample solutions, or annotate them by Monte Carlo",
}
_EXAMPLES = """\
examples:
  visualprm fit --config experiments/visualprm_8b/full.yaml
  visualprm fit --config experiments/visualprm_8b/full.yaml --config experiments/strategies/fsdp2.yaml
  visualprm test --config my_test.yaml --model.model_name_or_path checkpoints/VisualPRM-8B

Every subcommand takes --config FILE, more of them as overlays, and --KEY VALUE for each key of such a file;
`visualprm fit --help` lists the keys. VISUALPRM_DEBUG=1 shows the traceback of every error.
"""


def run(args: Sequence[str] | None = None, kind: type[VisualPRMCLI] | None = None) -> VisualPRMCLI:
    """Run `visualprm fit|validate|test|predict --config FILE [--config FILE ...] [--key value ...]`.

    Args:
        args: Command-line arguments; those of the process by default.
        kind: What reads and runs them; :class:`lightning_modules.configuration.command.VisualPRMCLI` by default.

    Raises:
        SystemExit: If the arguments or a configuration file are refused.
        Exception: What goes wrong when the run is set up or later.
    """
    from lightning_modules.configuration.command import VisualPRMCLI, run_command

    return run_command(args, kind or VisualPRMCLI)


def main() -> None:
    """Console entry point; a user's mistake ends it with a few lines on stderr."""
    stop_in_one_line()
    _answer_without_imports(sys.argv[1:])
    kept = KeptHelp(sys.argv[1:]) if asks_for_help(sys.argv[1:]) else None
    if kept and (text := kept.read()):
        sys.stdout.write(text)
        return
    from torch.distributed.elastic.multiprocessing.errors import record

    from lightning_modules.callbacks.failure_log import failures_reported

    with failures_reported(PROGRAM), kept.noted() if kept else nullcontext():
        # `record` lets `torchrun` say which process failed first, and why.
        record(run)()


def _answer_without_imports(arguments: Sequence[str]) -> None:
    """Show the help of the whole command, or say that there is no such subcommand; otherwise do nothing."""
    parser = ToolParser(
        prog=PROGRAM,
        description="Train and evaluate process reward models, sample and annotate solutions.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="subcommands", metavar="{" + ",".join(SUBCOMMANDS) + "}", required=True)
    for name, text in SUBCOMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    # Options before the subcommand are of the whole command, and `LightningCLI` reads them.
    if not arguments or arguments[0] in ("-h", "--help") or not arguments[0].startswith("-"):
        parser.parse_known_args(arguments[:1])


if __name__ == "__main__":
    main()
