"""The data module of a policy: demonstrations to fit on, prompts to predict."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.argument_ranges import require_at_least, require_names, require_workers
from datamodules.batching.evaluation_order import evaluation_loader
from datamodules.batching.left_out import LeftOutRows
from datamodules.batching.lengths import TokenLimit
from datamodules.batching.position import ResumableData, TrainingPosition
from datamodules.batching.ranks import same_on_all_ranks
from datamodules.batching.shards import Shard
from datamodules.batching.training_loader import BatchLayout, training_loader
from datamodules.benchmarks import BenchmarkOptions, Rules, require_benchmarks
from datamodules.conversation.encoder import special_tokens
from datamodules.conversation.messages import IMAGE_PLACEHOLDER
from datamodules.conversation.reading_rules import PictureRules
from datamodules.interfaces import PolicyFacts
from datamodules.policy.benchmark_prompts import PromptsAs
from datamodules.policy.chat import ChatRenderer
from datamodules.policy.chosen_prompts import CHOICES, prompts_to_answer, rows_named_by
from datamodules.policy.demonstration_lengths import without_long_demonstrations
from datamodules.policy.demonstrations import SupervisedBatch, SupervisedCollator
from datamodules.policy.prompt_batches import PromptBatch, PromptCollator, PromptDataset
from datamodules.policy.prompt_rows import PromptGrading, without_special_tokens
from datamodules.policy.prompt_sources import PromptSource
from datamodules.policy.prompts import Prompt
from datamodules.policy.released_annotation import MaxTiles
from datamodules.storage.bad_rows import MAX_BAD_ROWS, OnBadRow, require_share

logger = logging.getLogger(__name__)


class PromptDataModule(ResumableData, LightningDataModule):
    """Serves a policy: demonstrations to `fit` and `validate`, prompts to `predict`.

    The policy gives its processor and chat template through :meth:`connect`.

    Args:
        demonstrations: MMPR rows with a gold response, for `fit`.
        validation_demonstrations: The same for validation while fitting.
        prompts: MMPR prompt rows for `predict`.
        benchmarks: Folder of benchmark tables for `predict`, instead of ``prompts``.
        visual_process_bench: Folder of VisualProcessBench for `predict`, instead of ``prompts``: its solutions are
            judged by a language model (:class:`lightning_modules.step_judge.StepJudge`).
        benchmark_names: Benchmarks to predict; by default all that the folder has.
        benchmark_options: For each benchmark by name how it is read: split, table, and what to do about incomplete
            units, bad rows, and questions that are not those of the release.
        rules: How responses to benchmark questions are graded: "ours" (cut the final answer out and never guess),
            "official" (the rules of each benchmark's authors), or "vlmevalkit".
        grading: How responses to ``prompts`` are graded: "ours", or as the released annotation of VisualPRM400K-v1.1
            did, see :mod:`datamodules.policy.visualprm_v1_1`.
        image_root: Folder that image paths are relative to; the folder of the file by default.
        prompts_as: How benchmark questions are asked: as "ours", or as VLMEvalKit asks InternVL in Best-of-N
            (:mod:`datamodules.benchmarks.vlmevalkit_prompts`), which has instructions and numbers of tiles of its own.
        instruction_template: Ask ``prompts`` and demonstrations within one of the instructions of
            :data:`datamodules.conversation.instructions.INSTRUCTIONS`, as the released annotation does (see
            :func:`datamodules.policy.released_annotation.as_asked`), instead of with ``instruction``.
        max_tiles: Most tiles that pictures are cut into, the whole picture not counted: a number, or "visualprm_v1_1"
            for those of the released annotation, by source; the processor's own number by default.
        without_sources: Leave out ``prompts`` and demonstrations of sources that have one of these words in their
            names.
        max_prompts_per_source: At most so many ``prompts`` and demonstrations of each source, at equal distances.
        pictures: How pictures become RGB: "ours" (transparency on white, rotated as their EXIF data say), or plainly as
            "released".
        other_images: Give every question the images of another one, as a control; see
            :func:`datamodules.policy.prompts.with_other_images`.
        max_prompts: Use only so many prompts of `predict`, the first ones.
        num_shards: Number of `predict` runs that share one output. Each predicts its shard of the prompts on its own
            devices; the last one to end writes the output.
        shard_index: Shard of this run, from 0: the prompts ``shard_index``, ``shard_index + num_shards``, ...
        batch_size: Prompts, or demonstrations of a micro-batch, on each rank.
        padding_free: Pack the demonstrations of a training micro-batch into one row instead of padding them. They do
            not attend to each other, so the loss is the same. Models that cannot be trained so get padded batches.
        num_workers: DataLoader workers.
        system_prompt: System turn; empty for none.
        instruction: Text that the policy reads after every question, on a line of its own. By default the one that
            :meth:`datamodules.benchmarks.Benchmark.policy_prompt` adds; empty for none.
        seed: Of the order of training samples.
        sources: More prompts for `predict`: many files, each with images, tiles, an instruction and a number of prompts
            of its own, as a list, or as a mapping whose keys name the sources. Their ids begin with the name of the
            source; questions are asked without the requests for a short answer that they end with.
        on_bad_row: What to do about prompts and demonstrations that cannot be used, such as those with a picture that
            cannot be opened or a text with a special token of the tokenizer: leave them out and say how many and which,
            or raise an error at the first one. Benchmarks as such have an ``on_bad_row`` of their own in
            ``benchmark_options``.
        max_bad_rows: Largest share of the rows of a file, in [0, 1], that may be left out. More are an error, which
            counts them by cause; see :func:`datamodules.storage.bad_rows.require_few_bad_rows`.
        max_tokens: Most tokens of a demonstration, pictures included; by default as many as the model has positions
            (``max_position_embeddings``). ``on_bad_row`` says what to do about longer ones.

    Attributes:
        completed_ids: Prompts that earlier runs have answered; `predict` leaves them out.

    Raises:
        ValueError: If the arguments contradict each other.
    """

    def __init__(
        self,
        demonstrations: str | None = None,
        validation_demonstrations: str | None = None,
        prompts: str | None = None,
        benchmarks: str | None = None,
        benchmark_names: list[str] | None = None,
        benchmark_options: dict[str, BenchmarkOptions] | None = None,
        rules: Rules = "ours",
        grading: PromptGrading = "ours",
        image_root: str | None = None,
        prompts_as: PromptsAs = "ours",
        instruction_template: str | None = None,
        max_tiles: MaxTiles | None = None,
        without_sources: Sequence[str] = (),
        max_prompts_per_source: int | None = None,
        pictures: PictureRules = "ours",
        other_images: bool = False,
        max_prompts: int | None = None,
        num_shards: int = 1,
        shard_index: int = 0,
        batch_size: int = 8,
        padding_free: bool = False,
        num_workers: int = 0,
        system_prompt: str = "",
        instruction: str | None = None,
        seed: int = 0,
        on_bad_row: OnBadRow = "skip",
        sources: list[PromptSource] | dict[str, PromptSource] | None = None,
        visual_process_bench: str | None = None,
        max_bad_rows: float = MAX_BAD_ROWS,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        require_share(max_bad_rows=max_bad_rows)
        require_at_least(1, num_shards=num_shards)
        require_at_least(1, batch_size=batch_size, max_prompts_per_source=max_prompts_per_source)
        require_at_least(1, max_tiles=max_tiles if isinstance(max_tiles, int) else None)
        require_at_least(1, max_tokens=max_tokens)
        require_at_least(0, seed=seed, max_prompts=max_prompts)
        if IMAGE_PLACEHOLDER in (instruction or ""):
            raise ValueError(f"instruction must not hold {IMAGE_PLACEHOLDER}: the pictures are those of the question")
        require_workers(num_workers)
        require_names(benchmark_names=benchmark_names)
        require_benchmarks(benchmark_names=benchmark_names, benchmark_options=benchmark_options)
        if (prompts or sources) and benchmarks:
            raise ValueError(f"give either '{'prompts' if prompts else 'sources'}' or 'benchmarks', not both")
        if visual_process_bench and (prompts or sources or benchmarks):
            raise ValueError("give 'visual_process_bench' alone, without 'prompts', 'sources' and 'benchmarks'")
        if instruction is not None and (instruction_template or prompts_as != "ours"):
            other = "instruction_template" if instruction_template else f"prompts_as: {prompts_as}"
            raise ValueError(f"give either 'instruction' or {other}, which has an instruction of its own")
        if benchmarks and (instruction_template or without_sources or max_prompts_per_source):
            raise ValueError(
                "instruction_template, without_sources and max_prompts_per_source are for 'prompts' and "
                "'demonstrations'; leave them out beside 'benchmarks'"
            )
        if max_tiles is not None and prompts_as != "ours":
            raise ValueError(f"leave out 'max_tiles': prompts_as: {prompts_as} has numbers of its own")
        if not 0 <= shard_index < num_shards:
            raise ValueError(f"shard_index must be one of 0 to num_shards - 1 = {num_shards - 1}, got {shard_index}")
        self.save_hyperparameters(
            logger=False, ignore=["benchmark_options", "sources"]
        )  # checkpoints hold plain values only
        self.benchmark_options = benchmark_options
        self.sources = sources
        self.completed_ids: set[str] = set()
        self._prompts: list[Prompt] | None = None
        self._digests: dict[str, str] = {}
        self._sources_of_prompts: dict[str, str] = {}
        self._renderer: ChatRenderer | None = None
        self._train = PromptDataset([])
        self._validation = PromptDataset([])
        self._packing_obstacle: str | None = None
        self._limit: TokenLimit | None = None
        self._left_out = LeftOutRows(max_bad_rows)
        self.training_position = TrainingPosition(self._order)

    def connect(self, model: PolicyFacts) -> None:
        """Take over the policy's processor; the policy calls it before any dataloader is asked for.

        Raises:
            TypeError: If it is not a policy.
        """
        if not isinstance(model, PolicyFacts):
            raise TypeError(
                "PromptDataModule is for policies; a reward model takes datamodules.visual_prm_400k."
                "VisualPRM400KDataModule, or datamodules.evaluation.EvaluationDataModule"
            )
        self._renderer = ChatRenderer(model.processor, self.hparams["system_prompt"])
        self._packing_obstacle = model.packing_obstacle
        self._limit = self._layout.limit("padded", model.max_tokens)
        self._leave_out_unusable()

    @property
    def renderer(self) -> ChatRenderer:
        """Renders prompts for the connected policy.

        Raises:
            RuntimeError: If no policy has connected.
        """
        if self._renderer is None:
            raise RuntimeError("no policy has connected to the data module; call connect(PolicyFacts(processor)) first")
        return self._renderer

    def setup(self, stage: str) -> None:
        """Read the rows of the stage.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If there is nothing to read or no row can be used, or one cannot and ``on_bad_row`` is "error".
        """
        options = self.hparams
        if stage == "fit":
            self._train = PromptDataset(rows_named_by("demonstrations", options))
        if stage in ("fit", "validate"):
            name = "validation_demonstrations"
            self._validation = PromptDataset(rows_named_by(name, options) if options[name] else [])
        if stage == "predict":
            prompts = prompts_to_answer(options, self.benchmark_options, self.sources)
            self._prompts = prompts
            # Of all of them: which ones the tokenizer refuses depends on the model, which is named with the settings.
            self._digests = {prompt.prompt_id: prompt.digest for prompt in prompts}
            self._sources_of_prompts = {prompt.prompt_id: prompt.source for prompt in prompts}
        self._leave_out_unusable()

    def _leave_out_unusable(self) -> None:
        """What the policy cannot read, once both the rows and the policy are known."""
        if self._renderer is None or self._renderer.processor is None:
            return
        tokens = special_tokens(self._renderer.processor)
        rule = self.hparams["on_bad_row"], self.hparams["max_bad_rows"]
        if self._prompts is not None:
            self._prompts = without_special_tokens(self._prompts, tokens, *rule)
        for name in ("_train", "_validation"):
            prompts = without_special_tokens(getattr(self, name).prompts, tokens, *rule)
            if self._limit is not None:
                prompts = without_long_demonstrations(prompts, self._renderer, self._limit, *rule)
            setattr(self, name, PromptDataset(prompts))

    @property
    def asks_with_instruction(self) -> bool:
        """Whether a prompt of `predict` is asked with more than its question."""
        return any(prompt.policy_text != prompt.question for prompt in self._prompts or [])

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What predictions depend on beside the prompts and the policy."""
        settings = {name: self.hparams[name] for name in ("system_prompt", "instruction", "other_images", "rules")}
        # Ours is not named, so that runs from before there was a choice go on.
        chosen = {name: self.hparams[name] for name in ("grading", "prompts_as", "pictures", *CHOICES)}
        sources = self.sources or []
        tiles = [source.max_tiles for source in (sources.values() if isinstance(sources, dict) else sources)]
        if any(tiles):
            settings["tiles_of_sources"] = tiles
        return settings | {name: value for name, value in chosen.items() if value not in ("ours", None, (), [])}

    @property
    def prompt_ids(self) -> list[str]:
        """Ids of all prompts of `predict` in their order, the completed ones included."""
        return [prompt.prompt_id for prompt in self._prompts or []]

    @property
    def prompt_digests(self) -> dict[str, str]:
        """Digest of the content of each prompt of `predict` by id, those with special tokens included."""
        return self._digests

    @property
    def prompt_sources(self) -> dict[str, str]:
        """Source, or benchmark, of each prompt of `predict` by id, those with special tokens included."""
        return self._sources_of_prompts

    @property
    def shard(self) -> Shard:
        """Which of the prompts this run predicts."""
        return Shard(self.hparams["shard_index"], self.hparams["num_shards"])

    @property
    def _layout(self) -> BatchLayout:
        return BatchLayout(self.hparams["batch_size"], max_tokens=self.hparams["max_tokens"])

    def train_dataloader(self) -> DataLoader[Prompt]:
        """Demonstrations as :class:`SupervisedBatch` in a new order each epoch; a resumed run goes on in it."""
        options, padding_free = self.hparams, self.hparams["padding_free"]
        if padding_free and self._packing_obstacle is not None:
            logger.warning("padding_free: %s; batches are padded instead", self._packing_obstacle)
            padding_free = False
        same_on_all_ranks(self._train.fingerprint, "demonstrations")
        return training_loader(
            self._train,
            SupervisedCollator(self.renderer, padding_free, options["on_bad_row"], self._limit),
            self._layout,
            seed=options["seed"],
            position=self.training_position,
            num_workers=options["num_workers"],
            trainer=self.trainer,
        )

    def _order(self) -> dict[str, Any]:
        """What the order of the training samples depends on."""
        return {
            "rows": len(self._train),
            "fingerprint": self._train.fingerprint,
            "layout": "padded",
            "batch_size": self.hparams["batch_size"],
            "ranks": self.trainer.world_size if self.trainer else 1,
            "seed": self.hparams["seed"],
        }

    def val_dataloader(self) -> DataLoader[Prompt] | list[DataLoader[Prompt]]:
        """Validation demonstrations as :class:`SupervisedBatch`; no loader where there are none."""
        collator = SupervisedCollator(self.renderer, on_bad_row=self.hparams["on_bad_row"], limit=self._limit)
        return self._loader(self._validation, collator) if len(self._validation) else []

    def predict_dataloader(self) -> DataLoader[Prompt]:
        """Prompts of this run's shard that no earlier run has completed, as :class:`PromptBatch`."""
        share = self.shard.of(self._prompts or [])
        open_prompts = [prompt for prompt in share if prompt.prompt_id not in self.completed_ids]
        return self._loader(PromptDataset(open_prompts), PromptCollator(self.renderer, self.hparams["on_bad_row"]))

    def _loader(self, dataset: PromptDataset, collator: PromptCollator | SupervisedCollator) -> DataLoader[Prompt]:
        options = self.hparams
        return evaluation_loader(dataset, options["batch_size"], collator, options["num_workers"], self.trainer)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Say which rows of a batch were left out; the batch stays as it is."""
        if isinstance(batch, PromptBatch):
            self._left_out.note(batch, "prompt", self._rows_of_this_rank(len(self._prompts or [])))
        elif isinstance(batch, SupervisedBatch):
            is_training = self.trainer is not None and self.trainer.training
            if is_training:
                self._left_out.note(batch, "demonstration")
            else:
                self._left_out.note(batch, "validation demonstration", self._rows_of_this_rank(len(self._validation)))
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def _rows_of_this_rank(self, rows: int) -> int:
        return -(-rows // (self.trainer.world_size if self.trainer else 1))

    def transfer_batch_to_device(self, batch: object, device: object, dataloader_idx: int) -> object:
        """Leave prompts on the CPU: the engine moves what it encodes."""
        if isinstance(batch, PromptBatch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)  # type: ignore[arg-type]
