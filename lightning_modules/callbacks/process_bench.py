"""VisualProcessBench at the end of validation and test epochs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.batching.collate import StepBatch
from datamodules.interfaces import EvaluationData, data_module_of
from datamodules.process_bench.solutions import ProcessBenchBatch
from datamodules.process_bench.totals import SourceTotals, coverage_sentence, differences_from_release
from datamodules.storage.files import atomic_write_bytes
from datamodules.supervision.splits import PROCESS
from lightning_modules.callbacks.evaluation import EvaluationCallback, Key
from lightning_modules.callbacks.labelled_steps import LabelledSteps, labelled_steps, scores_and_labels
from lightning_modules.callbacks.reporting import (
    is_partial_evaluation,
    log_scalars,
    output_folder,
    process_split_name,
    protocol_of,
    run_label,
    show_in_tensorboard,
    tensorboards,
    write_report,
)
from lightning_modules.callbacks.score_charts import show_step_charts
from lightning_modules.callbacks.step_scores import STEP_SCORES, write_step_scores
from lightning_modules.metrics.best_of_n_figure import figure_png
from lightning_modules.metrics.step_overall import METRICS
from lightning_modules.metrics.step_report import ScoredSolution, StepMetrics, StepReport, step_report
from lightning_modules.metrics.step_report_table import step_report_figure, step_report_markdown, step_report_tables
from lightning_modules.metrics.step_threshold import OneLabelError, StepThreshold, best_threshold, middle

_MAIN_METRICS = (
    "macro_f1",
    "correct_f1",
    "wrong_f1",
    "accuracy",
    "auroc",
    "correct_average_precision",
    "wrong_average_precision",
    "expected_calibration_error",
)


class ProcessBench(EvaluationCallback[ScoredSolution | LabelledSteps]):
    """Compares step scores with the human labels of VisualProcessBench.

    It reads the :class:`lightning_modules.scoring.scored_batch.ScoredBatch` that the module's step returns for each
    :class:`ProcessBenchBatch`. Neutral steps are left out.

    Logged metrics in [0, 1]: ``process_bench/macro_f1`` and the other fields of
    :class:`lightning_modules.metrics.step_report.StepMetrics` over all steps, ``process_bench/threshold``,
    ``process_bench/macro_f1_mean_of_sources``, ``process_bench/first_wrong_exact`` and the other names of
    :data:`lightning_modules.metrics.step_overall.METRICS`, and ``process_bench_sources/<source>``, the macro F1 of a
    source. Loggers also get ``process_bench_step_index/<metric>/<place>``. TensorBoard gets the tables, the figure,
    precision-recall curves of finding wrong and correct steps, and histograms of scores by label.

    Files: ``process_bench_<run>.json`` and ``.md``, with intervals, at the fixed threshold, the model's own and the
    oracle's side by side. A test also writes the figure and, unless the threshold is the oracle's, the scores of all
    steps, ``process_bench_scores.jsonl``. `validate` and `test` print the tables. For names of runs see
    :class:`lightning_modules.callbacks.best_of_n.BestOfN`. With the oracle threshold, ``process_bench`` is
    ``process_bench_oracle`` in all these names, so that it is not monitored or quoted by mistake.

    Args:
        threshold: Least score of a step that counts as judged correct.

            - A number is fixed: the released VisualPRM-8B is used with 0.85. By default it is the middle of the model's
              scores: 0.5, where both class tokens are equally likely; 0 for an advantage model.
            - ``validation`` chooses the best macro F1 on the labels of the process validation split. `fit` and
              `validate` choose it again each time and store it in the module's protocol, which checkpoints and exported
              models hold. `test` uses the model's threshold, and chooses one only if the model has none.
            - ``oracle`` chooses the best macro F1 on VisualProcessBench itself: an upper bound, never a result, and
              marked as such wherever it is shown.
        output_dir: Folder for the files; the logger's by default.

    Raises:
        ValueError: If the threshold is none of these.
    """

    def __init__(
        self, threshold: float | Literal["validation", "oracle"] | None = None, output_dir: str | None = None
    ) -> None:
        names = ("validation", "oracle")
        is_known = threshold in names if isinstance(threshold, str) else -1 <= (threshold or 0.0) <= 1
        if not is_known:
            raise ValueError(f"threshold must be a score in [-1, 1], 'validation' or 'oracle', got {threshold!r}")
        super().__init__(output_dir)
        self.threshold = threshold
        self.report: StepReport | None = None

    @property
    def name(self) -> str:
        """Prefix of the names of metrics and files."""
        return "process_bench_oracle" if self.threshold == "oracle" else "process_bench"

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the threshold suits the model and can be chosen.

        Raises:
            ValueError: If the threshold is outside the range of the model's scores, or is to be chosen on a process
                validation split that does not exist.
        """
        low, high = protocol_of(pl_module).score_range
        if isinstance(self.threshold, int | float) and not low <= self.threshold <= high:
            raise ValueError(
                f"ProcessBench: threshold {self.threshold} is outside of this model's scores, [{low:g}, {high:g}]"
            )
        data = data_module_of(trainer)
        has_split = not isinstance(data, EvaluationData) or PROCESS in data.validation_names
        if self._must_choose(trainer, pl_module) and not has_split:
            raise ValueError(
                "ProcessBench: threshold 'validation' needs a process validation split to choose on; give the data "
                "module validation_annotations, or validation_fraction (in `test` also test_held_out), use a model "
                "that has a threshold, or give a number"
            )

    def rows_of_batch(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any
    ) -> Iterable[tuple[Key, ScoredSolution | LabelledSteps]]:
        """Scores and labels of VisualProcessBench, and of the split that the threshold is chosen on."""
        if isinstance(batch, ProcessBenchBatch):
            return _scored_solutions(batch, outputs.step_scores)
        if isinstance(batch, StepBatch) and self._must_choose(trainer, pl_module):
            return labelled_steps(batch, outputs.step_scores, protocol_of(pl_module).threshold)
        return ()

    def _must_choose(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether the threshold is to be chosen on the process validation split in this run."""
        has_none = protocol_of(pl_module).step_threshold is None
        return self.threshold == "validation" and (has_none or not trainer.testing)

    def report_on(
        self, trainer: Trainer, pl_module: LightningModule, rows: list[ScoredSolution | LabelledSteps]
    ) -> None:
        """Choose the threshold if requested, and report on the benchmark."""
        solutions = [row for row in rows if isinstance(row, ScoredSolution)]
        validation = [row for row in rows if isinstance(row, LabelledSteps)]
        folder = output_folder(trainer, self.output_dir)
        self.report = None
        try:
            if self._must_choose(trainer, pl_module):
                self._choose(trainer, pl_module, validation)
            if not solutions:
                return
            report = self.report = step_report(
                solutions,
                self._threshold_of(pl_module),
                protocol_of(pl_module).score_range,
                self._others(pl_module),
            )
        except OneLabelError as error:
            if not is_partial_evaluation(trainer):
                raise
            rank_zero_warn(f"ProcessBench has nothing to report on the few batches of this run: {error}")
            return
        totals = _totals(report.sources)
        coverage = coverage_sentence(totals)
        self.tables = step_report_tables(report, coverage)
        overall = {name: getattr(report.overall, name) for name in _MAIN_METRICS}
        main = {f"{self.name}/{name}": value for name, value in overall.items() if value is not None}
        main[f"{self.name}/threshold"] = report.threshold.value
        at_threshold = report.thresholds[0]
        main |= {
            f"{self.name}/{name}": at_threshold.pooled[name].value for name in METRICS if name in at_threshold.pooled
        }
        main[f"{self.name}/macro_f1_mean_of_sources"] = at_threshold.mean_of_sources["macro_f1"].value
        sources = {f"{self.name}_sources/{name}": metrics.macro_f1 for name, metrics in report.sources.items()}
        self.log_metrics(pl_module, main | sources)
        if trainer.is_global_zero:
            head = {"is_released_set": not differences_from_release(totals), "coverage": coverage}
            self._write(trainer, report, folder, head)
            show_step_charts(trainer, self.name, solutions, protocol_of(pl_module).score_range)
            if trainer.testing and folder is not None and self.threshold != "oracle":
                write_step_scores(folder / STEP_SCORES, solutions)

    def _choose(self, trainer: Trainer, pl_module: LightningModule, rows: Sequence[LabelledSteps]) -> None:
        """Choose the threshold on the process validation split and store it in the module's protocol."""
        name = process_split_name(trainer)
        scores, labels = scores_and_labels(rows)
        try:
            value, macro_f1 = best_threshold(scores, labels, protocol_of(pl_module).score_range)
        except OneLabelError as error:
            raise OneLabelError(f"ProcessBench: no threshold can be chosen on {name}: {error}") from error
        chosen_on = f"{name} ({len(labels)} labelled steps of {len(rows)} solutions, macro F1 {macro_f1:.4f} there)"
        protocol: Any = replace(protocol_of(pl_module), step_threshold=value, step_threshold_chosen_on=chosen_on)
        pl_module.protocol = protocol

    def _threshold_of(self, pl_module: LightningModule) -> StepThreshold | None:
        """The threshold of the report; None for the oracle's."""
        if self.threshold == "validation":
            protocol = protocol_of(pl_module)
            value, chosen_on = protocol.step_threshold, protocol.step_threshold_chosen_on
            assert value is not None
            return StepThreshold(value, "validation", chosen_on or "an unnamed set")
        if self.threshold == "oracle":
            return None
        return StepThreshold(
            middle(protocol_of(pl_module).score_range) if self.threshold is None else float(self.threshold)
        )

    def _others(self, pl_module: LightningModule) -> list[StepThreshold | None]:
        """Thresholds to show beside that of the report: fixed, the model's own, and the oracle's."""
        protocol = protocol_of(pl_module)
        fixed = self.threshold if isinstance(self.threshold, int | float) else middle(protocol.score_range)
        chosen, chosen_on = protocol.step_threshold, protocol.step_threshold_chosen_on
        own = [] if chosen is None else [StepThreshold(chosen, "validation", chosen_on or "an unnamed set")]
        return [StepThreshold(float(fixed)), *own, None]

    def _write(self, trainer: Trainer, report: StepReport, folder: Path | None, head: dict[str, Any]) -> None:
        """Write files and log; rank zero only."""
        by_place = {
            f"{self.name}_step_index/{metric}/{row.step_index}": value
            for row in report.by_step_index
            for metric in ("error_rate", "wrong_recall")
            if (value := getattr(row, metric)) is not None
        }
        log_scalars(trainer, by_place)
        markdown = step_report_markdown(report, head["coverage"])
        show_in_tensorboard(trainer, f"{self.name}/table", markdown)
        figure_folder = folder if trainer.testing else None
        if figure_folder or tensorboards(trainer):
            png = figure_png(step_report_figure(report))
            show_in_tensorboard(trainer, f"{self.name}/calibration_and_places", png)
            if figure_folder:
                atomic_write_bytes(figure_folder / f"{self.name}_{run_label(trainer)}.png", png)
        if folder is not None:
            write_report(trainer, folder, self.name, head | report.to_dict(), markdown)


def _scored_solutions(
    batch: ProcessBenchBatch, step_scores: Sequence[Sequence[Tensor]]
) -> Iterator[tuple[Key, ScoredSolution]]:
    is_step = batch.step_positions >= 0
    for row, (scores,) in enumerate(step_scores):
        correctness = batch.correctness[row][is_step[row]].tolist()
        name = batch.sample_ids[row]
        solution = ScoredSolution(name, batch.sources[row], scores.double().tolist(), correctness)
        yield ("process_bench", name), solution


def _totals(sources: dict[str, StepMetrics]) -> dict[str, SourceTotals]:
    return {
        name: SourceTotals(metrics.solutions, metrics.correct_steps, metrics.wrong_steps, metrics.neutral_steps)
        for name, metrics in sources.items()
    }
