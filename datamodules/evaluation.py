"""The data module of evaluation: VisualProcessBench, and Best-of-N over the rollouts of benchmarks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from datamodules.argument_ranges import require_at_least, require_names, require_workers
from datamodules.batching.candidate_batch import CandidateCollator
from datamodules.batching.evaluation_order import evaluation_loader
from datamodules.batching.lengths import TokenCounter
from datamodules.benchmarks import BenchmarkOptions, require_benchmarks
from datamodules.best_of_n import BestOfNDataset, OnMissing, VerdictRules, read_best_of_n_datasets
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.messages import DEFAULT_CLASS_TOKENS
from datamodules.conversation.steps import DEFAULT_MAX_STEPS
from datamodules.interfaces import RewardModelFacts
from datamodules.picture_controls import PictureControl, with_pictures
from datamodules.process_bench.solutions import ProcessBenchCollator, VisualProcessBenchDataset
from datamodules.process_bench.totals import DATASET_NAME as VISUAL_PROCESS_BENCH
from datamodules.process_bench.totals import TotalsCheck
from datamodules.storage.bad_rows import MAX_BAD_ROWS, OnBadRow, require_share
from datamodules.storage.checkpoint_names import require_model

logger = logging.getLogger(__name__)


class EvaluationDataModule(LightningDataModule):
    """Serves what a reward model is evaluated on, to `validate` and `test`; it needs no training data.

    There is one dataloader for VisualProcessBench and one for each benchmark, in the order of
    :attr:`validation_names`. Both commands get the same ones. :class:`datamodules.visual_prm_400k.
    VisualPRM400KDataModule` takes the same arguments and adds process supervision.

    The reward model says how conversations are read, through :meth:`connect`. Without a model, ``max_steps``,
    ``response_as_one_step`` and ``model_name_or_path`` do.

    Args:
        visual_process_bench: Folder with VisualProcessBench's ``test.jsonl`` and images.
        visual_process_bench_totals: Whether it must be the released set, see
            :func:`datamodules.process_bench.totals.check_totals`.
        benchmarks: Folder with the benchmark tables or datasets; needs ``rollouts``.
        rollouts: JSONL file of rollouts, or folder of such files; needs ``benchmarks``.
        on_missing_rollouts: What to do about questions without rollouts: raise an error, or skip and report them.
        benchmark_names: Benchmarks to evaluate on; by default all that have rollouts.
        benchmark_options: For each benchmark by name how it is read: split, table, and what to do about incomplete
            units, bad rows, and questions that are not those of the release.
        rules: Whose verdicts count: "ours", "official" (the rules of each benchmark's authors), "vlmevalkit", or those
            in the "file"; see :class:`datamodules.best_of_n.BestOfNDataset`.
        candidates_per_question: N of Best-of-N: rollouts of each question to score.
        eval_batch_size: Conversations of an evaluation batch on each rank; of VisualProcessBench and process
            supervision.
        questions_per_batch: Benchmark questions of a batch on each rank, each with its N candidates.
        num_workers: DataLoader workers of each dataloader.
        on_bad_row: What to do about rows of VisualProcessBench and of rollouts that cannot be used, by anyone or by the
            model: skip them (of rollouts, the question that they belong to), and say how many and which, or raise an
            error at the first. Benchmarks have their own in ``benchmark_options``.
        max_bad_rows: Largest share of these rows of a file, in [0, 1], that may be left out. More are an error, which
            counts them by cause; see :func:`datamodules.storage.bad_rows.require_few_bad_rows`.
        max_steps: Solutions with more steps have neighbouring ones merged. The model's by default, 12 without a model.
        response_as_one_step: Judge whole responses, as outcome reward models do. As the model does by default.
        model_name_or_path: Checkpoint whose processor reads conversations where no model connects.

    Raises:
        ValueError: If the arguments contradict each other.
    """

    evaluation_arguments = "visual_process_bench, or benchmarks and rollouts"
    """What gives the data module something to evaluate on; for an error message."""

    def __init__(
        self,
        visual_process_bench: str | None = None,
        visual_process_bench_totals: TotalsCheck = "auto",
        benchmarks: str | None = None,
        rollouts: str | None = None,
        on_missing_rollouts: OnMissing = "error",
        benchmark_names: list[str] | None = None,
        benchmark_options: dict[str, BenchmarkOptions] | None = None,
        rules: VerdictRules | None = None,
        candidates_per_question: int = 8,
        eval_batch_size: int = 8,
        questions_per_batch: int = 4,
        num_workers: int = 0,
        on_bad_row: OnBadRow = "skip",
        max_steps: int | None = None,
        response_as_one_step: bool | None = None,
        model_name_or_path: str | None = None,
        max_bad_rows: float = MAX_BAD_ROWS,
    ) -> None:
        super().__init__()
        require_share(max_bad_rows=max_bad_rows)
        if (benchmarks is None) != (rollouts is None):
            raise ValueError("benchmarks (tables) and rollouts (sampled solutions) go together; one of them is missing")
        # The model logs its own, some under the same names. Checkpoints hold plain values only.
        self.save_hyperparameters(logger=False, ignore=["benchmark_options", "selection"])
        self.benchmark_options = benchmark_options
        require_at_least(1, candidates_per_question=candidates_per_question, eval_batch_size=eval_batch_size)
        require_at_least(1, questions_per_batch=questions_per_batch, max_steps=max_steps)
        require_workers(num_workers)
        require_names(benchmark_names=benchmark_names)
        require_benchmarks(benchmark_names=benchmark_names, benchmark_options=benchmark_options)
        self._model: RewardModelFacts | None = None
        self._stage = ""
        self._process_bench: VisualProcessBenchDataset | None = None
        self._benchmarks: dict[str, BestOfNDataset] = {}
        self._unchecked: set[str] = set()

    # ----------------------------------------------------------------- model

    def connect(self, model: RewardModelFacts) -> None:
        """Take over how the model reads conversations; the model calls it before any dataloader is asked for.

        Raises:
            TypeError: If it is not a reward model.
            ValueError: If an argument of this data module says otherwise.
        """
        if not isinstance(model, RewardModelFacts):
            raise TypeError(
                f"{type(self).__name__} is for reward models; a policy takes "
                f"datamodules.prompts_datamodule.PromptDataModule"
            )
        for name in ("max_steps", "response_as_one_step"):
            value = getattr(model, name)
            if self.hparams[name] not in (None, value):
                raise ValueError(
                    f"the data module has {name}={self.hparams[name]!r}, but the model was made for {value!r}; "
                    f"leave it out of the data module"
                )
        self._model = model

    @property
    def model_facts(self) -> RewardModelFacts:
        """How conversations are read: by the connected model, else by the processor of ``model_name_or_path``.

        Raises:
            RuntimeError: If there is neither.
        """
        if self._model is None:
            name = self.hparams["model_name_or_path"]
            if not name:
                raise RuntimeError("no model has connected to the data module; to use it alone give model_name_or_path")
            require_model(name)
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
            encoder = ConversationEncoder(processor, None, DEFAULT_CLASS_TOKENS)
            self._model = RewardModelFacts(
                encoder, self.hparams["max_steps"] or DEFAULT_MAX_STEPS, self._judges_responses
            )
        return self._model

    @property
    def _judges_responses(self) -> bool:
        as_one_step = self.hparams["response_as_one_step"] if self._model is None else self._model.response_as_one_step
        return bool(as_one_step)

    # ------------------------------------------------------------------ data

    def setup(self, stage: str) -> None:
        """Read VisualProcessBench and the rollouts, once; errors name file, line and field."""
        options = self.hparams
        self._stage = TrainerFn(stage).value
        if options["visual_process_bench"] and self._process_bench is None:
            self._process_bench = VisualProcessBenchDataset(
                Path(options["visual_process_bench"]),
                options["visual_process_bench_totals"],
                options["on_bad_row"],
                options["max_bad_rows"],
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
                options["on_bad_row"],
                options["max_bad_rows"],
            )
            self._unchecked |= set(self._benchmarks)

    @property
    def validation_names(self) -> list[str]:
        """Names of the evaluation dataloaders in their order: "VisualProcessBench", then those of the benchmarks.

        Models that judge whole responses have none for VisualProcessBench, whose labels are of steps.
        """
        has_process_bench = self._process_bench is not None and not self._judges_responses
        return [*([VISUAL_PROCESS_BENCH] if has_process_bench else []), *self._benchmarks]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One dataloader for each of :attr:`validation_names`.

        Raises:
            ValueError: If there is nothing to `validate` or `test` on.
        """
        if self._process_bench is not None and self._judges_responses:
            logger.warning("%s is left out: the model judges whole responses", VISUAL_PROCESS_BENCH)
        names = self.validation_names
        if not names and self._stage in ("validate", "test"):
            raise ValueError(f"nothing to {self._stage} on; give the data module {self.evaluation_arguments}")
        return [self._evaluation_loader(name) for name in names]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """The dataloaders of :meth:`val_dataloader`."""
        return self.val_dataloader()

    def control_dataloaders(self, control: PictureControl) -> list[tuple[str, DataLoader[Any], int]]:
        """The evaluation data with the pictures of other questions, or without pictures.

        Args:
            control: Which pictures to show, see :func:`datamodules.picture_controls.with_pictures`.

        Returns:
            Of VisualProcessBench and of each benchmark, if it has pictures: name, dataloader, and how many of its
            questions keep their own pictures because there are no others.
        """
        found = []
        for name in self.validation_names:
            if name in (VISUAL_PROCESS_BENCH, *self._benchmarks) and self.pictured_ids(name):
                changed, kept = with_pictures(self._evaluation_set(name), control)
                found.append((name, self._loader_of(changed), kept))
        return found

    def pictured_ids(self, name: str) -> list[str]:
        """Ids of the solutions of VisualProcessBench, or questions of a benchmark, that have pictures."""
        dataset = self._evaluation_set(name)
        if isinstance(dataset, VisualProcessBenchDataset):
            return [solution.sample_id for solution in dataset.solutions if solution.images]
        return [question.question_id for question in dataset.questions if len(question.images)]

    def _evaluation_set(self, name: str) -> VisualProcessBenchDataset | BestOfNDataset:
        if name == VISUAL_PROCESS_BENCH and self._process_bench is not None:
            return self._process_bench
        return self._benchmarks[name]

    def _evaluation_loader(self, name: str) -> DataLoader[Any]:
        dataset = self._evaluation_set(name)
        self._leave_out_unreadable(name, dataset)
        return self._loader_of(dataset)

    def _loader_of(self, dataset: VisualProcessBenchDataset | BestOfNDataset) -> DataLoader[Any]:
        model, options, workers = self.model_facts, self.hparams, self.hparams["num_workers"]
        if isinstance(dataset, VisualProcessBenchDataset):
            solutions = ProcessBenchCollator(model.encoder)
            return evaluation_loader(dataset, options["eval_batch_size"], solutions, workers, self.trainer)
        candidates = CandidateCollator(model.encoder, model.max_steps, model.response_as_one_step)
        return evaluation_loader(dataset, options["questions_per_batch"], candidates, workers, self.trainer)

    def _leave_out_unreadable(self, name: str, dataset: VisualProcessBenchDataset | BestOfNDataset) -> None:
        """Find what the model cannot read, once, before a run has spent hours."""
        if name in self._unchecked:
            dataset.leave_out_unreadable(TokenCounter(self.model_facts.encoder, self.model_facts.max_steps))
            self._unchecked.discard(name)
