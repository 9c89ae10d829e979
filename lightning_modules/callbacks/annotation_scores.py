"""Step scores of annotated solutions, to look at beside their Monte Carlo scores with ``visualprm-view``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from datamodules.batching.collate import StepBatch
from datamodules.interfaces import EvaluationData, data_module_of
from datamodules.process_bench.solutions import ProcessBenchBatch
from datamodules.storage.fields import number
from datamodules.storage.files import atomic_write_jsonl
from datamodules.supervision.splits import PROCESS
from lightning_modules.callbacks.evaluation import EvaluationCallback, Key
from lightning_modules.callbacks.reporting import output_folder
from lightning_modules.callbacks.step_scores import scored_lines

ANNOTATION_SCORES = "annotation_scores.jsonl"


@dataclass(frozen=True)
class AnnotationScore:
    """A line of the file.

    Attributes:
        sample_id: ``file:row`` of the annotated solution.
        step_scores: One score per step, of the steps that the model reads: it merges steps if there are very many.
        mc: The Monte Carlo scores of these steps; None for a step without one. Tells whether another file has the same
            row.
    """

    sample_id: str
    step_scores: list[float]
    mc: list[float | None]


class AnnotationScores(EvaluationCallback[AnnotationScore]):
    """Writes the step scores of the process validation split to ``annotation_scores.jsonl`` in `validate` and `test`.

    ``visualprm-view`` shows them beside the Monte Carlo scores of the same steps.

    Args:
        output_dir: Folder for the file; the logger's by default.
    """

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there is a process validation split.

        Raises:
            ValueError: If not.
        """
        data = data_module_of(trainer)
        if trainer.state.fn != "fit" and isinstance(data, EvaluationData) and PROCESS not in data.validation_names:
            raise ValueError(
                "AnnotationScores needs annotated rows to score; give VisualPRM400KDataModule validation_annotations"
            )

    def rows_of_batch(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any
    ) -> Iterator[tuple[Key, AnnotationScore]]:
        """Scores and Monte Carlo scores of a batch of the process validation split."""
        if not isinstance(batch, StepBatch) or isinstance(batch, ProcessBenchBatch):
            return
        is_step = (batch.step_positions >= 0).cpu()
        for row, (scores,) in enumerate(outputs.step_scores):
            mc = batch.mc[row].cpu()[is_step[row]].tolist()
            known = [None if math.isnan(value) else value for value in mc]
            yield (batch.sample_ids[row],), AnnotationScore(batch.sample_ids[row], scores.double().tolist(), known)

    def report_on(self, trainer: Trainer, pl_module: LightningModule, rows: list[AnnotationScore]) -> None:
        """Write the file."""
        folder = output_folder(trainer, self.output_dir)
        if trainer.is_global_zero and folder is not None and trainer.state.fn != "fit":
            write_annotation_scores(folder / ANNOTATION_SCORES, rows)


def write_annotation_scores(path: Path, scores: Sequence[AnnotationScore]) -> None:
    """Write the file, whole or not at all."""
    atomic_write_jsonl(path, map(vars, scores))


def read_annotation_scores(path: Path) -> list[AnnotationScore]:
    """Read the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed; names file, line and field.
    """
    return [
        AnnotationScore(
            sample_id, scores, [None if value is None else number({"mc": value}, "mc", where) for value in mc]
        )
        for where, _, sample_id, scores, mc in scored_lines(path, "mc")
    ]
