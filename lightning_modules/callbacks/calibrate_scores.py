"""Fits a calibration of step scores at the end of validation, and reports calibration errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.batching.collate import StepBatch
from datamodules.interfaces import EvaluationData, data_module_of
from datamodules.supervision.splits import PROCESS
from lightning_modules.callbacks.evaluation import EvaluationCallback, Key
from lightning_modules.callbacks.labelled_steps import LabelledSplit, LabelledSteps, labelled_steps, scores_and_labels
from lightning_modules.callbacks.reporting import is_partial_evaluation, process_split_name, protocol_of
from lightning_modules.metrics.calibration import CalibrationReport, calibration_report, calibration_table
from lightning_modules.metrics.step_threshold import OneLabelError, best_threshold
from lightning_modules.protocol import PROTOCOL_FILE, Protocol, save_protocol
from lightning_modules.scoring.calibration import Calibration, CalibrationMethod, fit_calibration

_FOLDS = 5


class CalibrateScores(EvaluationCallback[LabelledSteps]):
    """Fits a calibration of the step scores on the process validation split, and reports calibration errors.

    `fit` and `validate` fit it again at each validation and store it in the module's protocol, which checkpoints and
    exported models hold. Reports of the same epoch still show uncalibrated scores. `test` uses the model's calibration.
    A step is right if its Monte Carlo score is above the protocol's threshold, whatever the objective. If a step
    threshold was chosen in the same epoch, it is chosen again on the calibrated scores.

    Logged metrics, in [0, 1]: ``calibration/<split>/ece_before``, ``ece_after``, ``brier_before`` and ``brier_after``,
    where the split is ``validation`` or ``process_bench``. The calibration is fitted on ``validation``, whose values
    after calibration come from five-fold cross-validation. Files: ``calibration_<run>.json`` and ``.md``. `validate`
    and `test` print the table.

    Args:
        method: See :class:`lightning_modules.scoring.calibration.Calibration`.
        update_model: At the end of `validate`, write the calibration into the protocol of the folder that the model was
            loaded from. Its weights and its model card stay as they are.
        output_dir: Folder for the files; the logger's by default.

    Raises:
        ValueError: If the method is unknown.
    """

    def __init__(
        self, method: CalibrationMethod = "temperature", update_model: bool = False, output_dir: str | None = None
    ) -> None:
        if method not in get_args(CalibrationMethod):
            raise ValueError(f"method must be one of {', '.join(get_args(CalibrationMethod))}, got {method!r}")
        super().__init__(output_dir)
        self.method: CalibrationMethod = method
        self.update_model = update_model
        self.reports: dict[str, CalibrationReport] = {}
        self._fitted: Calibration | None = None
        self._steps: tuple[Tensor, Tensor] | None = None

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the scores are probabilities and that there is a split to fit on.

        Raises:
            ValueError: If not, or if there is no folder of a model to update.
        """
        protocol, data = protocol_of(pl_module), data_module_of(trainer)
        if protocol.score_range != (0.0, 1.0):
            raise ValueError(
                f"CalibrateScores needs scores in [0, 1]; those of objective {protocol.objective!r} are no "
                f"probabilities: leave the callback out"
            )
        if not trainer.testing and isinstance(data, EvaluationData) and PROCESS not in data.validation_names:
            raise ValueError(
                "CalibrateScores needs a process validation split to fit on; give the data module "
                "validation_annotations or validation_fraction"
            )
        folder = _model_folder(pl_module)
        if self.update_model and (trainer.state.fn != "validate" or folder is None or trainer.ckpt_path):
            raise ValueError(
                f"CalibrateScores: update_model works in `visualprm validate` of an exported model (a folder with "
                f"{PROTOCOL_FILE}), not of a checkpoint and in no other command; export the model first"
            )

    def begin_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the calibration that is to be fitted anew."""
        self._fitted, self._steps = None, None
        protocol: Any = protocol_of(pl_module)
        self._had_threshold = protocol.step_threshold is not None
        if not trainer.testing and protocol.calibration is not None:
            # A step threshold beside it belongs to its scores.
            pl_module.protocol = replace(protocol, calibration=None, step_threshold=None, step_threshold_chosen_on=None)

    def rows_of_batch(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any
    ) -> Iterable[tuple[Key, LabelledSteps]]:
        """Uncalibrated scores and labels of a batch of labelled solutions."""
        if not isinstance(batch, StepBatch):
            return ()
        return labelled_steps(batch, outputs.uncalibrated_scores, protocol_of(pl_module).threshold)

    def report_on(self, trainer: Trainer, pl_module: LightningModule, rows: list[LabelledSteps]) -> None:
        """Fit the calibration, and report on both splits; not on a few batches that have one label alone."""
        found = {split: [row for row in rows if row.split == split] for split in get_args(LabelledSplit)}
        self.reports = {}
        calibration = protocol_of(pl_module).calibration
        if not trainer.testing:
            steps = scores_and_labels(found["validation"])
            try:
                calibration = fit_calibration(*steps, self.method, process_split_name(trainer))
                self.reports["validation"] = _in_folds(found["validation"], self.method, steps)
            except OneLabelError as error:
                if not is_partial_evaluation(trainer):
                    raise
                rank_zero_warn(f"CalibrateScores has nothing to fit on the few batches of this run: {error}")
                return
            self._fitted, self._steps = calibration, steps
        for split, of_split in found.items():
            if of_split and split not in self.reports:
                scores, is_right = scores_and_labels(of_split)
                after = None if calibration is None else calibration.of_scores(scores)
                self.reports[split] = calibration_report(scores, is_right, after)
        values = {split: report.metrics() for split, report in self.reports.items()}
        self.log_metrics(
            pl_module,
            {f"calibration/{split}/{name}": value for split, of in values.items() for name, value in of.items()},
        )
        if self.reports:
            stored = {"calibration": None if calibration is None else vars(calibration), "splits": values}
            self.publish(trainer, "calibration", stored, calibration_table(self.reports, calibration))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the calibration, after the reports of the epoch and before checkpoints are written."""
        if self._fitted is None or self._steps is None:
            return
        chosen = protocol_of(pl_module)
        protocol: Any = replace(chosen, calibration=self._fitted)
        if self._had_threshold or chosen.step_threshold is not None:
            protocol = _with_threshold(protocol, self._fitted, *self._steps)
        pl_module.protocol = protocol
        folder = _model_folder(pl_module)
        if self.update_model and folder is not None and trainer.is_global_zero and not is_partial_evaluation(trainer):
            save_protocol(protocol, folder)


