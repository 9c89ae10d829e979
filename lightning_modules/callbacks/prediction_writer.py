"""Writing of predictions so that a killed run can go on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.files import atomic_write_text


class PredictionWriter(Callback):
    """Keeps what `predict_step` returns, a line a prompt, and joins it into one JSONL file at the end.

    `predict_step` must return ``[(prompt id, [row, ...]), ...]``. Each rank appends to a journal of its own next to the
    output. When a run starts again with the same output, the prompts found in the journals (of any number of ranks) are
    not predicted again. What the predictions depend on, the module's `prediction_settings` (a dict) if it has them, is
    kept beside the journals: a run with other settings is refused while there are journals.

    Args:
        output: The JSONL file to write, rows in the order of the prompts.
    """

    def __init__(self, output: str) -> None:
        self.output = Path(output)
        self._journal: IO[str] | None = None
        self._settings = "{}"
        self._is_joined = False

    @property
    def _settings_path(self) -> Path:
        return self.output.with_name(f"{self.output.name}.settings")

    def _journals(self) -> list[Path]:
        return sorted(self.output.parent.glob(f"{self.output.name}.journal-*"))

    def _finished(self) -> Iterator[tuple[str, list[Any]]]:
        """Entries of all journals; a last line that a kill cut short has no newline and is left out."""
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
        """Tell the data module which prompts are done."""
        if stage != "predict":
            return
        self._settings = json.dumps(getattr(pl_module, "prediction_settings", {}), sort_keys=True)
        known = self._settings_path.read_text(encoding="utf-8") if self._settings_path.exists() else self._settings
        if self._journals() and known != self._settings:
            raise ValueError(
                f"{self.output}: an unfinished run with other settings is there: {known}, now {self._settings}; "
                f"go on with the same settings, or delete {self.output.name}.journal-* to begin anew"
            )
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        datamodule.completed_ids = {prompt_id for prompt_id, _ in self._finished()}
        self._is_joined = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this rank's journal, without the line that a kill cut short; a trial run leaves nothing behind."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        if trainer.is_global_zero:
            atomic_write_text(self._settings_path, self._settings)
        path = self.output.with_name(f"{self.output.name}.journal-{trainer.global_rank:05d}")
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
        """Join the journals into the output once every rank is done, in the order of the prompts."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._join(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the journals where the run before was killed just before it: no prompt is left, no hook above called."""
        if stage == "predict" and not self._is_joined:
            self._join(trainer)

    def _join(self, trainer: Trainer) -> None:
        self._is_joined = True
        trainer.strategy.barrier("PredictionWriter")
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            rows_of = dict(self._finished())
            datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
            order = datamodule.prompt_ids
            missing = [prompt_id for prompt_id in order if prompt_id not in rows_of]
            if not missing:
                lines = [json.dumps(row) for prompt_id in order for row in rows_of[prompt_id]]
                atomic_write_text(self.output, "".join(f"{line}\n" for line in lines))
                for path in self._journals():
                    path.unlink()
                self._settings_path.unlink(missing_ok=True)
            elif isinstance(trainer.limit_predict_batches, float) and trainer.limit_predict_batches == 1.0:
                # A share of 1.0 means everything, the integer 1 a single batch.
                raise RuntimeError(
                    f"{self.output}: no prediction for {len(missing)} prompts, the first is {missing[0]!r}"
                )
        trainer.strategy.barrier("PredictionWriter")
