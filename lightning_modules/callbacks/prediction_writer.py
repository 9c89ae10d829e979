"""Write predictions so that a killed run can resume."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.batching.shards import Shard
from datamodules.interfaces import PredictionSettings, PromptData, data_module_of
from datamodules.storage.files import atomic_write_text

log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Writes what `predict_step` returns to journals, and joins them into one JSONL file at the end.

    `predict_step` must return ``[(prompt id, [row, ...]), ...]``. Each rank appends to a journal of its own beside the
    output, one line per prompt. When a run starts again with the same output, prompts in the journals (of any number of
    ranks) are not predicted again. The module's `prediction_settings`, on which predictions depend, are stored beside
    the journals; a run with other settings is refused as long as there are journals.

    Several runs may share an output, each with another shard of the data module (`num_shards` and `shard_index`), at
    the same time or one after the other. The run that finds all prompts done joins the journals. Afterwards a shard
    that starts again (a requeued task) has nothing to do; the settings stay beside the output so that other settings
    are refused.

    Args:
        output: JSONL file to write; rows are in the order of the prompts.
    """

    def __init__(self, output: str) -> None:
        self.output = Path(output)
        self._journal: IO[str] | None = None
        self._settings = "{}"
        self._is_joined = False
        self._shard = Shard()

    @property
    def _settings_path(self) -> Path:
        return self.output.with_name(f"{self.output.name}.settings")

    def _journals(self) -> list[Path]:
        return sorted(self.output.parent.glob(f"{self.output.name}.journal-*"))

    def _finished(self) -> Iterator[tuple[str, list[Any]]]:
        """Entries of all journals; a last line without a newline, cut short by a kill, is left out."""
        for path in self._journals():
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if not line.endswith("\n"):
                        break
                    try:
                        prompt_id, rows = json.loads(line)
                    except ValueError as error:
                        raise ValueError(f"{path}:{number}: not a journal entry ({error}); delete the line") from error
                    yield prompt_id, rows

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the data module which prompts are finished."""
        if stage != "predict":
            return
        datamodule = self._prompt_data(trainer)
        self._shard = datamodule.shard
        settings = pl_module.prediction_settings if isinstance(pl_module, PredictionSettings) else {}
        self._settings = json.dumps(settings, sort_keys=True)
        with self._other_shards_waiting():
            is_there = self._shard.count > 1 and self.output.exists()
            known = self._settings_path.read_text(encoding="utf-8") if self._settings_path.exists() else self._settings
            if (self._journals() or is_there) and known != self._settings:
                raise ValueError(
                    f"{self.output}: {'a finished' if is_there else 'an unfinished'} run with other settings is there: "
                    f"{known}, now {self._settings}; go on with the same settings, or delete "
                    f"{self.output.name if is_there else f'{self.output.name}.journal-*'} to begin anew"
                )
            if is_there:
                log.warning("%s is there: no shard has anything left to do. Delete it to begin anew.", self.output)
                datamodule.completed_ids = set(datamodule.prompt_ids)
            else:
                datamodule.completed_ids = {prompt_id for prompt_id, _ in self._finished()}
        self._is_joined = False

    @staticmethod
    def _prompt_data(trainer: Trainer) -> PromptData:
        data = data_module_of(trainer)
        if not isinstance(data, PromptData):
            raise TypeError(
                f"PredictionWriter needs a data module with prompt_ids, completed_ids and shard, such as "
                f"PromptDataModule; got {type(data).__name__}"
            )
        return data

    def _other_shards_waiting(self) -> AbstractContextManager[Any]:
        """Within this context no other run joins journals."""
        if self._shard.count == 1:
            return nullcontext()
        self.output.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.output.with_name(f".{self.output.name}.lock"))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this rank's journal, without a line that a kill cut short; a fast-dev-run writes nothing."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        if trainer.is_global_zero:
            atomic_write_text(self._settings_path, self._settings)
        path = self.output.with_name(f"{self.output.name}.journal-{self._shard.label}{trainer.global_rank:05d}")
        if path.exists():
            text = path.read_bytes()
            if not text.endswith(b"\n"):
                with path.open("r+b") as file:
                    file.truncate(text.rfind(b"\n") + 1)
        self._journal = path.open("a", encoding="utf-8")

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
        for prompt_id, rows in outputs:
            self._journal.write(json.dumps([prompt_id, rows], allow_nan=False) + "\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the journals into the output when all ranks are done, in the order of the prompts."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._join(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the journals if the previous run was killed just before: without a prompt left no other hook runs."""
        if stage == "predict" and not self._is_joined:
            self._join(trainer)

    def _join(self, trainer: Trainer) -> None:
        self._is_joined = True
        trainer.strategy.barrier("PredictionWriter")
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with self._other_shards_waiting():
                self._write(trainer)
        trainer.strategy.barrier("PredictionWriter")

    def _write(self, trainer: Trainer) -> None:
        if self._shard.count > 1 and self.output.exists():
            # Joined by another shard, which may have been killed before it had removed everything.
            for path in self._journals():
                path.unlink()
            return
        rows_of = dict(self._finished())
        order = self._prompt_data(trainer).prompt_ids
        missing = [prompt_id for prompt_id in order if prompt_id not in rows_of]
        own = [prompt_id for prompt_id in self._shard.of(order) if prompt_id not in rows_of]
        if not missing:
            lines = [json.dumps(row) for prompt_id in order for row in rows_of[prompt_id]]
            atomic_write_text(self.output, "".join(f"{line}\n" for line in lines))
            for path in self._journals():
                path.unlink()
            if self._shard.count == 1:
                self._settings_path.unlink(missing_ok=True)
        elif not own:
            log.warning(
                "%s: this shard is done; %d of %d prompts are left to the others", self.output, len(missing), len(order)
            )
        # A share of 1.0 means everything, the integer 1 a single batch.
        elif isinstance(trainer.limit_predict_batches, float) and trainer.limit_predict_batches == 1.0:
            raise RuntimeError(f"{self.output}: no prediction for {len(own)} prompts, the first is {own[0]!r}")
