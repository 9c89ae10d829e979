"""A thin LightningCLI: what the `visualprm` command does once everything is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionYesNo
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

# Importing the packages makes their classes known by short `class_path`s.
import datamodules.prompts_datamodule
import datamodules.visual_prm_400k  # noqa: F401
import lightning_modules.annotation
import lightning_modules.callbacks.annotation_scores
import lightning_modules.callbacks.best_of_n
import lightning_modules.callbacks.process_bench
import lightning_modules.callbacks.run_checkpoints
import lightning_modules.callbacks.save_pretrained
import lightning_modules.callbacks.throughput
import lightning_modules.distributed.fully_sharded
import lightning_modules.knockout_judge
import lightning_modules.policy
import lightning_modules.process_reward
import lightning_modules.response_likelihood
import lightning_modules.step_judge
import lightning_modules.step_search  # noqa: F401
from datamodules.storage.checkpoint_names import require_checkpoint
from datamodules.storage.files import require_another_file
from lightning_modules.callbacks.defaults import add_default_callbacks, chosen_callbacks
from lightning_modules.callbacks.failure_log import FailureLog, log_failure, run_folder
from lightning_modules.callbacks.interrupt import Interrupt
from lightning_modules.callbacks.lost_ranks import LostRanks
from lightning_modules.callbacks.prediction_writer import PredictionWriter
from lightning_modules.callbacks.requeue import Requeue
from lightning_modules.callbacks.required import require_batches, require_places, require_reporters
from lightning_modules.callbacks.run_checkpoints import checkpoint_to_load
from lightning_modules.configuration.mistakes import cause_in_constructor
from lightning_modules.configuration.out_of_memory import advice, is_out_of_memory
from lightning_modules.configuration.parser import PARSER_OPTIONS, ConfigurationParser
from lightning_modules.configuration.places import leaves
from lightning_modules.configuration.saved_configuration import SavedConfiguration
from lightning_modules.configuration.value_ranges import (
    of_the_shell,
    require_64_bits,
    require_paths,
    require_seed,
    require_trainer,
    require_values,
)
from lightning_modules.distributed.meta_loading import structure_only
from lightning_modules.distributed.rank_logging import configure_logging
from lightning_modules.distributed.time_limits import register_seconds

register_seconds()

_NAMED_CHECKPOINTS = (None, "best", "last", "latest", "hpc", "registry")


class VisualPRMCLI(LightningCLI):
    """A LightningCLI where the configuration alone says how a model is set up, also with `--ckpt_path`.

    Models are made without weights; these are loaded once the trainer's strategy knows where to, see
    :meth:`lightning_modules.model.backbone_module.BackboneModule.configure_model`.
    """

    def __init__(self, *arguments: Any, args: list[str] | None = None, **options: Any) -> None:
        self._first_words = list(sys.argv[1:2] if args is None else args[:1])
        super().__init__(*arguments, args=args, **options)  # type: ignore[misc]

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that the command line begins with, or all: a parser takes longer to make than to use."""
        known = super().subcommands()
        return {name: skipped for name, skipped in known.items() if name in self._first_words} or known

    def _set_seed(self) -> None:
        try:
            require_seed(self._settings["seed_everything"])
        except ValueError as error:
            self._add_place(error)
            raise
        super()._set_seed()

    def instantiate_classes(self) -> None:
        """Make model, data and trainer.

        Raises:
            Exception: That of a constructor as it is, with a note about the setting.
        """
        failed: BaseException | None = None
        try:
            require_64_bits(self._settings)
            require_paths(self._settings)
            require_values(self._settings)
            require_trainer(str(self.subcommand), self._settings.get("trainer") or {})
            with structure_only():
                super().instantiate_classes()
        except Exception as error:  # noqa: BLE001 - it is raised again, without what jsonargparse has put around it
            failed = cause_in_constructor(error)
            self._add_place(failed)
        if failed is not None:
            raise failed

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            require_reporters(subcommand, self.trainer.callbacks, self.datamodule, self.model)  # type: ignore[attr-defined]
            if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                require_places(self.trainer.callbacks)  # type: ignore[attr-defined]
            super()._run_subcommand(subcommand)
            require_batches(subcommand, self.trainer)
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):  # for which Lightning exits with status 1
                raise KeyboardInterrupt from end
            raise
        except SIGTERMException:
            if any(isinstance(each, Interrupt) and each.was_asked for each in self.trainer.callbacks):  # type: ignore[attr-defined]
                sys.exit(130)  # as of a shell's command that Ctrl-C has ended
            raise
        except Exception as error:
            self._add_place(error)
            raise

    @property
    def _settings(self) -> dict[str, Any]:
        """All settings of the command, references resolved."""
        found: dict[str, Any] = self.config[self.subcommand].as_dict()
        return found

    @property
    def _run_folder(self) -> Path | None:
        """Where failures are written; nowhere in a trial run."""
        trainer = self._settings.get("trainer") or {}
        folder = None if trainer.get("fast_dev_run") else run_folder(trainer)
        return None if folder is None or of_the_shell(str(folder)) else folder

    @property
    def _stage(self) -> str:
        """What the command is at, see :data:`lightning_modules.configuration.out_of_memory.STAGES`."""
        trainer = getattr(self, "trainer", None)
        logs = [each for each in trainer.callbacks if isinstance(each, FailureLog)] if trainer is not None else []
        of_batch = logs[0].stage if logs else None
        if of_batch is None:
            return "loading"
        return {"train": "training", "predict": "prediction"}.get(of_batch, "evaluation")

    def _add_place(self, error: BaseException) -> None:
        """Note where the setting stands that an error is about, and write the failure to the folder of the run."""
        log_failure(error, self._run_folder)
        parser: Any = self.parser
        if is_out_of_memory(error):
            error.__notes__.insert(0, advice(self._settings, self._stage, error))
        elif place := parser.places.mentioned(str(error), self._settings):
            error.__notes__.insert(0, f"at {place}")

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
        parser.add_lightning_class_args(Interrupt, "interrupt")
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
        """Tell what writes the predictions of which weights they are, and whether to begin anew.

        Raises:
            FileExistsError: If they would replace a file that is read.
        """
        settings = [self._settings.get(name) for name in ("data", "model")]
        values = [value for _, value in leaves(settings) if value and isinstance(value, str)]
        read = [Path(value) for value in values if os.path.isfile(value)]
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, PredictionWriter):
                require_another_file(Path(callback.output), read)
                callback.overwrite |= self._get(self.config_init, "overwrite")
                callback.checkpoint = self._get(self.config_init, "ckpt_path")

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        chosen = chosen_callbacks(callbacks, config, self._get(self.config_init, "monitoring"))
        for callback in chosen:
            if isinstance(callback, FailureLog):  # what fails before its setup has no other folder
                callback.folder = self._run_folder
        return super()._instantiate_trainer(config, chosen)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let hyperparameters stored in the checkpoint replace those that were given."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Find the checkpoint that ``--ckpt_path`` stands for, or that a run goes on from by itself."""
        kwargs: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        if "ckpt_path" in kwargs:
            if kwargs["ckpt_path"] not in _NAMED_CHECKPOINTS:
                require_checkpoint(Path(kwargs["ckpt_path"]))
            kwargs["ckpt_path"] = checkpoint_to_load(self.trainer, subcommand == "fit", kwargs["ckpt_path"])
        return kwargs


def run_command(args: Sequence[str] | None, kind: type[VisualPRMCLI]) -> VisualPRMCLI:
    """Read a command line and run it, see :func:`lightning_modules.cli.run`."""
    configure_logging()
    return kind(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        parser_class=ConfigurationParser,
        parser_kwargs={"prog": "visualprm", **PARSER_OPTIONS},
        save_config_callback=SavedConfiguration,
        save_config_kwargs={"overwrite": True},
        args=list(args) if args is not None else None,
    )
