"""The data module of a process reward model: process supervision, and what evaluation adds to it."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from torch.utils.data import DataLoader

from datamodules.argument_ranges import require_at_least
from datamodules.batching.collate import StepBatch, StepCollator, Verdicts
from datamodules.batching.evaluation_order import evaluation_loader
from datamodules.batching.left_out import LeftOutRows
from datamodules.batching.lengths import TokenCounter
from datamodules.batching.position import ResumableData, TrainingPosition
from datamodules.batching.training_loader import BatchLayout, Layout, MeasuredRows, measured_rows, training_loader
from datamodules.evaluation import EvaluationDataModule
from datamodules.interfaces import RewardModelFacts
from datamodules.renamed_arguments import value_of_old_name
from datamodules.storage.bad_rows import OnBadRow
from datamodules.supervision.consensus import Consensus
from datamodules.supervision.selection import RowSelection
from datamodules.supervision.sources import ProcessSource, process_sources
from datamodules.supervision.split import strata
from datamodules.supervision.splits import PROCESS, TRAIN, ProcessSupervision

logger = logging.getLogger(__name__)


class VisualPRM400KDataModule(ResumableData, EvaluationDataModule):
    """Serves process supervision to train and validate on, and all that :class:`EvaluationDataModule` serves.

    Which rows of process supervision a command reads:

    ============  ===============  ===================================================================================
    command       training rows    process validation split
    ============  ===============  ===================================================================================
    ``fit``       yes              yes
    ``validate``  no               yes: the same as `fit`, so that the metrics are comparable. With
                                   ``validation_fraction`` it is a part of the training annotations, which are read.
    ``test``      no               the one of ``validation_annotations``; the one of ``validation_fraction`` only with
                                   ``test_held_out``, so that by default `test` opens no training annotations
    ============  ===============  ===================================================================================

    Where there is a process validation split, its dataloader is the first one, named "process".

    Args:
        train_annotations: Process supervision to train on: JSONL and parquet files, released archives, saved Hugging
            Face datasets, folders of any of them, patterns, or a ``meta.json`` of a release (see
            :func:`datamodules.supervision.annotation_files.find_annotation_files`).
        validation_annotations: Process supervision of the process validation split, given as ``train_annotations``.
        validation_fraction: Fraction of the training questions, in [0, 1), that become the process validation split
            instead. A question and all its solutions are in one split.
        image_root: Folder, or zip archive read in place, that the image paths of annotations are relative to. By
            default the folder of the file or, for the layout of the releases, its parent and the ``images.zip`` there.
        batch_size: Training conversations of a micro-batch on each rank. Not used where they are packed.
        packed_tokens: Pack training conversations into micro-batches of at most so many tokens, without padding. Models
            that cannot be trained so get padded batches of conversations of similar length.
        group_by_length: Pad training conversations of similar length together.
        on_long_conversation: What to do about conversations of more than ``packed_tokens`` or ``max_tokens`` tokens:
            raise an error before the first step, or skip and count them. None is ever cut.
        max_samples_per_source: At most so many rows of each source in each split, chosen by ``seed``. The source is the
            ``source`` of a row, else the stem of its file.
        seed: Of the order of training samples, of the validation split, and of the choice of rows.
        on_bad_row: What to do about rows of annotations, of VisualProcessBench and of rollouts that cannot be used:
            skip them, and say how many and which, or raise an error at the first. An annotation whose picture turns out
            to be broken only when it is decoded is left out of its batch, and named then.
        check_images: Whether to read the header of every image of the annotations when their table is built.
        cache_dir: Where the tables of annotations are kept; the cache of `datasets` by default.
        sources: Further process supervision to train on, with settings of its own, as a list, or as a mapping whose
            keys are for the reader. A file that is given twice has the settings of the last one.
        test_held_out: Whether `test` reads the training annotations to evaluate on what ``validation_fraction`` holds
            out of them.
        max_tokens: Most tokens of a conversation of process supervision, however batches are made; by default as many
            as the model has positions (``max_position_embeddings``).
        consensus: Whose verdict on a step counts where rows hold those of a judge beside Monte Carlo scores: that of
            "monte_carlo", of the "judge", or "agreement": steps where both differ have no label.
        selection: Which of the training rows are trained on, see
            :class:`datamodules.supervision.selection.RowSelection`; all by default.
        evaluation: Arguments of :class:`datamodules.evaluation.EvaluationDataModule`, given beside these.

    Attributes:
        supervision: The splits of process supervision that are read.

    Raises:
        ValueError: If the arguments contradict each other.
    """

    evaluation_arguments = (
        f"{EvaluationDataModule.evaluation_arguments}, or validation_annotations (for `validate` also "
        f"validation_fraction, for `test` validation_fraction with test_held_out)"
    )

    def __init__(
        self,
        train_annotations: str | list[str] | None = None,
        validation_annotations: str | list[str] | None = None,
        validation_fraction: float = 0.0,
        image_root: str | None = None,
        batch_size: int = 8,
        packed_tokens: int | None = None,
        group_by_length: bool = False,
        on_long_conversation: OnBadRow = "error",
        max_samples_per_source: int | None = None,
        seed: int = 0,
        on_bad_row: OnBadRow = "skip",
        check_images: bool = True,
        cache_dir: str | None = None,
        sources: list[ProcessSource] | dict[str, ProcessSource] | None = None,
        test_held_out: bool = False,
        max_tokens: int | None = None,
        consensus: Consensus = "monte_carlo",
        selection: RowSelection | None = None,
        **evaluation: Any,
    ) -> None:
        validation_fraction = value_of_old_name(type(self), "validation_fraction", validation_fraction, 0.0, evaluation)
        super().__init__(on_bad_row=on_bad_row, **evaluation)  # also saves the hyperparameters of this class
        selection = RowSelection.of(selection)
        self.save_hyperparameters({"selection": selection and asdict(selection)}, logger=False)
        if not 0.0 <= validation_fraction < 1.0:
            raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction}")
        if validation_fraction and (validation_annotations or not (train_annotations or sources)):
            raise ValueError("validation_fraction takes from train_annotations and excludes validation_annotations")
        require_at_least(1, batch_size=batch_size)
        require_at_least(0, seed=seed)
        self._layout = BatchLayout(batch_size, packed_tokens, group_by_length, on_long_conversation, max_tokens)
        self._chosen: Layout | None = None
        self._measured: dict[str, MeasuredRows] = {}
        self.left_out_rows = LeftOutRows(self.hparams["max_bad_rows"])
        self.supervision = ProcessSupervision(
            self._sources,
            validation_fraction=validation_fraction,
            max_samples_per_source=max_samples_per_source,
            seed=seed,
            on_bad_row=on_bad_row,
            check_images=check_images,
            cache_dir=cache_dir,
            consensus=consensus,
            selection=selection,
            max_bad_rows=self.hparams["max_bad_rows"],
        )
        self.training_position = TrainingPosition(self._order)

    def connect(self, model: RewardModelFacts) -> None:
        """Take over how the model reads conversations, see :meth:`EvaluationDataModule.connect`."""
        super().connect(model)
        self._chosen = None

    # ------------------------------------------------------------------ rows

    def prepare_data(self) -> None:
        """Build the tables of the annotations that the command reads, once a machine."""
        command = self.trainer.state.fn if self.trainer is not None else None
        stage = command.value if command is not None else "fit"
        self.supervision.build(with_training=stage == "fit", with_validation=self._validates(stage))

    def setup(self, stage: str) -> None:
        """Read what the command needs and is not read yet; errors name file, line and field."""
        self.supervision.read(with_training=stage == "fit", with_validation=self._validates(stage))
        if not self._validates(stage):
            logger.warning(
                "test: the process validation split (validation_fraction=%g) is left out, since `test` does not read "
                "the training annotations; set test_held_out to true to evaluate on it",
                self.hparams["validation_fraction"],
            )
        super().setup(stage)

    def _validates(self, stage: str) -> bool:
        """Whether the process validation split, if there is one, takes part."""
        return stage != "test" or not self.hparams["validation_fraction"] or self.hparams["test_held_out"]

    def _sources(self, split: str) -> list[ProcessSource]:
        options = self.hparams
        if split == TRAIN:
            return process_sources(options["train_annotations"], options["sources"], options["image_root"])
        return process_sources(options["validation_annotations"], None, options["image_root"])

    @property
    def training_sources(self) -> dict[str, int]:
        """Number of training rows of each source, as far as they are read."""
        return self.supervision.rows_of_sources

    @property
    def process_split_name(self) -> str:
        """Names the data of the process validation split, for reports that must name the data behind a choice."""
        return self.supervision.validation_data

    def training_system_prompt(self) -> str:
        """The system turn that all training rows have; see :class:`ProcessSupervision`."""
        return self.supervision.system_prompt()

    # ------------------------------------------------------------- evaluation

    @property
    def validation_names(self) -> list[str]:
        """Names of the evaluation dataloaders in their order: "process", "VisualProcessBench", then the benchmarks."""
        has_process = PROCESS in self.supervision.tables and self._validates(self._stage)
        return [*([PROCESS] if has_process else []), *super().validation_names]

    def _evaluation_loader(self, name: str) -> DataLoader[Any]:
        if name != PROCESS:
            return super()._evaluation_loader(name)
        options, collator = self.hparams, self._collator()
        rows = self._measured_rows(PROCESS, "padded", collator).table
        return evaluation_loader(rows, options["eval_batch_size"], collator, options["num_workers"], self.trainer)

    def _collator(self, mark_step_tokens: bool = False, verdicts: Verdicts | None = None) -> StepCollator:
        model = self.model_facts
        return StepCollator(
            model.encoder,
            model.max_steps,
            model.response_as_one_step,
            mark_step_tokens,
            self.hparams["on_bad_row"],
            verdicts,
        )

    def _measured_rows(self, split: str, chosen: Layout, collator: StepCollator) -> MeasuredRows:
        """The rows of a split that the model can read, once: no special tokens, no refused pictures, not too long."""
        if split not in self._measured:
            options, model = self.hparams, self.model_facts
            self.supervision.check_texts(split, model.encoder)
            self.supervision.check_counts(
                split, {"first_success": model.needs_all_continuations, "binary": model.needs_measured_scores}
            )
            # Where lengths only bound a conversation, pictures on slow file systems need not be opened.
            look = options["check_images"] or chosen != "padded"
            self._measured[split] = measured_rows(
                self.supervision.tables[split],
                TokenCounter(collator.encoder, collator.max_steps, look),
                self._layout.limit(chosen, model.max_tokens),
                options["on_long_conversation"],
                options["on_bad_row"],
                options["num_workers"],
                split,
                options["max_bad_rows"],
            )
            self.supervision.keep(split, self._measured[split].table)
        return self._measured[split]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Say which rows of a batch were left out; the batch stays as it is."""
        if type(batch) is StepBatch:
            if self.trainer is not None and self.trainer.training:
                self.left_out_rows.note(batch, TRAIN)
            else:
                ranks = self.trainer.world_size if self.trainer is not None else 1
                self.left_out_rows.note(batch, PROCESS, -(-len(self.supervision.tables.get(PROCESS, ())) // ranks))
        return super().on_before_batch_transfer(batch, dataloader_idx)

    # --------------------------------------------------------------- training

    def train_dataloader(self) -> DataLoader[Any]:
        """Training conversations in a new order each epoch; a resumed run goes on where its checkpoint stood.

        Raises:
            ValueError: If there are no training annotations.
        """
        if TRAIN not in self.supervision.tables:
            raise ValueError("VisualPRM400KDataModule needs train_annotations to fit, or sources")
        model, options = self.model_facts, self.hparams
        collator = self._collator(model.mark_step_tokens, model.training_verdicts)
        chosen = self._chosen = self._chosen or self._layout.chosen(model.packing_obstacle)
        measured = self._measured_rows(TRAIN, chosen, collator)
        return training_loader(
            measured.table,
            collator,
            self._layout,
            chosen,
            seed=options["seed"],
            position=self.training_position,
            num_workers=options["num_workers"],
            trainer=self.trainer,
            lengths=None if chosen == "padded" else measured.lengths,
            row_strata=strata(measured.table),
        )

    def _order(self) -> dict[str, Any]:
        """What the order of the training samples depends on."""
        return {
            "rows": len(self.supervision.tables.get(TRAIN, ())),
            "fingerprint": self.supervision.fingerprint(TRAIN),
            "batch_size": self.hparams["batch_size"],
            "packed_tokens": self.hparams["packed_tokens"],
            "group_by_length": self.hparams["group_by_length"],
            "layout": self._chosen or "padded",
            "lengths": self._measured[TRAIN].digest if TRAIN in self._measured and self._chosen != "padded" else "",
            "ranks": self.trainer.world_size if self.trainer else 1,
            "seed": self.hparams["seed"],
        }
