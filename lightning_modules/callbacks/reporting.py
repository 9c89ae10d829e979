"""The model's protocol, output folders and loggers of the reporting callbacks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from lightning_modules.protocol import Protocol

logger = logging.getLogger(__name__)


def protocol_of(module: LightningModule) -> Protocol:
    """The protocol of a reward model; the default protocol if the module has none."""
    found = getattr(module, "protocol", None)
    return found if isinstance(found, Protocol) else Protocol()


def run_label(trainer: Trainer) -> str:
    """Label of a report: ``test``, ``validate``, ``epoch3``, or ``epoch3_step120`` between epoch ends."""
    if trainer.state.fn != "fit":
        return str(trainer.state.fn.value if trainer.state.fn else "run")
    label = f"epoch{trainer.current_epoch}"
    is_within_epoch = trainer.val_check_batch is not None and trainer.val_check_batch < trainer.num_training_batches
    return f"{label}_step{trainer.global_step}" if is_within_epoch else label


def output_folder(trainer: Trainer, output_dir: str | None) -> Path | None:
    """Folder of reports: ``output_dir``, else the logger's, else the trainer's; None in a fast-dev-run.

    All ranks must call this together.
    """
    log_dir = trainer.log_dir
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    return Path(output_dir or log_dir or trainer.default_root_dir)


def log_scalars(trainer: Trainer, scalars: Mapping[str, float]) -> None:
    """Send scalars to all loggers; they do not become metrics of the trainer."""
    for run_logger in trainer.loggers:
        run_logger.log_metrics(dict(scalars), step=trainer.global_step)


def log_markdown(trainer: Trainer, tag: str, text: str) -> None:
    """Show markdown in TensorBoard, if that is a logger; rank zero only."""
    for run_logger in trainer.loggers:
        if isinstance(run_logger, TensorBoardLogger):
            run_logger.experiment.add_text(tag, text, trainer.global_step)


def log_figure(trainer: Trainer, tag: str, figure: Figure) -> None:
    """Show a figure in TensorBoard, if that is a logger; rank zero only."""
    for run_logger in trainer.loggers:
        if isinstance(run_logger, TensorBoardLogger):
            run_logger.experiment.add_figure(tag, figure, trainer.global_step, close=False)