def _with_threshold(protocol: Protocol, calibration: Calibration, scores: Tensor, is_right: Tensor) -> Protocol:
    """The protocol with a step threshold that is chosen anew, on the calibrated scores."""
    # Scores beside the old threshold may have one calibrated value.
    threshold, _ = best_threshold(calibration.of_scores(scores).clamp(0, 1), is_right, protocol.score_range)
    return replace(protocol, step_threshold=threshold, step_threshold_chosen_on=calibration.fitted_on)


def _in_folds(
    rows: Sequence[LabelledSteps], method: CalibrationMethod, steps: tuple[Tensor, Tensor]
) -> CalibrationReport:
    """Calibration errors by five-fold cross-validation: each fifth of the rows with a calibration fitted on the others.

    Folds are consecutive rows, since the solutions of a question mostly follow each other. If all steps of a label are
    in one fold, the report has no values after calibration.
    """
    scores, is_right = steps
    bounds = [len(rows) * fold // _FOLDS for fold in range(_FOLDS + 1)]
    after = []
    for low, high in pairwise(bounds):
        others = scores_and_labels([*rows[:low], *rows[high:]])
        if low < high:
            held_out, _ = scores_and_labels(rows[low:high])
            if others[1].all() or not others[1].any():
                rank_zero_warn("CalibrateScores: one fifth of the split has all steps of a label; no report by folds")
                return calibration_report(scores, is_right)
            after.append(fit_calibration(*others, method).of_scores(held_out))
    return calibration_report(scores, is_right, torch.cat(after))


def _model_folder(module: LightningModule) -> Path | None:
    folder = Path(str(module.hparams.get("model_name_or_path", "")))
    return folder if (folder / PROTOCOL_FILE).is_file() else None
