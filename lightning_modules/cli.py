"""The `visualprm` command: a thin LightningCLI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import ActionYesNo
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch.distributed.elastic.multiprocessing.errors import record

# Importing the packages makes their classes known by short `class_path`s.
import datamodules.prompts_datamodule
import datamodules.visual_prm_400k  # noqa: F401
import lightning_modules.annotation
import lightning_modules.callbacks.best_of_n
import lightning_modules.callbacks.process_bench
import lightning_modules.callbacks.run_checkpoints
import lightning_modules.callbacks.save_pretrained
import lightning_modules.callbacks.throughput
import lightning_modules.distributed.fully_sharded
import lightning_modules.policy
import lightning_modules.process_reward  # noqa: F401
from lightning_modules.callbacks.defaults import add_default_callbacks, chosen_callbacks
from lightning_modules.callbacks.failure_log import failures_reported
from lightning_modules.callbacks.lost_ranks import LostRanks
from lightning_modules.callbacks.prediction_writer import PredictionWriter
from lightning_modules.callbacks.requeue import Requeue
from lightning_modules.callbacks.run_checkpoints import checkpoint_to_load
from lightning_modules.configuration.parser import PARSER_OPTIONS, ConfigurationParser
from lightning_modules.distributed.meta_loading import structure_only
from lightning_modules.distributed.rank_logging import configure_logging
from lightning_modules.distributed.time_limits import register_seconds

register_seconds()


class VisualPRMCLI(LightningCLI):
    """A LightningCLI where the configuration alone says how a model is set up, also with `--ckpt_path`.

    Models are made without weights; these are loaded once the trainer's strategy knows where to, see
    :meth:`lightning_modules.model.backbone_module.BackboneModule.configure_model`.
    """

    def instantiate_classes(self) -> None:
        """Make model, data and trainer."""
        with structure_only():
            super().instantiate_classes()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the name of the run, and the callbacks that it has even where an overlay replaces `trainer.callbacks`."""
        parser.add_argument(
            "--run_name",
            type=str | None,
            default=None,
            help="Name of the run; experiments name the folders of its logs and results after it.",
        )
        parser.add_lightning_class_args(LostRanks, "lost_ranks")
        parser.add_lightning_class_args(Requeue, "requeue")
        add_default_callbacks(parser)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Add what one command alone has."""
        parser: LightningArgumentParser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument(
                "--overwrite",
                action=ActionYesNo,
                default=False,
                help="Begin anew, whatever is at the output of the PredictionWriter.",
            )
        return parser

    def before_predict(self) -> None:
        """Tell what writes the predictions of which weights they are, and whether to begin anew."""
        for callback in self.trainer.callbacks:
            if isinstance(callback, PredictionWriter):
                callback.overwrite |= self._get(self.config_init, "overwrite")
                callback.checkpoint = self._get(self.config_init, "ckpt_path")

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        chosen = chosen_callbacks(callbacks, config, self._get(self.config_init, "monitoring"))
        return super()._instantiate_trainer(config, chosen)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let hyperparameters stored in the checkpoint replace those that were given."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Find the checkpoint that ``--ckpt_path`` stands for, or that a run goes on from by itself."""
        kwargs: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        if "ckpt_path" in kwargs:
            kwargs["ckpt_path"] = checkpoint_to_load(self.trainer, subcommand == "fit", kwargs["ckpt_path"])
        return kwargs


def run(args: Sequence[str] | None = None, kind: type[VisualPRMCLI] = VisualPRMCLI) -> LightningCLI:
    """Run `visualprm fit|validate|test|predict --config FILE [--config FILE ...] [--key value ...]`.

    Args:
        args: Command-line arguments; those of the process by default.
        kind: What reads and runs them.
    """
    configure_logging()
    return kind(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        parser_class=ConfigurationParser,
        parser_kwargs=PARSER_OPTIONS,
        save_config_kwargs={"overwrite": True},
        args=list(args) if args is not None else None,
    )


@record
def main() -> None:
    """Console entry point; `record` lets `torchrun` say which process failed first, and why."""
    with failures_reported():
        run()


if __name__ == "__main__":
    main()
