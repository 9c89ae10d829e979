"""Calibration of step scores at the end of validation, and how calibrated they are before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.batching.collate import StepBatch
from datamodules.conversation.labels import IGNORE_INDEX, value_labels
from datamodules.interfaces import EvaluationData, ProcessSupervisionData, data_module_of
from datamodules.process_bench.solutions import CORRECT, INCORRECT, ProcessBenchBatch
from datamodules.supervision.splits import PROCESS
from lightning_modules.callbacks.reporting import (
    is_partial_evaluation,
    output_folder,
    protocol_of,
    show_in_tensorboard,
    write_report,
)
from lightning_modules.distributed.gathering import gather_rows
from lightning_modules.metrics.calibration import CalibrationReport, calibration_report, calibration_table
from lightning_modules.metrics.step_threshold import OneLabelError, best_threshold
from lightning_modules.metrics.table import print_tables
from lightning_modules.protocol import PROTOCOL_FILE, Protocol, save_protocol
from lightning_modules.scoring.calibration import Calibration, CalibrationMethod, fit_calibration
from lightning_modules.scoring.scored_batch import ScoredBatch

_FOLDS = 5
_BENCH = "VisualProcessBench"


@dataclass(frozen=True)
class _Solution:
    """Uncalibrated scores and labels of the labelled steps of a solution."""

    sample_id: str
    scores: list[float]
    is_right: list[bool]


class CalibrateScores(Callback):
    """Fits a calibration of the step scores on the process validation split, and reports calibration errors.

    `fit` and `validate` fit it anew each time and store it in the module's protocol, which checkpoints and exported
    models hold; the reports of the same epoch still show uncalibrated scores. `test` uses the model's calibration.
    A step is right if its Monte Carlo score is above the protocol's threshold, whatever the objective. A step threshold
    that was chosen in the same epoch is chosen again on the calibrated scores.

    Logged metrics: ``calibration/<split>/ece_before``, ``ece_after`` and the Brier scores ``brier_before``,
    ``brier_after``, in [0, 1], where the split is ``validation`` or ``process_bench``. The first is the split that the
    calibration was fitted on; its values after it come from five folds, each fitted on the other four. Files:
    ``calibration_<run>.json`` and ``.md``. `validate` and `test` print the table.

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
        self.method: CalibrationMethod = method
        self.update_model = update_model
        self.output_dir = output_dir
        self.reports: dict[str, CalibrationReport] = {}
        self._fitted: Calibration | None = None
        self._steps: tuple[Tensor, Tensor] | None = None
        self._rows: dict[str, list[_Solution]] = {}

    # --------------------------------------------------------------- collect

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check, before the run starts, that the scores are probabilities and that there is a split to fit on.

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

    on_validation_start = on_fit_start
    on_test_start = on_fit_start

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the scores of an interrupted epoch, and the calibration that is to be fitted anew."""
        self._rows, self._fitted, self._steps = {PROCESS: [], _BENCH: []}, None, None
        protocol: Any = protocol_of(pl_module)
        self._had_threshold = protocol.step_threshold is not None
        if not trainer.testing and protocol.calibration is not None:
            # A step threshold beside it belongs to its scores.
            pl_module.protocol = replace(protocol, calibration=None, step_threshold=None, step_threshold_chosen_on=None)

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores of a batch of labelled solutions."""
        if trainer.sanity_checking or not isinstance(batch, StepBatch):
            return
        if isinstance(batch, ProcessBenchBatch):
            judged = batch.correctness.cpu()
            self._collect(_BENCH, outputs, batch, judged == CORRECT, (judged == CORRECT) | (judged == INCORRECT))
        else:
            labels = value_labels(batch.mc.cpu(), protocol_of(pl_module).threshold)
            self._collect(PROCESS, outputs, batch, labels == 0, labels != IGNORE_INDEX)

    on_test_batch_end = on_validation_batch_end

    def _collect(
        self, name: str, outputs: ScoredBatch, batch: StepBatch, is_right: Tensor, is_labelled: Tensor
    ) -> None:
        is_step = (batch.step_positions >= 0).cpu()
        for row, (scores,) in enumerate(outputs.uncalibrated_scores):
            labelled = is_labelled[row][is_step[row]]
            right = is_right[row][is_step[row]][labelled]
            self._rows[name].append(
                _Solution(batch.sample_ids[row], scores.double()[labelled].tolist(), right.tolist())
            )

    # ---------------------------------------------------------------- report

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the calibration, and report on both splits; not on a few batches that have one label alone."""
        if trainer.sanity_checking:
            return
        found = {}
        for name, rows in self._rows.items():
            gathered = gather_rows(rows, key=lambda row: row.sample_id)
            found[name] = sorted(gathered, key=lambda row: row.sample_id)
        self._rows = {}
        self.reports = {}
        calibration = protocol_of(pl_module).calibration
        if not trainer.testing:
            steps = _steps_of(found[PROCESS])
            try:
                calibration = fit_calibration(*steps, self.method, _name_of_split(trainer))
                self.reports["validation"] = _in_folds(found[PROCESS], self.method, steps)
            except OneLabelError as error:
                if not is_partial_evaluation(trainer):
                    raise
                rank_zero_warn(f"CalibrateScores has nothing to fit on the few batches of this run: {error}")
                return
            self._fitted, self._steps = calibration, steps
        for label, name in (("validation", PROCESS), ("process_bench", _BENCH)):
            if found[name] and label not in self.reports:
                scores, is_right = _steps_of(found[name])
                after = None if calibration is None else calibration.of_scores(scores)
                self.reports[label] = calibration_report(scores, is_right, after)
        metrics = {
            f"calibration/{split}/{name}": value
            for split, report in self.reports.items()
            for name, value in report.metrics().items()
        }
        # The values are the same on all ranks; sync_dist only tells Lightning so.
        pl_module.log_dict(metrics, sync_dist=True)
        folder = output_folder(trainer, self.output_dir)
        if trainer.is_global_zero and self.reports:
            markdown = calibration_table(self.reports, calibration).to_markdown()
            show_in_tensorboard(trainer, "calibration/table", markdown)
            if folder is not None:
                stored = {
                    "calibration": None if calibration is None else vars(calibration),
                    "splits": {split: report.metrics() for split, report in self.reports.items()},
                }
                write_report(trainer, folder, "calibration", stored, markdown)

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the calibration: after all reports of the epoch, and before checkpoints are written."""
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

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table of `validate` and `test` after the progress bar."""
        if stage in ("validate", "test") and trainer.is_global_zero and self.reports:
            print_tables([calibration_table(self.reports, self._fitted or protocol_of(pl_module).calibration)])


def _with_threshold(protocol: Protocol, calibration: Calibration, scores: Tensor, is_right: Tensor) -> Protocol:
    """The protocol with a step threshold that is chosen anew, on the calibrated scores."""
    # Scores beside the old threshold may have one calibrated value.
    threshold, _ = best_threshold(calibration.of_scores(scores).clamp(0, 1), is_right, protocol.score_range)
    return replace(protocol, step_threshold=threshold, step_threshold_chosen_on=calibration.fitted_on)


def _steps_of(rows: Sequence[_Solution]) -> tuple[Tensor, Tensor]:
    """Scores (n,) float64 and labels (n,) bool of all steps."""
    scores = torch.tensor([score for row in rows for score in row.scores], dtype=torch.float64)
    return scores, torch.tensor([label for row in rows for label in row.is_right], dtype=torch.bool)


def _in_folds(rows: Sequence[_Solution], method: CalibrationMethod, steps: tuple[Tensor, Tensor]) -> CalibrationReport:
    """How calibrated the scores of each fifth of the rows are, with a calibration fitted on the others.

    Rows are cut in their order, in which the solutions of a question mostly follow each other. If all steps of a label
    are in one fifth, there is only the report from before.
    """
    scores, is_right = steps
    bounds = [len(rows) * fold // _FOLDS for fold in range(_FOLDS + 1)]
    after = []
    for low, high in pairwise(bounds):
        others = _steps_of([*rows[:low], *rows[high:]])
        if low < high:
            held_out, _ = _steps_of(rows[low:high])
            if others[1].all() or not others[1].any():
                rank_zero_warn("CalibrateScores: one fifth of the split has all steps of a label; no report by folds")
                return calibration_report(scores, is_right)
            after.append(fit_calibration(*others, method).of_scores(held_out))
    return calibration_report(scores, is_right, torch.cat(after))


def _name_of_split(trainer: Trainer) -> str:
    data = data_module_of(trainer)
    return data.process_split_name if isinstance(data, ProcessSupervisionData) else "the process validation split"


def _model_folder(module: LightningModule) -> Path | None:
    folder = Path(str(module.hparams.get("model_name_or_path", "")))
    return folder if (folder / PROTOCOL_FILE).is_file() else None
