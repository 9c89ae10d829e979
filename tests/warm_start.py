"""What every `visualprm` process works out alike, done once where tests/fork_server.py imports this.

Parsers of the classes that configurations name, and the table by which transformers renames weights. It is Python
alone, which starts no threads, and it changes nothing: no seed, no logging, no variables.
"""

from unittest.mock import patch

import pytest
from cli_runs import REPOSITORY, ParsedCLI
from lightning.pytorch.utilities.seed import isolate_rng
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from lightning_modules.cli import run

COMMANDS = (
    ("fit", "quickstart/process_reward_model.yaml", "strategies/fsdp2.yaml"),
    ("predict", "quickstart/annotation.yaml"),
)


def warm_up() -> None:
    """Read command lines without running them, and make the table."""
    with (
        pytest.MonkeyPatch.context() as variables,
        isolate_rng(),
        patch("lightning_modules.configuration.command.configure_logging"),
        patch("lightning.pytorch.cli.seed_everything"),
    ):
        variables.setenv("VISUALPRM_RUN", "runs/none")
        for subcommand, *names in COMMANDS:
            run([subcommand, *(f"--config={REPOSITORY / 'experiments' / name}" for name in names)], ParsedCLI)
    get_checkpoint_conversion_mapping("internvl")


warm_up()
