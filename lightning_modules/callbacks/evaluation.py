"""What evaluation callbacks share: they keep rows of the batches of an epoch, and report on them when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, Generic, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.callbacks.reporting import output_folder, show_in_tensorboard, write_report
from lightning_modules.distributed.gathering import gather_rows
from lightning_modules.metrics.table import Table, print_tables

Row = TypeVar("Row")
Key = tuple[str, ...]
"""Tells a sample of an epoch from all others; the same on all ranks."""


class EvaluationCallback(Callback, Generic[Row]):
    """Keeps rows of the batches of a validation or test epoch, and reports on those of all ranks when it ends.

    A subclass says what it keeps (:meth:`rows_of_batch`) and what it reports (:meth:`report_on`). The sanity check of
    `fit` is left out.

    Args:
        output_dir: Folder for the files; the logger's by default.

    Attributes:
        tables: Of the last epoch; `validate` and `test` print them after the progress bar.
    """

    def __init__(self, output_dir: str | None = None) -> None:
        self.output_dir = output_dir
        self.tables: list[Table] = []
        self._kept: list[tuple[Key, Row]] = []

    # ------------------------------------------------- what a subclass gives

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise an error, before the run starts, if there will be nothing to report."""

    def begin_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what was found in earlier epochs."""

    def rows_of_batch(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any
    ) -> Iterable[tuple[Key, Row]]:
        """Key and row of each sample of a batch that is to be kept; none for batches of another kind.

        Args:
            trainer: Of the run.
            pl_module: The model.
            outputs: Of the model, a :class:`lightning_modules.scoring.scored_batch.ScoredBatch`.
            batch: As the model got it.
        """
        raise NotImplementedError

    def report_on(self, trainer: Trainer, pl_module: LightningModule, rows: list[Row]) -> None:
        """Log, write, and set the tables to print; called on every rank with the same rows.

        Args:
            trainer: Of the run.
            pl_module: The model.
            rows: Those of all ranks in the order of their keys, each key once.
        """
        raise NotImplementedError

    # ------------------------------------------------------------ for its use

    def log_metrics(self, pl_module: LightningModule, metrics: Mapping[str, float]) -> None:
        """Log metrics that are the same on all ranks."""
        pl_module.log_dict(dict(metrics), sync_dist=True)  # syncing changes nothing; Lightning warns without it

    def publish(self, trainer: Trainer, name: str, stored: Mapping[str, Any], table: Table) -> None:
        """Print a table, show it in TensorBoard as ``NAME/table``, and write it with its values as ``NAME_<run>``.

        All ranks must call it together.
        """
        self.tables.append(table)
        folder = output_folder(trainer, self.output_dir)
        if trainer.is_global_zero:
            markdown = table.to_markdown()
            show_in_tensorboard(trainer, f"{name}/table", markdown)
            if folder is not None:
                write_report(trainer, folder, name, stored, markdown)

    # ------------------------------------------------------ Lightning's hooks

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See :meth:`check`."""
        self.check(trainer, pl_module)

    on_fit_start = on_validation_start
    on_test_start = on_validation_start

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the rows of an interrupted epoch."""
        self._kept, self.tables = [], []
        self.begin_epoch(trainer, pl_module)

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
        """Keep the rows of a batch."""
        if not trainer.sanity_checking:
            self._kept += self.rows_of_batch(trainer, pl_module, outputs, batch)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report on the rows of all ranks."""
        if trainer.sanity_checking:
            return
        # One order whatever the number of ranks, so that sums and resampled intervals agree to the last bit.
        rows = sorted(gather_rows(self._kept, key=itemgetter(0)), key=itemgetter(0))
        self._kept = []
        self.report_on(trainer, pl_module, [row for _, row in rows])

    on_test_epoch_end = on_validation_epoch_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the tables of `validate` and `test` after the progress bar."""
        if stage in ("validate", "test") and trainer.is_global_zero:
            print_tables(self.tables)
