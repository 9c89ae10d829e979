"""VisualProcessBench at the end of validation and test epochs."""

from __future__ import annotations

import json
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.files import atomic_write_text
from datamodules.visual_process_bench import ProcessBenchBatch
from lightning_modules.callbacks.reporting import gather_rows, log_markdown, output_folder, run_label
from lightning_modules.metrics.step_report import JudgedSolution, StepReport, step_report
from lightning_modules.metrics.table import print_tables


class ProcessBench(Callback):
    """Compares step scores with the human labels of VisualProcessBench.

    It listens to the dataloader that gives :class:`ProcessBenchBatch` and to the ``step_scores`` (B, S) that the
    module's step returns for it. Neutral steps are left out.

    Logged metrics in [0, 1]: ``process_bench/macro_f1``, ``correct_f1``, ``wrong_f1``, ``accuracy`` and ``auroc`` over
    all steps, and ``process_bench_sources/<source>``, the macro F1 of a source. TensorBoard gets the table,
    ``process_bench_<run>.json`` everything; `validate` and `test` print the table. For names of runs see
    :class:`lightning_modules.callbacks.best_of_n.BestOfN`.

    Args:
        threshold: From which score on a step counts as judged correct. It is never tuned on the benchmark: 0.5 is where
            both class tokens are equally likely; the released VisualPRM-8B is used with 0.85.
        output_dir: Folder for the files; the logger's by default.

    Raises:
        ValueError: If the threshold is not in [0, 1].
    """

    def __init__(self, threshold: float = 0.5, output_dir: str | None = None) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
        self.threshold = threshold
        self.output_dir = output_dir
        self.report: StepReport | None = None
        self._solutions: list[JudgedSolution] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted epoch left."""
        self._solutions = []

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
        """Keep the scores of a batch."""
        if trainer.sanity_checking or not isinstance(batch, ProcessBenchBatch):
            return
        scores = outputs["step_scores"].double().cpu()
        labels = batch.correctness.cpu()
        is_step = (batch.step_positions >= 0).cpu()
        for row, (sample_id, source) in enumerate(zip(batch.sample_ids, batch.sources, strict=True)):
            self._solutions.append(
                JudgedSolution(
                    sample_id=sample_id,
                    source=source,
                    scores=scores[row][is_step[row]].tolist(),
                    correctness=labels[row][is_step[row]].tolist(),
                )
            )

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report on the benchmark."""
        if trainer.sanity_checking:
            return
        # One order whatever the number of ranks, so that the sums agree to the last bit.
        gathered = gather_rows(self._solutions, key=lambda solution: solution.sample_id)
        solutions = sorted(gathered, key=lambda solution: solution.sample_id)
        self._solutions = []
        folder = output_folder(trainer, self.output_dir)
        self.report = None
        if not solutions:
            return
        report = self.report = step_report(solutions, self.threshold)
        names = ("macro_f1", "correct_f1", "wrong_f1", "accuracy", "auroc")
        overall = {name: getattr(report.overall, name) for name in names}
        main = {f"process_bench/{name}": value for name, value in overall.items() if value is not None}
        sources = {f"process_bench_sources/{name}": metrics.macro_f1 for name, metrics in report.sources.items()}
        # The values are the same on all ranks; sync_dist only tells Lightning so.
        pl_module.log_dict(main | sources, sync_dist=True)
        if not trainer.is_global_zero:
            return
        log_markdown(trainer, "process_bench/table", report.to_table().to_markdown())
        if folder is not None:
            label = run_label(trainer)
            head = {"run": label, "epoch": trainer.current_epoch, "global_step": trainer.global_step}
            text = json.dumps(head | report.to_dict(), indent=2, allow_nan=False)
            atomic_write_text(folder / f"process_bench_{label}.json", text + "\n")

    on_test_epoch_end = on_validation_epoch_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table of `validate` and `test` when the progress bar is gone."""
        if stage in ("validate", "test") and trainer.is_global_zero and self.report is not None:
            print_tables([self.report.to_table()])
