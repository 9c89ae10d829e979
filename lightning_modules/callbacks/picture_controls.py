"""Scores the evaluation data again with other pictures and without any, in the same test."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from datamodules.batching.candidate_batch import CandidateBatch
from datamodules.interfaces import PictureControlData, data_module_of
from datamodules.process_bench.solutions import NEUTRAL, ProcessBenchBatch
from lightning_modules.callbacks.reporting import (
    is_partial_evaluation,
    output_folder,
    protocol_of,
    show_in_tensorboard,
    write_report,
)
from lightning_modules.distributed.gathering import gather_rows
from lightning_modules.metrics.picture_use import (
    RIGHT,
    SHOWN,
    PictureUse,
    best_of_n_use,
    picture_use_table,
    step_judgement_uses,
)
from lightning_modules.metrics.response_score import aggregate_step_scores
from lightning_modules.metrics.step_threshold import middle
from lightning_modules.metrics.table import print_tables

_BENCH = "VisualProcessBench"
_ALL = "all questions"


@dataclass(frozen=True)
class _Item:
    """Scores and labels of a question's N candidates, or of a solution's decided steps, under one condition."""

    shown: str
    name: str
    sample_id: str
    scores: list[float]
    correct: list[bool]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.shown, self.name, self.sample_id


class PictureControls(Callback):
    """Tells, at the end of `test`, how much of the scores is the picture's.

    VisualProcessBench and the candidates of the benchmarks are scored again with the pictures of other questions, and
    without pictures (:func:`datamodules.picture_controls.with_pictures`); so a test takes three times as long. Reports
    of other callbacks are of the right pictures, as without this one. Logged metrics:
    ``picture_controls/<metric>/<shown>``, where shown is ``right``, ``other`` or ``none``. Files:
    ``picture_controls_test.json`` and ``.md``; `test` prints the table.

    Args:
        bootstrap: Number of resamples for the 95 % intervals.
        seed: Seed of the resampling.
        output_dir: Folder for the files; the logger's by default.

    Raises:
        ValueError: If ``bootstrap`` is not positive.
    """

    def __init__(self, bootstrap: int = 1000, seed: int = 0, output_dir: str | None = None) -> None:
        if bootstrap < 1:
            raise ValueError(f"bootstrap must be at least 1, got {bootstrap}")
        self.bootstrap, self.seed, self.output_dir = bootstrap, seed, output_dir
        self.uses: list[PictureUse] = []
        self._items: list[_Item] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the data module can show other pictures.

        Raises:
            TypeError: If not.
        """
        if not isinstance(data_module_of(trainer), PictureControlData):
            raise TypeError("PictureControls needs a data module that has control_dataloaders, as EvaluationDataModule")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the scores of an interrupted epoch."""
        self._items, self.uses = [], []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores with the right pictures."""
        self._keep(RIGHT, outputs, batch, protocol_of(pl_module).aggregation)

    def _keep(self, shown: str, outputs: Any, batch: Any, aggregation: Any) -> None:
        if isinstance(batch, CandidateBatch):
            for group, scores in zip(batch.groups, outputs.step_scores, strict=True):
                values = [aggregate_step_scores(each, aggregation) for each in scores]
                self._items.append(_Item(shown, group.benchmark, group.question_id, values, list(group.is_correct)))
        elif isinstance(batch, ProcessBenchBatch):
            is_step = batch.step_positions >= 0
            for row, (scores,) in enumerate(outputs.step_scores):
                labels = batch.correctness[row][is_step[row]].cpu()
                decided = labels != NEUTRAL
                self._items.append(
                    _Item(
                        shown,
                        _BENCH,
                        batch.sample_ids[row],
                        scores.double()[decided].tolist(),
                        (labels[decided] > 0).tolist(),
                    )
                )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score with the other pictures and with none, and report."""
        data: Any = data_module_of(trainer)
        aggregation = protocol_of(pl_module).aggregation
        pictured: set[tuple[str, str]] = set()
        for control in SHOWN[1:]:
            for name, loader, kept in data.control_dataloaders(control):
                number = data.validation_names.index(name)
                if kept:
                    rank_zero_info(f"{name}: {kept} questions keep their pictures, as there are no others")
                pictured |= {(name, sample_id) for sample_id in data.pictured_ids(name)}
                for index, batch in enumerate(loader):
                    if is_partial_evaluation(trainer) and index >= trainer.num_test_batches[number]:
                        break
                    on_device = trainer.strategy.batch_to_device(batch)
                    outputs = trainer.strategy.test_step(on_device, index, number)
                    self._keep(control, outputs, on_device, aggregation)
        items = {item.key: item for item in gather_rows(self._items, key=lambda item: item.key)}
        self._items = []
        self.uses = self._report(items, pictured, pl_module)
        metrics = {f"picture_controls/{use.name}/{kind}": use.values[kind] for use in self.uses for kind in SHOWN}
        # The values are the same on all ranks; sync_dist only tells Lightning so.
        pl_module.log_dict(metrics, sync_dist=True)
        folder = output_folder(trainer, self.output_dir)
        if trainer.is_global_zero and self.uses:
            markdown = picture_use_table(self.uses).to_markdown()
            show_in_tensorboard(trainer, "picture_controls/table", markdown)
            if folder is not None:
                stored = [asdict(use) | {"share": use.share} for use in self.uses]
                write_report(trainer, folder, "picture_controls", {"metrics": stored}, markdown)

    def _report(
        self, items: dict[tuple[str, str, str], _Item], pictured: set[tuple[str, str]], module: LightningModule
    ) -> list[PictureUse]:
        """The metrics over the items with pictures that were scored under all conditions."""
        whole = sorted(
            (name, sample_id) for name, sample_id in pictured if all((kind, name, sample_id) in items for kind in SHOWN)
        )
        uses: list[PictureUse] = []
        benchmarks = list(dict.fromkeys(name for name, _ in whole if name != _BENCH))
        groups = {_ALL: [key for key in whole if key[0] != _BENCH]} if len(benchmarks) > 1 else {}
        groups |= {name: [key for key in whole if key[0] == name] for name in benchmarks}
        solutions = [key for key in whole if key[0] == _BENCH and items[RIGHT, *key].correct]
        labels = {label for key in solutions for label in items[RIGHT, *key].correct}
        if len(labels) > 1:
            protocol = protocol_of(module)
            chosen = protocol.step_threshold
            threshold = middle(protocol.score_range) if chosen is None else chosen
            scores = {kind: [items[kind, *key].scores for key in solutions] for kind in SHOWN}
            correct = [items[RIGHT, *key].correct for key in solutions]
            uses += step_judgement_uses(_BENCH, scores, correct, threshold, self.seed, self.bootstrap)
        for name, keys in groups.items():
            scores = {kind: [items[kind, *key].scores for key in keys] for kind in SHOWN}
            verdicts = [items[RIGHT, *key].correct for key in keys]
            uses.append(best_of_n_use(name, scores, verdicts, self.seed, self.bootstrap))
        return uses

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table of `test` after the progress bar."""
        if stage == "test" and trainer.is_global_zero and self.uses:
            print_tables([picture_use_table(self.uses)])
