"""Write predictions so that a killed run can resume."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.interfaces import (
    GrowingPredictions,
    PredictionCard,
    PredictionCosts,
    PredictionSettings,
    PromptContents,
    PromptData,
    PromptSources,
    data_module_of,
)
from datamodules.policy.prompt_batches import PromptBatch
from datamodules.storage.files import atomic_write_text, errors_name, given_path, require_writable_file
from lightning_modules.callbacks.journal_files import Entry
from lightning_modules.callbacks.prediction_journal import PredictionJournal

_SOURCE = "{source}"


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

    A module may add samples to a complete output (:class:`datamodules.interfaces.GrowingPredictions`): with a larger
    number of samples a prompt, those that are there are kept, and only the others are predicted.

    ``rows.jsonl.settings`` beside an output is its manifest: settings, number and digest of the prompts, number of
    rows, and when it was finished.

    Args:
        output: JSONL file to write; rows are in the order of the prompts. With ``{source}`` in its name there is one
            for each source, or benchmark, of the prompts, which separate runs may write.
        overwrite: Begin anew, whatever is there: journals are removed, and the output is replaced when the new one is
            complete. ``visualprm predict --overwrite`` sets it. A job that SLURM has requeued goes on all the same.

    Attributes:
        checkpoint: Of the weights, if they are not the module's own; `visualprm predict --ckpt_path` sets it.
    """

    def __init__(self, output: str, overwrite: bool = False) -> None:
        self.output = given_path(output, "output")
        if Path(self.output).is_dir():
            raise IsADirectoryError(f"output: {output} is a folder; a file is to be written there")
        self.overwrite = overwrite
        self.checkpoint: str | None = None
        self._journals: dict[str, IO[str]] = {}
        self._digests: dict[str, str] = {}
        self._is_joined = False
        self._open: list[str] = []
        self._files: dict[str, PredictionJournal] = {}
        self._source_of: dict[str, str] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the data module which prompts are finished.

        Raises:
            TypeError: If the data module is none of prompts, or an output for each source is asked for and it does not
                know the sources.
            ValueError: If there are no prompts, or a run of other settings or prompts is there.
            FileExistsError: If there is an output of unknown origin.
            OSError: If the output cannot be written.
            RuntimeError: If another run writes to the output.
        """
        if stage != "predict" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data = self._prompt_data(trainer)
        self._digests = data.prompt_digests if isinstance(data, PromptContents) else dict.fromkeys(data.prompt_ids, "")
        self._source_of = self._sources(data)
        sources = list(dict.fromkeys(self._source_of.values())) or [""]
        self._files = {name: PredictionJournal(self._output_of(name), data.shard) for name in sources}
        found: dict[str, tuple[set[str] | None, int]] = {}
        if trainer.is_global_zero:
            for name in sources:
                require_writable_file(self._output_of(name))
            settings = dict(pl_module.prediction_settings) if isinstance(pl_module, PredictionSettings) else {}
            settings["checkpoint"] = self.checkpoint
            try:
                for name in sources:
                    found[name] = self._begin(name, settings, pl_module)
            except BaseException:
                self._release()
                raise
        found = trainer.strategy.broadcast(found)
        self._open = [name for name, (done, _) in found.items() if done is not None]
        self._is_joined = not self._open
        completed = [
            prompt_id
            for prompt_id, name in self._source_of.items()
            if (done := found[name][0]) is None or prompt_id in done
        ]
        data.completed_ids = set(completed)
        if isinstance(pl_module, GrowingPredictions):
            pl_module.samples_done = {prompt_id: found[name][1] for prompt_id, name in self._source_of.items()}

    def _begin(self, name: str, settings: dict[str, Any], module: LightningModule) -> tuple[set[str] | None, int]:
        """Prompts of a source that are done, None if all are, and how many samples of each are there."""
        digests = {prompt_id: text for prompt_id, text in self._digests.items() if self._source_of[prompt_id] == name}
        overwrite = self.overwrite and not int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        growing = module.growing_setting if isinstance(module, GrowingPredictions) else None
        files = self._files[name]
        done = files.begin(settings, digests, overwrite=overwrite, growing_setting=growing)
        if done is None:
            self._write_card(files, module)
        return done, files.samples_done

    def _sources(self, data: PromptData) -> dict[str, str]:
        """The source of each prompt, empty where all have one output."""
        if _SOURCE not in str(self.output):
            return dict.fromkeys(self._digests, "")
        if not isinstance(data, PromptSources):
            raise TypeError(f"output {self.output}: {type(data).__name__} does not say which source a prompt is from")
        return dict(data.prompt_sources)

    def _output_of(self, source: str) -> Path:
        return Path(str(self.output).replace(_SOURCE, re.sub(r"[^\w.-]+", "_", source)))

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
        """Open this rank's journals; a fast-dev-run writes nothing."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for name in self._open:
                path = self._files[name].journal_of(trainer.global_rank)
                self._journals[name] = path.open("a", encoding="utf-8")

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
        if not self._journals:
            raise RuntimeError("on_predict_batch_end came before on_predict_start")
        left_out = batch.left_out if isinstance(batch, PromptBatch) else {}
        costs = pl_module.prediction_costs if isinstance(pl_module, PredictionCosts) else {}
        written: dict[str, IO[str]] = {}
        for prompt_id, rows in outputs:
            problem = left_out.get(prompt_id)
            kept = rows if problem is None else []
            entry = Entry(prompt_id, kept, self._digests.get(prompt_id, ""), problem, costs.get(prompt_id))
            journal = self._journals[self._source_of.get(prompt_id, "")]
            with errors_name(Path(journal.name)):  # such as a full disk
                journal.write(entry.line)
            written[journal.name] = journal
        for name, journal in written.items():
            with errors_name(Path(name)):
                journal.flush()
                os.fsync(journal.fileno())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the journals into the output when all ranks are done, in the order of the prompts."""
        self._close()
        self._join(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the journals if the previous run was killed just before: without a prompt left no other hook runs."""
        if stage == "predict":
            if not self._is_joined:
                self._join(trainer)
            self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let other runs have the output; what is in the journals stays."""
        try:
            self._close()
        finally:
            self._release()

    def _close(self) -> None:
        journals, self._journals = self._journals, {}
        for journal in journals.values():
            with errors_name(Path(journal.name)):
                journal.close()

    def _release(self) -> None:
        for files in self._files.values():
            files.release()

    def _join(self, trainer: Trainer) -> None:
        self._is_joined = True
        trainer.strategy.barrier("PredictionWriter")
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            # A share of 1.0 means everything, the integer 1 a single batch.
            limit = trainer.limit_predict_batches
            is_whole = isinstance(limit, float) and limit == 1.0
            # In the order of the prompts, of which the shards are taken.
            order: dict[str, list[str]] = {name: [] for name in self._files}
            own: dict[str, list[str]] = {name: [] for name in self._files}
            data = self._prompt_data(trainer)
            for prompt_id in data.prompt_ids:
                order[self._source_of.get(prompt_id, "")].append(prompt_id)
            for prompt_id in data.shard.of(data.prompt_ids):
                own[self._source_of.get(prompt_id, "")].append(prompt_id)
            for name in self._open:
                self._files[name].join(order[name], is_whole=is_whole, own_ids=own[name])
                self._write_card(self._files[name], trainer.lightning_module)
        trainer.strategy.barrier("PredictionWriter")

    @staticmethod
    def _write_card(files: PredictionJournal, module: LightningModule) -> None:
        """Describe a finished output beside it, unless that is done; one process of a run calls it."""
        record = files.finished()
        path = files.output.with_name(f"{files.output.name}.card.md")
        if record is None or not isinstance(module, PredictionCard):
            return
        if not path.exists() or path.stat().st_mtime < files.output.stat().st_mtime:
            atomic_write_text(path, module.prediction_card(files.output, record.settings, record.costs, record.when))
