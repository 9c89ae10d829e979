"""The data module of a process reward model: process supervision to train on, and everything to evaluate on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers import AutoProcessor

from datamodules.batching.collate import StepCollator
from datamodules.batching.evaluation_order import evaluation_sampler
from datamodules.batching.position import TrainingPosition
from datamodules.batching.training_loader import BatchLayout, Layout, MeasuredRows, measured_rows, training_loader
from datamodules.benchmarks import BenchmarkOptions
from datamodules.best_of_n import BestOfNDataset, CandidateCollator, VerdictRules, read_best_of_n_datasets
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.messages import CLASS_TOKENS
from datamodules.process_bench.solutions import ProcessBenchCollator, VisualProcessBenchDataset
from datamodules.process_bench.totals import TotalsCheck
from datamodules.supervision.rows import OnBadRow
from datamodules.supervision.sources import ProcessSource, process_sources
from datamodules.supervision.splits import PROCESS, TRAIN, ProcessSupervision

logger = logging.getLogger(__name__)

VISUAL_PROCESS_BENCH = "VisualProcessBench"
DEFAULT_MAX_STEPS = 12


class VisualPRM400KDataModule(LightningDataModule):
    """Serves VisualPRM400K rows for training and validation, VisualProcessBench, and the rollouts of benchmarks.

    The dataloaders of `validate` and `test` are the same, in the order of :attr:`validation_names`. How conversations
    are read comes from the reward model through :meth:`connect`; only without one from the arguments here.

    Args:
        train_annotations: Process supervision to train on: JSONL and parquet files, released archives, saved Hugging
            Face datasets, folders of any of them, patterns, or a ``meta.json`` of a release (see
            :func:`datamodules.supervision.annotation_files.find_annotation_files`).
        sources: More of it with settings of their own, as a list, or as a mapping whose keys are for the reader; a file
            that is given twice has the settings of the last one.
        validation_annotations: As ``train_annotations``, for the process validation split.
        validation_share: Share of the training questions that make the process validation split instead, in [0, 1). A
            question and all its solutions are on one side.
        image_root: Folder, or zip archive read in place, that the image paths of annotations are relative to. By
            default the folder of the file or, for the layout of the releases, its parent and the ``images.zip`` there.
        visual_process_bench: Folder that holds VisualProcessBench's ``test.jsonl`` and images.
        visual_process_bench_totals: Whether it must be the released set, see
            :func:`datamodules.process_bench.totals.check_totals`.
        benchmarks: Folder of the benchmark tables or datasets.
        rollouts: JSONL file of rollouts, or folder of them; needs ``benchmarks``.
        on_missing_rollouts: Raise an error if questions have no rollouts, or skip them and say which.
        benchmark_names: Which benchmarks; those that the rollouts are from by default.
        benchmark_options: Name of a benchmark to how it is read: its split and table, and what to do about incomplete
            units, bad rows, and questions that are not those of the release.
        rules: Whose verdicts count: of our rules, of the official ones of each benchmark's authors, of VLMEvalKit's, or
            those in the file; see :class:`datamodules.best_of_n.BestOfNDataset`.
        candidates_per_question: N, how many rollouts of each question to score.
        batch_size: Training conversations a batch and rank; not used where they are packed.
        packed_tokens: Pack training conversations into batches of at most so many tokens, without padding. Models that
            do not allow it have padded batches of conversations of similar length.
        group_by_length: Pad training conversations of similar length together.
        on_long_conversation: Raise an error about conversations of more than ``packed_tokens`` tokens, or leave them
            out and say how many; none is ever cut.
        eval_batch_size: Conversations a batch in evaluation.
        questions_per_batch: Benchmark questions a batch, each with its N candidates.
        num_workers: Processes of each dataloader.
        max_steps: Rows and rollouts with more steps have neighbouring ones merged; 12 unless the model says otherwise.
        response_as_one_step: Judge whole solutions, for outcome reward models; no unless the model says otherwise.
        max_samples_per_source: At most so many rows of each source in each split, chosen by ``seed``. A source is the
            ``source`` of a row, else the stem of its file.
        seed: Of the training order, of the split and of the choice of rows.
        on_bad_row: Skip rows of annotations and of VisualProcessBench that cannot be used and say how many and which,
            or raise an error at the first.
        check_images: Look at the header of every image of the annotations when they are first read.
        cache_dir: Where the tables of annotations are kept; the cache of `datasets` by default.
        model_name_or_path: Checkpoint whose processor to use where no model connects.

    Attributes:
        supervision: The rows to train on and those of the process validation split, as far as they are read.
        training_position: Where training stands in the order of its samples.

    Raises:
        ValueError: If the arguments contradict each other.
    """

    def __init__(
        self,
        train_annotations: str | list[str] | None = None,
        validation_annotations: str | list[str] | None = None,
        validation_share: float = 0.0,
        image_root: str | None = None,
        visual_process_bench: str | None = None,
        visual_process_bench_totals: TotalsCheck = "auto",
        benchmarks: str | None = None,
        rollouts: str | None = None,
        on_missing_rollouts: OnBadRow = "error",
        benchmark_names: list[str] | None = None,
        benchmark_options: dict[str, BenchmarkOptions] | None = None,
        rules: VerdictRules | None = None,
        candidates_per_question: int = 8,
        batch_size: int = 8,
        packed_tokens: int | None = None,
        group_by_length: bool = False,
        on_long_conversation: OnBadRow = "error",
        eval_batch_size: int = 8,
        questions_per_batch: int = 4,
        num_workers: int = 0,
        max_steps: int | None = None,
        response_as_one_step: bool | None = None,
        max_samples_per_source: int | None = None,
        seed: int = 0,
        on_bad_row: OnBadRow = "skip",
        check_images: bool = True,
        cache_dir: str | None = None,
        model_name_or_path: str | None = None,
        sources: list[ProcessSource] | dict[str, ProcessSource] | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= validation_share < 1.0:
            raise ValueError(f"validation_share must be in [0, 1), got {validation_share}")
        if validation_share and (validation_annotations or not (train_annotations or sources)):
            raise ValueError("validation_share takes from train_annotations and excludes validation_annotations")
        if (benchmarks is None) != (rollouts is None):
            raise ValueError("benchmarks (tables) and rollouts (sampled solutions) go together; one of them is missing")
        # The model logs its own, some under the same names. Checkpoints hold plain values only.
        self.save_hyperparameters(logger=False, ignore=["benchmark_options"])
        self.benchmark_options = benchmark_options
        for name in ("batch_size", "eval_batch_size", "questions_per_batch", "candidates_per_question"):
            if self.hparams[name] < 1:
                raise ValueError(f"{name} must be at least 1, got {self.hparams[name]}")
        self._layout = BatchLayout(batch_size, packed_tokens, group_by_length, on_long_conversation)
        self._packing_obstacle: str | None = None
        self._chosen: Layout | None = None
        self._encoder: ConversationEncoder | None = None
        self._max_steps = max_steps or DEFAULT_MAX_STEPS
        self._as_one_step = bool(response_as_one_step)
        self._mark_step_tokens = False
        self.supervision = ProcessSupervision(
            self._sources,
            validation_share=validation_share,
            max_samples_per_source=max_samples_per_source,
            seed=seed,
            on_bad_row=on_bad_row,
            check_images=check_images,
            cache_dir=cache_dir,
        )
        self._process_bench: VisualProcessBenchDataset | None = None
        self._benchmarks: dict[str, BestOfNDataset] = {}
        self._unchecked: set[str] = set()
        self.training_position = TrainingPosition(self._order)
        self._measured: MeasuredRows | None = None

    # ---------------------------------------------------------------- set up

    def connect(
        self,
        encoder: ConversationEncoder,
        max_steps: int,
        response_as_one_step: bool,
        mark_step_tokens: bool = False,
        packing_obstacle: str | None = None,
    ) -> None:
        """Take over how the model reads conversations; called by the model before any dataloader is asked for.

        Raises:
            ValueError: If an argument of this module says otherwise.
        """
        for name, value in {"max_steps": max_steps, "response_as_one_step": response_as_one_step}.items():
            if self.hparams[name] not in (None, value):
                raise ValueError(
                    f"the data module has {name}={self.hparams[name]!r}, but the model was made for {value!r}; "
                    f"leave it out of the data module"
                )
        self._encoder = encoder
        self._max_steps = max_steps
        self._as_one_step = response_as_one_step
        self._mark_step_tokens = mark_step_tokens
        self._packing_obstacle, self._chosen = packing_obstacle, None

    def prepare_data(self) -> None:
        """Build the tables of annotations that the stage needs, once a machine."""
        evaluates_only = self.trainer is not None and self.trainer.state.fn in ("validate", "test")
        self.supervision.build(with_training=not evaluates_only)

    def setup(self, stage: str) -> None:
        """Read what the stage needs and is not read yet; errors name file, line and field."""
        options = self.hparams
        self.supervision.read(with_training=stage == "fit")
        if options["visual_process_bench"] and self._process_bench is None:
            self._process_bench = VisualProcessBenchDataset(
                Path(options["visual_process_bench"]), options["visual_process_bench_totals"], options["on_bad_row"]
            )
            self._unchecked.add(VISUAL_PROCESS_BENCH)
        if options["benchmarks"] and not self._benchmarks:
            self._benchmarks = read_best_of_n_datasets(
                Path(options["benchmarks"]),
                Path(options["rollouts"]),
                options["benchmark_names"],
                options["candidates_per_question"],
                options["rules"],
                self.benchmark_options,
                options["on_missing_rollouts"],
            )
            self._unchecked |= set(self._benchmarks)

    def _sources(self, split: str) -> list[ProcessSource]:
        options = self.hparams
        if split == TRAIN:
            return process_sources(options["train_annotations"], options["sources"], options["image_root"])
        return process_sources(options["validation_annotations"], None, options["image_root"])

    @property
    def encoder(self) -> ConversationEncoder:
        """The connected model's encoder, else one of the processor of ``model_name_or_path``.

        Raises:
            RuntimeError: If there is neither.
        """
        if self._encoder is None:
            name = self.hparams["model_name_or_path"]
            if not name:
                raise RuntimeError("no model has connected to the data module; to use it alone give model_name_or_path")
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
            self._encoder = ConversationEncoder(processor, None, CLASS_TOKENS["value"])
        return self._encoder

    @property
    def training_sources(self) -> dict[str, int]:
        """Training rows of each source, as far as they are read."""
        return self.supervision.rows_of_sources

    # ------------------------------------------------------------- evaluation

    @property
    def validation_names(self) -> list[str]:
        """Names of the evaluation dataloaders: "process", "VisualProcessBench", then benchmarks, those that are there.

        A model that judges whole responses has no part in VisualProcessBench, whose labels are of steps.
        """
        names = [PROCESS] if PROCESS in self.supervision.tables else []
        if self._process_bench is not None and not self._as_one_step:
            names.append(VISUAL_PROCESS_BENCH)
        return names + list(self._benchmarks)

    @property
    def process_split_name(self) -> str:
        """What the process validation split is made of, for reports that must name the data behind a choice."""
        return self.supervision.validation_made_of

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One dataloader for each of :attr:`validation_names`."""
        if self._process_bench is not None and self._as_one_step:
            logger.warning("%s is left out: the model judges whole responses", VISUAL_PROCESS_BENCH)
        return [self._evaluation_loader(name) for name in self.validation_names]

    test_dataloader = val_dataloader

    def _evaluation_loader(self, name: str) -> DataLoader[Any]:
        self._check_texts(name)
        options = self.hparams
        if name == PROCESS:
            collator = StepCollator(self.encoder, self._max_steps, self._as_one_step)
            return self._loader(self.supervision.tables[PROCESS], options["eval_batch_size"], collator)
        if name == VISUAL_PROCESS_BENCH and self._process_bench is not None:
            return self._loader(self._process_bench, options["eval_batch_size"], ProcessBenchCollator(self.encoder))
        candidates = CandidateCollator(self.encoder, self._max_steps, self._as_one_step)
        return self._loader(self._benchmarks[name], options["questions_per_batch"], candidates)

    def _loader(self, dataset: TorchDataset[Any], batch_size: int, collator: Callable[[Any], Any]) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size,
            sampler=evaluation_sampler(dataset, batch_size, self.trainer),  # type: ignore[arg-type]
            collate_fn=collator,
            num_workers=self.hparams["num_workers"],
        )

    def _check_texts(self, name: str) -> None:
        """Find texts that hold special tokens of the tokenizer before a run has spent hours."""
        self.supervision.check_texts(name, self.encoder)
        if name not in self._unchecked:
            return
        if name == VISUAL_PROCESS_BENCH and self._process_bench is not None:
            self._process_bench.check_texts(self.encoder)
        else:
            self._benchmarks[name].check_texts(self.encoder)
        self._unchecked.discard(name)

    # --------------------------------------------------------------- training

    def train_dataloader(self) -> DataLoader[Any]:
        """Conversations in an order of their own each epoch; a resumed run goes on where its checkpoint stood.

        Raises:
            ValueError: If there are no training annotations.
        """
        if TRAIN not in self.supervision.tables:
            raise ValueError("VisualPRM400KDataModule needs train_annotations to fit, or sources")
        self._check_texts(TRAIN)
        self.training_position.trainer = self.trainer
        options = self.hparams
        collator = StepCollator(self.encoder, self._max_steps, self._as_one_step, self._mark_step_tokens)
        chosen = self._chosen = self._chosen or self._layout.chosen(self._packing_obstacle)
        lengths = None
        if chosen != "padded":
            self._measured = self._measured or measured_rows(
                self.supervision.tables[TRAIN],
                collator,
                self._layout,
                chosen == "packed",
                options["on_bad_row"],
                options["num_workers"],
            )
            self.supervision.keep(TRAIN, self._measured.table)
            lengths = self._measured.lengths
        return training_loader(
            self.supervision.tables[TRAIN],
            lengths,
            collator,
            self._layout,
            chosen,
            seed=options["seed"],
            position=self.training_position,
            num_workers=options["num_workers"],
            trainer=self.trainer,
        )

    def _order(self) -> dict[str, Any]:
        """What the order of training samples depends on."""
        return {
            "rows": len(self.supervision.tables.get(TRAIN, ())),
            "fingerprint": self.supervision.fingerprint(TRAIN),
            "batch_size": self.hparams["batch_size"],
            "packed_tokens": self.hparams["packed_tokens"],
            "group_by_length": self.hparams["group_by_length"],
            "layout": self._chosen or "padded",
            "lengths": self._measured.digest if self._measured else "",
            "ranks": self.trainer.world_size if self.trainer else 1,
            "seed": self.hparams["seed"],
        }

    def state_dict(self) -> dict[str, Any]:
        """Where training stands in the order of its samples, and what that depends on."""
        return self.training_position.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember that, for a run that resumes."""
        self.training_position.load_state_dict(state_dict)
