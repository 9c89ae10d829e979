"""The model's protocol, output folders and loggers of the reporting callbacks."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image

from datamodules.interfaces import ProcessSupervisionData, data_module_of
from datamodules.storage.files import atomic_write_text
from lightning_modules.protocol import Protocol

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def protocol_of(module: LightningModule) -> Protocol:
    """The protocol of a reward model; the default protocol if the module has none."""
    found = getattr(module, "protocol", None)
    return found if isinstance(found, Protocol) else Protocol()


def process_split_name(trainer: Trainer) -> str:
    """Names the data of the process validation split."""
    data = data_module_of(trainer)
    return data.process_split_name if isinstance(data, ProcessSupervisionData) else "the process validation split"


def run_label(trainer: Trainer) -> str:
    """Label of a report: ``test``, ``validate``, ``epoch3``, or ``epoch3_step120`` between epoch ends."""
    if trainer.state.fn != "fit":
        return str(trainer.state.fn.value if trainer.state.fn else "run")
    label = f"epoch{trainer.current_epoch}"
    is_within_epoch = trainer.val_check_batch is not None and trainer.val_check_batch < trainer.num_training_batches
    return f"{label}_step{trainer.global_step}" if is_within_epoch else label


def is_partial_evaluation(trainer: Trainer) -> bool:
    """Whether the evaluation is limited to some batches, so that labels may be missing by chance."""
    limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
    # A share of 1.0 means everything, the integer 1 a single batch.
    return bool(trainer.fast_dev_run) or not (isinstance(limit, float) and limit == 1.0)  # type: ignore[attr-defined]


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


def write_report(trainer: Trainer, folder: Path, name: str, report: Mapping[str, Any], markdown: str) -> None:
    """Write ``NAME_LABEL.json`` and ``NAME_LABEL.md`` with the label of the run; rank zero only.

    Args:
        trainer: Its epoch and step, and the name and the protocol of its model, are added to the JSON file.
        folder: Folder of the files.
        name: Name of the report.
        report: Values of JSON.
        markdown: The same for readers.
    """
    label = run_label(trainer)
    module = trainer.lightning_module
    # The tokens are filled in when a model is stored, and would differ between `fit` and a `test` of the same model.
    protocol = {key: value for key, value in asdict(protocol_of(module)).items() if key != "class_tokens"}
    head = {
        "run": label,
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "model": str(module.hparams.get("model_name_or_path", "")),
        "protocol": protocol,
    }
    text = json.dumps(head | dict(report), indent=2, allow_nan=False)
    atomic_write_text(folder / f"{name}_{label}.json", text + "\n")
    atomic_write_text(folder / f"{name}_{label}.md", markdown)


def tensorboards(trainer: Trainer) -> list[SummaryWriter]:
    """The writers of the TensorBoard loggers; to be used by rank zero only."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def show_in_tensorboard(trainer: Trainer, tag: str, shown: str | bytes | Figure) -> None:
    """Show markdown, a PNG file or a figure in TensorBoard, if that is a logger; rank zero only."""
    for board in tensorboards(trainer):
        if isinstance(shown, str):
            board.add_text(tag, shown, trainer.global_step)
        elif isinstance(shown, bytes):
            picture = np.asarray(Image.open(io.BytesIO(shown)).convert("RGB"))
            board.add_image(tag, picture, trainer.global_step, dataformats="HWC")
        else:
            board.add_figure(tag, shown, trainer.global_step, close=False)
