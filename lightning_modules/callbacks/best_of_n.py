"""Best-of-N evaluation at the end of validation and test epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.batching.candidate_batch import CandidateBatch
from datamodules.benchmarks import VISUAL_BENCHMARKS
from datamodules.best_of_n import BestOfNDataset
from datamodules.storage.files import atomic_write_bytes
from lightning_modules.callbacks.benchmark_reports import benchmark_datasets, details_of_benchmarks, whole_units
from lightning_modules.callbacks.candidate_scores import (
    CANDIDATE_SCORES,
    CandidateScore,
    OutcomeScores,
    response_digest,
    write_candidate_scores,
)
from lightning_modules.callbacks.evaluation import EvaluationCallback, Key
from lightning_modules.callbacks.reporting import (
    log_scalars,
    output_folder,
    protocol_of,
    show_in_tensorboard,
    tensorboards,
    write_report,
)
from lightning_modules.callbacks.score_charts import show_response_charts
from lightning_modules.metrics.benchmark_details import BenchmarkDetails
from lightning_modules.metrics.best_of_n import ALL_QUESTIONS, OVERALL, BestOfNReport, best_of_n_report
from lightning_modules.metrics.best_of_n_figure import best_of_n_figure, figure_png
from lightning_modules.metrics.best_of_n_table import report_markdown, report_tables
from lightning_modules.metrics.response_score import AGGREGATIONS, Aggregation, aggregations_for
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.selection.methods import PASS_AT_1, PASS_AT_N, SELF_CONSISTENCY, WEIGHTED_VOTE
from lightning_modules.metrics.selection.pool import OUTCOME, critic_method
from lightning_modules.metrics.selection.subsets import Subsets
from lightning_modules.metrics.table import Table
from lightning_modules.objectives.table import objective_named


@dataclass(frozen=True)
class _Scored:
    """A question with scored candidates, the digests of its N responses, and how unsure the scores of steps are."""

    candidates: QuestionCandidates
    digests: list[str]
    uncertainties: list[list[float]] | None = None


class BestOfN(EvaluationCallback[_Scored]):
    """Turns the scores of benchmark candidates into Best-of-N accuracies when a validation or test epoch ends.

    It reads the :class:`lightning_modules.scoring.scored_batch.ScoredBatch` that the module's step returns for each
    :class:`CandidateBatch`. Questions of an incomplete unit (a DynaMath seed without all its variants, say) are left
    out with a warning. Accuracies are in [0, 1]; tables and figures are in percent.

    Logged metrics, each for the first of ``aggregations`` at the largest N: ``best_of_n/overall`` (mean of the
    benchmarks' headlines, of those with pictures if there are any; what a checkpoint may monitor),
    ``best_of_n/all_questions`` and ``best_of_n/<benchmark>``. Loggers also get ``best_of_n_methods/<column>/<method>``,
    and TensorBoard the tables, the figure and histograms of the response scores of right and wrong candidates. Files:
    ``best_of_n_<run>.json`` and ``.md``, where the run is ``epoch<E>`` (with ``_step<S>`` between epoch ends),
    ``validate`` or ``test``. They also hold the secondary metrics of every benchmark for the responses that each method
    picks at the largest N, the grading rules, and how the questions differ from the release. A test also writes the
    figure and ``candidate_scores.jsonl``. `validate` and `test` print the tables; `test` also those of each benchmark.

    Args:
        ns: Numbers of candidates N; by default 1, 2, 4, 8, ..., up to what the questions have. Larger ones are left out
            with a warning.
        aggregations: Ways to aggregate step scores; the first one is the primary one. By default all that suit the
            model: an advantage model's scores may be negative, which rules out the product, and an outcome model gives
            one score, so that only the mean is left.
        bootstrap: Number of resamples for the 95 % intervals.
        seed: Seed of the resampling.
        outcome_scores: ``candidate_scores.jsonl`` of an outcome reward model on the same rollouts, to compare with.
        critics: The same of any other critics, by the name that tables give them.
        subsets: Accuracies with fewer than the largest number of candidates are means over ``all`` subsets of so many,
            or come from the ``first`` ones. Take ``first`` where the first candidate was decoded greedily.
        output_dir: Folder for the files; the logger's by default.

    Raises:
        ValueError: If ``ns`` or ``aggregations`` are empty or hold an invalid value.
    """

    def __init__(
        self,
        ns: Sequence[int] | None = None,
        aggregations: Sequence[Aggregation] | None = None,
        bootstrap: int = 1000,
        seed: int = 0,
        outcome_scores: str | None = None,
        output_dir: str | None = None,
        critics: Mapping[str, str] | None = None,
        subsets: Subsets = "all",
    ) -> None:
        if ns is not None and (not ns or min(ns) < 1):
            raise ValueError(f"ns must be positive numbers of candidates, got {list(ns)}")
        if aggregations is not None and not set() < set(aggregations) <= set(AGGREGATIONS):
            raise ValueError(f"aggregations must be some of {', '.join(AGGREGATIONS)}, got {list(aggregations)}")
        if bootstrap < 1:
            raise ValueError(f"bootstrap must be at least 1, got {bootstrap}")
        super().__init__(output_dir)
        self.ns = sorted(set(ns)) if ns else None
        self.given_aggregations = aggregations
        self.aggregations = list(dict.fromkeys(aggregations or AGGREGATIONS))
        self.bootstrap = bootstrap
        self.seed = seed
        self.outcome_path = Path(outcome_scores) if outcome_scores else None
        self.critic_paths = {name: Path(path) for name, path in (critics or {}).items()}
        self.subsets: Subsets = subsets
        self.report: BestOfNReport | None = None
        self.details: list[BenchmarkDetails] = []
        self._outcome: OutcomeScores | None = None
        self._critics: dict[str, OutcomeScores] = {}
        self._critic = "PRM"
        self._least_score = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the aggregations and read the outcome scores before the run starts.

        Raises:
            ValueError: If a given aggregation has no meaning for the model's scores.
        """
        protocol = protocol_of(pl_module)
        score_range = protocol.score_range
        self._critic, self._least_score = objective_named(protocol.objective).critic, score_range[0]
        if self.given_aggregations is None and protocol.response_as_one_step:
            self.aggregations = ["mean"]
        elif self.given_aggregations is None:
            self.aggregations = list(aggregations_for(score_range))
        elif unfit := set(self.aggregations) - set(aggregations_for(score_range)):
            raise ValueError(
                f"BestOfN: aggregations {sorted(unfit)} need scores in [0, 1]; this model's may be negative "
                f"(objective {protocol.objective!r})"
            )
        if self.outcome_path is not None and self._outcome is None:
            self._outcome = OutcomeScores(self.outcome_path)
        if not self._critics:
            self._critics = {name: OutcomeScores(path) for name, path in self.critic_paths.items()}

    def rows_of_batch(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any
    ) -> Iterator[tuple[Key, _Scored]]:
        """Scores and verdicts of a batch of candidates."""
        if not isinstance(batch, CandidateBatch):
            return
        unsure = outputs.step_uncertainties or [None] * len(batch.groups)
        for group, scores, of_group in zip(batch.groups, outputs.step_scores, unsure, strict=True):
            candidates = QuestionCandidates(
                benchmark=group.benchmark,
                question_id=group.question_id,
                step_scores=[candidate.tolist() for candidate in scores],
                is_correct=list(group.is_correct),
                answer_classes=list(group.answer_classes),
                lengths=[len(response.split()) for response in group.responses],
            )
            digests = [response_digest(response) for response in group.responses]
            uncertainties = None if of_group is None else [each.tolist() for each in of_group]
            yield (group.benchmark, group.question_id), _Scored(candidates, digests, uncertainties)

    def report_on(self, trainer: Trainer, pl_module: LightningModule, rows: list[_Scored]) -> None:
        """Report on the benchmarks; a test also writes the scores of the candidates."""
        self.report, self.details = None, []
        datasets = benchmark_datasets(trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders)
        order = {name: number for number, name in enumerate(datasets)}
        scored = sorted(rows, key=lambda row: order[row.candidates.benchmark])
        report = self._evaluate(scored, datasets)
        folder = output_folder(trainer, self.output_dir)
        if report is None:
            rank_zero_warn(
                "BestOfN has nothing to report: no dataloader gave candidates of whole units of a benchmark; they come "
                "from data.benchmarks and data.rollouts"
            )
            return
        self.report = report
        details = self._detail_tables(report)
        self.tables = [*(details if trainer.testing else []), *report_tables(report)]
        n = report.ns[-1]
        main = {f"best_of_n/{column}": report.accuracies[column, report.primary, n].value for column in report.columns}
        self.log_metrics(pl_module, main)
        if trainer.is_global_zero:
            self._write(trainer, report, folder, [table.to_markdown() for table in details])
            show_response_charts(trainer, [row.candidates for row in scored], self.aggregations[0])
            if trainer.testing and folder is not None:
                write_candidate_scores(folder / CANDIDATE_SCORES, _candidate_scores(scored, self.aggregations[0]))

    def _detail_tables(self, report: BestOfNReport) -> list[Table]:
        critics = map(critic_method, self.critic_paths)
        methods = (PASS_AT_1, SELF_CONSISTENCY, OUTCOME, *critics, report.primary, WEIGHTED_VOTE, PASS_AT_N)
        return [details.to_table(methods) for details in self.details]

    def _evaluate(self, scored: Sequence[_Scored], datasets: Mapping[str, BestOfNDataset]) -> BestOfNReport | None:
        """The report over all complete units; None if there are none."""
        candidates: dict[str, list[QuestionCandidates]] = {}
        for row in scored:
            entry = row.candidates
            if self._outcome is not None:
                outcome = self._outcome.of(entry.benchmark, entry.question_id, row.digests)
                entry = replace(entry, outcome_scores=outcome)
            entry = replace(
                entry,
                critic_scores={
                    name: scores.of(entry.benchmark, entry.question_id, row.digests)
                    for name, scores in self._critics.items()
                },
            )
            candidates.setdefault(entry.benchmark, []).append(entry)
        scorers, scored_questions = {}, {}
        for name in list(candidates):
            dataset = datasets[name]
            candidates[name], questions = whole_units(dataset.benchmark, dataset.questions, candidates[name])
            scorers[name] = partial(dataset.benchmark.unit_scores, questions)
            scored_questions[name] = questions
            if not questions:
                del candidates[name]
        if not candidates:
            return None
        ns = self._possible_ns([entry for entries in candidates.values() for entry in entries])
        pictured = [name for name in candidates if name in VISUAL_BENCHMARKS]
        report = best_of_n_report(
            candidates,
            scorers,
            ns,
            self.aggregations,
            self.bootstrap,
            self.seed,
            pictured or list(candidates),
            self.subsets,
            self._least_score,
            self._critic,
        )
        self.details = details_of_benchmarks(
            report, candidates, scored_questions, datasets, self.aggregations, self._least_score
        )
        return report

    def _possible_ns(self, entries: Sequence[QuestionCandidates]) -> list[int]:
        """``ns`` without numbers for which no question has enough candidates, or the powers of two up to the most."""
        most = max(len(entry.is_correct) for entry in entries)
        if self.ns is None:
            return [*takewhile(lambda n: n < most, (2**power for power in count())), most]
        possible = [n for n in self.ns if n <= most]
        if not possible:
            raise ValueError(f"the rollouts hold {most} candidates a question; ns asks for {self.ns}")
        if len(possible) < len(self.ns):
            rank_zero_warn(f"the rollouts hold {most} candidates a question; of ns = {self.ns} only {possible} is used")
        return possible

    def _write(self, trainer: Trainer, report: BestOfNReport, folder: Path | None, details: Sequence[str]) -> None:
        """Write files and log; rank zero only."""
        n = report.ns[-1]
        columns = (*report.benchmarks, ALL_QUESTIONS, OVERALL)
        log_scalars(
            trainer,
            {
                f"best_of_n_methods/{column}/{method}": report.accuracies[column, method, n].value
                for column in columns
                for method in report.methods
            },
        )
        markdown = "\n".join([report_markdown(report), *details])
        show_in_tensorboard(trainer, "best_of_n/tables", markdown)
        figure_folder = folder if trainer.testing else None
        if figure_folder or tensorboards(trainer):
            png = figure_png(best_of_n_figure(report))
            show_in_tensorboard(trainer, "best_of_n/accuracy_against_n", png)
            if figure_folder:
                atomic_write_bytes(figure_folder / "best_of_n_test.png", png)
        if folder is not None:
            files = {critic_method(name): str(path) for name, path in self.critic_paths.items()}
            files |= {OUTCOME: str(self.outcome_path)} if self.outcome_path else {}
            more = {"details": {entry.name: entry.to_dict() for entry in self.details}, "critic_files": files}
            write_report(trainer, folder, "best_of_n", report.to_dict() | more, markdown)


def _candidate_scores(scored: Sequence[_Scored], aggregation: Aggregation) -> list[CandidateScore]:
    """Lines of the file of candidate scores."""
    return [
        CandidateScore(
            row.candidates.benchmark,
            row.candidates.question_id,
            index,
            steps,
            score,
            digest,
            row.uncertainties[index] if row.uncertainties is not None else None,
        )
        for row in scored
        for index, (steps, score, digest) in enumerate(
            zip(row.candidates.step_scores, row.candidates.response_scores(aggregation), row.digests, strict=True)
        )
    ]
