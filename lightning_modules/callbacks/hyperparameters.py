"""Hyperparameters beside the results that they led to: TensorBoard's tab "HParams"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

METRICS = (
    "best_of_n/overall",
    "best_of_n/all_questions",
    "process_bench/macro_f1",
    "process_bench/auroc",
    "process_bench/first_wrong_exact",
    "validation/macro_f1",
    "validation/auroc",
    "validation/loss",
    "train/loss",
)
"""What runs are compared by; those that a run has are its columns."""


class Hyperparameters(Callback):
    """Shows the hyperparameters of a run with the last value of each of :data:`METRICS` that it logs.

    They are written once, after the first evaluation, or when training ends without one. TensorBoard takes the values
    from the charts, so that the last ones count. Lightning's placeholder, ``hp_metric`` with the value -1, is not
    written.
    """

    def __init__(self) -> None:
        self._end: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Switch the placeholder off, before Lightning logs the hyperparameters."""
        self._end = None
        for logger in self._loggers(trainer):
            # The logger has an argument for it, which a user would have to know and give.
            logger._default_hp_metric = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the hyperparameters, after the first evaluation."""
        if not trainer.sanity_checking:
            self._begin(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write that the run has come to its end."""
        self._begin(trainer)
        if self._end is not None:
            for logger in self._loggers(trainer):
                logger.experiment.file_writer.add_summary(self._end)

    on_test_end = on_fit_end

    def _begin(self, trainer: Trainer) -> None:
        logged = trainer.callback_metrics
        found = {name: float(logged[name]) for name in METRICS if name in logged}
        if not trainer.is_global_zero or self._end is not None or not found:
            return
        # Slow to import, and every command imports this module.
        from torch.utils.tensorboard.summary import hparams

        for logger in self._loggers(trainer):
            experiment, start, self._end = hparams(_flat(dict(logger.hparams)), found)
            logger.experiment.file_writer.add_summary(experiment)
            logger.experiment.file_writer.add_summary(start)

    @staticmethod
    def _loggers(trainer: Trainer) -> list[TensorBoardLogger]:
        return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by path, those that TensorBoard cannot show as text."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
