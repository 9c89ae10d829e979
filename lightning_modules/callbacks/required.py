"""Refuse a command whose results nobody would see: it would end with status 0 and without a word."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from datamodules.evaluation import EvaluationDataModule
from lightning_modules.callbacks.best_of_n import BestOfN
from lightning_modules.callbacks.calibrate_scores import CalibrateScores
from lightning_modules.callbacks.picture_controls import PictureControls
from lightning_modules.callbacks.prediction_writer import PredictionWriter
from lightning_modules.callbacks.process_bench import ProcessBench
from lightning_modules.callbacks.reporting import protocol_of
from lightning_modules.callbacks.step_kinds import StepKinds

_REPORTERS: dict[str, tuple[type[Callback], ...]] = {
    "benchmarks": (BestOfN, PictureControls),
    "visual_process_bench": (ProcessBench, CalibrateScores, PictureControls, StepKinds),
}
"""Which callbacks report on what an argument of the evaluation data module gives; the usual one first."""

_GIVEN_BY = {"benchmarks": "benchmarks and data.rollouts", "visual_process_bench": "visual_process_bench"}
_LIBRARIES = ("lightning.", "lightning_modules.")


def require_reporters(
    subcommand: str, callbacks: Sequence[Callback], data: LightningDataModule | None, model: LightningModule
) -> None:
    """Make sure that the results of `validate`, `test` or `predict` go somewhere.

    A callback of the user's own that handles batches of the command counts for all of them. One notice says which
    reports a run leaves out, in `fit` too.

    Args:
        subcommand: Of the `visualprm` command.
        callbacks: Of its trainer.
        data: What it runs on.
        model: Which judges steps, or whole responses: these have no use for VisualProcessBench.

    Raises:
        ValueError: If a callback is missing; says which and how to add it.
    """
    if isinstance(data, EvaluationDataModule):
        _report_left_out(callbacks, data, model)
    if subcommand == "fit" or any(_is_of_user(each, subcommand) for each in callbacks):
        return
    if subcommand == "predict" and not any(isinstance(each, PredictionWriter) for each in callbacks):
        raise ValueError(
            "predict: no callback writes the predictions; add --trainer.callbacks+=PredictionWriter "
            "--trainer.callbacks.output=FILE"
        )
    if subcommand == "predict" or not isinstance(data, EvaluationDataModule):
        return
    for argument, kinds in _REPORTERS.items():
        is_used = argument == "benchmarks" or not protocol_of(model).response_as_one_step
        if is_used and data.hparams[argument] and not any(isinstance(each, kinds) for each in callbacks):
            raise ValueError(
                f"{subcommand}: data.{argument} is given, but no callback reports on it; add "
                f"--trainer.callbacks+={kinds[0].__name__}, or leave data.{argument} out"
            )


def _report_left_out(callbacks: Sequence[Callback], data: EvaluationDataModule, model: LightningModule) -> None:
    """Say which reports have callbacks, but nothing to report on; one line of them all, from rank zero."""
    lines = [
        f"{usual.__name__} (data.{_GIVEN_BY[argument]})"
        for argument, (usual, *_) in _REPORTERS.items()
        if not data.hparams[argument]
        and any(isinstance(each, usual) for each in callbacks)
        and (argument == "benchmarks" or not protocol_of(model).response_as_one_step)
    ]
    if lines:
        rank_zero_info(f"not given, and so left out of this run: {', '.join(lines)}")


def _is_of_user(callback: Callback, subcommand: str) -> bool:
    hook = f"on_{subcommand.replace('validate', 'validation')}_batch_end"
    overrides = getattr(type(callback), hook) is not getattr(Callback, hook)
    return overrides and not type(callback).__module__.startswith(_LIBRARIES)


def require_batches(subcommand: str, trainer: Trainer) -> None:
    """Make sure that `validate` or `test` had something to evaluate.

    Raises:
        ValueError: If there was no batch.
    """
    batches = {"validate": trainer.num_val_batches, "test": trainer.num_test_batches}.get(subcommand)
    if batches is not None and not sum(batches):
        limit = f"trainer.limit_{'val' if subcommand == 'validate' else 'test'}_batches"
        raise ValueError(
            f"nothing to {subcommand} on: the data module gives this command no rows; give it data to evaluate on (and "
            f"{limit} must not be 0)"
        )
