"""Write predictions so that a killed run can resume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.interfaces import PredictionSettings, PromptContents, PromptData, data_module_of
from datamodules.policy.prompts import PromptBatch
from datamodules.storage.files import given_path, require_writable_file
from lightning_modules.callbacks.prediction_journal import Entry, PredictionJournal


class PredictionWriter(Callback):
    """Writes what `predict_step` returns to journals, and joins them into one JSONL file at the end.

    `predict_step` must return ``[(prompt id, [row, ...]), ...]``. Each rank appends to a journal of its own beside the
    output, one line per prompt. When a run starts again with the same output, prompts in the journals (of any number of
    ranks) are not predicted again, and a complete output is left as it is. Other settings (the module's
    `prediction_settings`, on which predictions depend) or other prompts are refused, also beside a complete output, and
    so is an output of unknown origin. A second run at the same output waits half a minute and ends with an error.

    Several runs may share an output, each with another shard of the data module (`num_shards` and `shard_index`), at
    the same time or one after the other. The run that finds all prompts done joins the journals. Afterwards a shard
    that starts again (a requeued task) has nothing to do.

    Args:
        output: JSONL file to write; rows are in the order of the prompts.
        overwrite: Begin anew, whatever is there: journals are removed, and the output is replaced when the new one is
            complete. ``visualprm predict --overwrite`` sets it. A job that SLURM has requeued goes on all the same.

    Attributes:
        checkpoint: Of the weights, if they are not the module's own; `visualprm predict --ckpt_path` sets it.
    """

    def __init__(self, output: str, overwrite: bool = False) -> None:
        self.output = given_path(output, "output")
        self.overwrite = overwrite
        self.checkpoint: str | None = None
        self._journal: IO[str] | None = None
        self._digests: dict[str, str] = {}
        self._is_joined = False
        self.files = PredictionJournal(self.output)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the data module which prompts are finished.

        Raises:
            TypeError: If the data module is none of prompts.
            ValueError: If there are no prompts, or a run of other settings or prompts is there.
            FileExistsError: If there is an output of unknown origin.
            OSError: If the output cannot be written.
            RuntimeError: If another run writes to the output.
        """
        if stage != "predict" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data = self._prompt_data(trainer)
        self.files = PredictionJournal(self.output, data.shard)
        self._digests = data.prompt_digests if isinstance(data, PromptContents) else dict.fromkeys(data.prompt_ids, "")
        done: set[str] | None = None
        if trainer.is_global_zero:
            require_writable_file(self.output)
            settings = dict(pl_module.prediction_settings) if isinstance(pl_module, PredictionSettings) else {}
            settings["checkpoint"] = self.checkpoint
            overwrite = self.overwrite and not int(os.environ.get("SLURM_RESTART_COUNT") or 0)
            done = self.files.begin(settings, self._digests, overwrite=overwrite)
        done = trainer.strategy.broadcast(done)
        self._is_joined = done is None
        data.completed_ids = set(self._digests) if done is None else done

    @staticmethod
    def _prompt_data(trainer: Trainer) -> PromptData:
        data = data_module_of(trainer)
        if not isinstance(data, PromptData):
            raise TypeError(
                f"PredictionWriter needs a data module with prompt_ids, completed_ids and shard, such as "
                f"PromptDataModule; got {type(data).__name__}"
            )
        return data

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this rank's journal; a fast-dev-run writes nothing."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._journal = self.files.journal_of(trainer.global_rank).open("a", encoding="utf-8")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Sequence[tuple[str, list[dict[str, Any]]]],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the batch to the journal and force it to the disk."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self._journal is None:
            raise RuntimeError("on_predict_batch_end came before on_predict_start")
        left_out = batch.left_out if isinstance(batch, PromptBatch) else {}
        for prompt_id, rows in outputs:
            problem = left_out.get(prompt_id)
            entry = Entry(prompt_id, rows if problem is None else [], self._digests.get(prompt_id, ""), problem)
            self._journal.write(self.files.line(entry))
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the journals into the output when all ranks are done, in the order of the prompts."""
        self._close()
        self._join(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the journals if the previous run was killed just before: without a prompt left no other hook runs."""
        if stage == "predict":
            if not self._is_joined:
                self._join(trainer)
            self.files.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let other runs have the output; what is in the journals stays."""
        try:
            self._close()
        finally:
            self.files.release()

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _join(self, trainer: Trainer) -> None:
        self._is_joined = True
        trainer.strategy.barrier("PredictionWriter")
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            # A share of 1.0 means everything, the integer 1 a single batch.
            limit = trainer.limit_predict_batches
            self.files.join(self._prompt_data(trainer).prompt_ids, is_whole=isinstance(limit, float) and limit == 1.0)
        trainer.strategy.barrier("PredictionWriter")
