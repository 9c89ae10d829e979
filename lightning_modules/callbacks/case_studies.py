"""Shows a few evaluation samples with their scored steps in TensorBoard, the same ones at every evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from datamodules.batching.candidate_batch import CandidateBatch
from datamodules.batching.collate import load_images
from datamodules.best_of_n import AnsweredQuestion, BestOfNDataset
from datamodules.conversation.steps import response_steps
from datamodules.process_bench.solutions import JudgedSolution, ProcessBenchBatch, VisualProcessBenchDataset
from lightning_modules.callbacks.evaluation import EvaluationCallback, Key
from lightning_modules.callbacks.reporting import protocol_of, show_in_tensorboard, tensorboards
from lightning_modules.metrics.case_figure import CaseSolution, case_figure
from lightning_modules.metrics.response_score import aggregate_step_scores
from lightning_modules.protocol import Protocol

_MARKS = {1: "✓", 0: "·", -1: "✗"}


class CaseStudies(EvaluationCallback[tuple[str, list[list[float]]]]):
    """Shows pictures, question and scored steps of a few evaluation samples in TensorBoard, as images.

    They are spread evenly over the evaluation dataloaders and are the same at every evaluation, so that scores can be
    compared over time. VisualProcessBench gives solutions with their human labels. A benchmark question gives the
    candidate that the model picks, and the best one with the other verdict. Nothing is scored again.

    Args:
        cases: How many; 0 for none.

    Raises:
        ValueError: If ``cases`` is negative.
    """

    def __init__(self, cases: int = 4) -> None:
        if cases < 0:
            raise ValueError(f"cases must be 0 or more, got {cases}")
        super().__init__()
        self.cases = cases
        self._chosen: dict[str, AnsweredQuestion | JudgedSolution] = {}

    def begin_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the samples, on every rank the same."""
        loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        self._chosen = _spread(loaders, self.cases) if tensorboards(trainer) else {}

    def rows_of_batch(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any
    ) -> Iterator[tuple[Key, tuple[str, list[list[float]]]]]:
        """Names and scores of the chosen samples."""
        if isinstance(batch, CandidateBatch | ProcessBenchBatch):
            for name, responses in zip(batch.sample_ids, outputs.step_scores, strict=True):
                if name in self._chosen:
                    yield (name,), (name, [scores.tolist() for scores in responses])

    def report_on(
        self, trainer: Trainer, pl_module: LightningModule, rows: list[tuple[str, list[list[float]]]]
    ) -> None:
        """Show the chosen samples."""
        if trainer.is_global_zero:
            found = dict(rows)
            # The default font lacks some scripts; a box in place of a letter is no reason for a hundred lines.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph")
                for name, case in self._chosen.items():
                    if name in found:
                        _show(trainer, name, case, found[name], protocol_of(pl_module))


def _spread(loaders: Any, cases: int) -> dict[str, AnsweredQuestion | JudgedSolution]:
    """Samples by name, as the batches name them, from all datasets in turn and from all over each dataset."""
    given = loaders if isinstance(loaders, Sequence) else [loaders]
    datasets = [
        loader.dataset for loader in given if isinstance(loader.dataset, BestOfNDataset | VisualProcessBenchDataset)
    ]
    chosen: dict[str, AnsweredQuestion | JudgedSolution] = {}
    for number, dataset in enumerate(datasets):
        share = len(range(number, cases, len(datasets)))
        for place in range(min(share, len(dataset))):
            sample = dataset[(2 * place + 1) * len(dataset) // (2 * share)]
            chosen[_name(sample)] = sample
    return chosen


def _name(sample: AnsweredQuestion | JudgedSolution) -> str:
    if isinstance(sample, JudgedSolution):
        return sample.sample_id
    return f"{sample.question.benchmark}/{sample.question.question_id}"


def _show(
    trainer: Trainer,
    name: str,
    case: AnsweredQuestion | JudgedSolution,
    scores: Sequence[Sequence[float]],
    protocol: Protocol,
) -> None:
    if isinstance(case, JudgedSolution):
        marks = [_MARKS[label] for label in case.correctness]
        solutions = [CaseSolution(f"{case.policy_model}, with human labels", case.steps, scores[0], marks)]
        pictures, question = load_images(case.images, case.sample_id), case.question
        tag = f"case_studies/VisualProcessBench_{name.rpartition(':')[2]}"
    else:
        solutions = _candidates(case, scores, protocol)
        pictures, question = list(case.question.images), case.question.question
        tag = f"case_studies/{name.replace('/', '_')}"
    show_in_tensorboard(trainer, tag, case_figure(pictures, question, solutions, protocol.score_range))


def _candidates(case: AnsweredQuestion, scores: Sequence[Sequence[float]], protocol: Protocol) -> list[CaseSolution]:
    """The candidate that is picked, and the best one with the other verdict."""
    worth = [aggregate_step_scores(steps, protocol.aggregation) for steps in scores]
    best_first = sorted(range(len(worth)), key=lambda place: (-worth[place], place))
    verdicts = [rollout.is_correct for rollout in case.rollouts]
    other = next((place for place in best_first if verdicts[place] != verdicts[best_first[0]]), None)
    solutions = []
    for place in (best_first[0], other):
        if place is not None:
            steps = response_steps(
                case.rollouts[place].response,
                protocol.max_steps,
                as_one_step=protocol.response_as_one_step,
                white_space=protocol.white_space,
            )
            verdict = "right" if verdicts[place] else "wrong"
            role = "picked" if place == best_first[0] else "best with the other verdict"
            title = f"candidate {place}, {role}, {verdict}: {worth[place]:.3f}   (gold {', '.join(case.question.gold)})"
            solutions.append(CaseSolution(title, steps, scores[place]))
    return solutions
