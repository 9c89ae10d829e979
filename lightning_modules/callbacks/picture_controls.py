"""Scores the evaluation data again with other pictures and without any, in the same test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from datamodules.batching.candidate_batch import CandidateBatch
from datamodules.interfaces import PictureControlData, data_module_of
from datamodules.process_bench.solutions import NEUTRAL, ProcessBenchBatch
from lightning_modules.callbacks.evaluation import EvaluationCallback, Key
from lightning_modules.callbacks.reporting import is_partial_evaluation, protocol_of
from lightning_modules.distributed.gathering import gather_rows
from lightning_modules.metrics.picture_use import (
    RIGHT,
    SHOWN,
    PictureUse,
    best_of_n_use,
    picture_use_table,
    step_judgement_uses,
)
from lightning_modules.metrics.response_score import Aggregation, aggregate_step_scores
from lightning_modules.metrics.step_threshold import middle

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


class PictureControls(EvaluationCallback[_Item]):
    """Measures, at the end of `test`, how much the scores depend on the picture.

    VisualProcessBench and the candidates of the benchmarks are scored again with the pictures of other questions, and
    without pictures (:func:`datamodules.picture_controls.with_pictures`), so a test takes three times as long. Other
    callbacks report on the right pictures only. Logged metrics:
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
        super().__init__(output_dir)
        self.bootstrap, self.seed = bootstrap, seed
        self.uses: list[PictureUse] = []

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the data module can show other pictures.

        Raises:
            TypeError: If not.
        """
        if trainer.testing and not isinstance(data_module_of(trainer), PictureControlData):
            raise TypeError("PictureControls needs a data module that has control_dataloaders, as EvaluationDataModule")

    def rows_of_batch(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any
    ) -> Iterable[tuple[Key, _Item]]:
        """Scores with the right pictures."""
        return _items(RIGHT, outputs, batch, protocol_of(pl_module).aggregation) if trainer.testing else ()

    def report_on(self, trainer: Trainer, pl_module: LightningModule, rows: list[_Item]) -> None:
        """Score with the other pictures and with none, and report."""
        if not trainer.testing:
            return
        data: Any = data_module_of(trainer)
        aggregation = protocol_of(pl_module).aggregation
        pictured: set[tuple[str, str]] = set()
        others: list[tuple[Key, _Item]] = []
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
                    others += _items(control, outputs, on_device, aggregation)
        gathered = gather_rows(others, key=itemgetter(0))
        items = {item.key: item for item in [*rows, *(item for _, item in gathered)]}
        self.uses = self._report(items, pictured, pl_module)
        metrics = {f"picture_controls/{use.name}/{kind}": use.values[kind] for use in self.uses for kind in SHOWN}
        self.log_metrics(pl_module, metrics)
        if self.uses:
            stored = [asdict(use) | {"share": use.share} for use in self.uses]
            self.publish(trainer, "picture_controls", {"metrics": stored}, picture_use_table(self.uses))

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


def _items(shown: str, outputs: Any, batch: Any, aggregation: Aggregation) -> Iterator[tuple[Key, _Item]]:
    """Scores and labels of a batch under one condition."""
    if isinstance(batch, CandidateBatch):
        for group, scores in zip(batch.groups, outputs.step_scores, strict=True):
            values = [aggregate_step_scores(each, aggregation) for each in scores]
            item = _Item(shown, group.benchmark, group.question_id, values, list(group.is_correct))
            yield item.key, item
    elif isinstance(batch, ProcessBenchBatch):
        is_step = batch.step_positions >= 0
        for row, (scores,) in enumerate(outputs.step_scores):
            labels = batch.correctness[row][is_step[row]].cpu()
            decided = labels != NEUTRAL
            right = (labels[decided] > 0).tolist()
            item = _Item(shown, _BENCH, batch.sample_ids[row], scores.double()[decided].tolist(), right)
            yield item.key, item
