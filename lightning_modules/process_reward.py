"""The process reward model: a multimodal language model that judges each step of a solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from PIL import Image
from torch import Tensor

from datamodules.batching.collate import StepBatch
from datamodules.best_of_n import CandidateBatch
from datamodules.conversation.candidates import EncodedCandidates, encode_candidates
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.steps import response_steps
from datamodules.interfaces import RewardModelData, RewardModelFacts, data_module_of, evaluation_name
from datamodules.storage.images import decoded
from datamodules.supervision.splits import PROCESS
from lightning_modules.export.pretrained_folder import MAX_SHARD_SIZE
from lightning_modules.export.reward_model import write_reward_model
from lightning_modules.metrics.response_score import Aggregation, aggregate_step_scores
from lightning_modules.model.backbone import BackboneOptions, ImageBackend, load_backbone, load_processor
from lightning_modules.model.backbone_module import BackboneModule
from lightning_modules.model.packed_forward import hidden_states, packing_obstacle, step_logits
from lightning_modules.model.step_head import StepHead, language_model_head, untie_language_model_head
from lightning_modules.objectives.language_model_loss import step_text_losses
from lightning_modules.objectives.step_loss import LossOptions, LossSum, StepLoss, step_scores
from lightning_modules.objectives.step_validation import StepValidation
from lightning_modules.protocol import Objective, resolve_protocol
from lightning_modules.scoring.candidates import score_candidates
from lightning_modules.training.optimization import OptimizerFactory, configure_warmup_cosine
from lightning_modules.training.record import TrainingRecord, training_record


@dataclass(frozen=True)
class ScoredResponses:
    """Scores of N responses to one question.

    Attributes:
        steps: The steps as they were judged.
        step_scores: One score a step, in [0, 1]; of an advantage model in [-1, 1].
        response_scores: One score a response.
    """

    steps: list[list[str]]
    step_scores: list[list[float]]
    response_scores: list[float]


class ProcessRewardModel(BackboneModule):
    """Trains on steps with Monte Carlo scores and scores steps of new solutions.

    Args:
        model_name_or_path: Any image-text-to-text checkpoint, or a folder that :meth:`save_pretrained` wrote.
        objective: See :class:`lightning_modules.protocol.Protocol`; None takes the folder's, else ``value``.
        threshold: Likewise; else 0.
        system_prompt: Likewise; else our default. An empty text switches the system turn off.
        max_steps: Likewise; else 12.
        aggregation: Likewise; else ``mean``.
        class_tokens: Likewise; else ``+`` and ``-``, for ``advantage`` ``+``, ``=`` and ``-``.
        loss: Variants of the objective's loss, in training only.
        language_model_weight: Weight of a second loss, in training only: of a step labelled right, the language-model
            loss on its text; 0 of others. It keeps hidden states generative, see
            :mod:`lightning_modules.objectives.language_model_loss`; 0, the paper's recipe, leaves it out.
        learning_rate: Peak learning rate.
        weight_decay: Of matrices.
        warmup_share: Share of the run that warms up.
        head_learning_rate_multiplier: See :func:`lightning_modules.training.optimization.configure_warmup_cosine`.
        vision_learning_rate_multiplier: Likewise.
        optimizer: Factory by class path; AdamW by default.
        backbone: How the checkpoint is loaded and which of its weights are trained.
        scoring_memory_gib: See ``memory_gib`` of :func:`lightning_modules.scoring.candidates.score_candidates`.
        image_backend: See :func:`lightning_modules.model.backbone.load_processor`; None takes the folder's.
    """

    def __init__(
        self,
        model_name_or_path: str,
        objective: Objective | None = None,
        threshold: float | None = None,
        system_prompt: str | None = None,
        max_steps: int | None = None,
        aggregation: Aggregation | None = None,
        class_tokens: list[str] | None = None,
        loss: LossOptions | None = None,
        language_model_weight: float = 0.0,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.05,
        warmup_share: float = 0.05,
        head_learning_rate_multiplier: float = 1.0,
        vision_learning_rate_multiplier: float = 1.0,
        optimizer: OptimizerFactory | None = None,
        backbone: BackboneOptions | None = None,
        scoring_memory_gib: float | None = None,
        image_backend: ImageBackend | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "backbone", "loss"])
        self.keep_backbone_options(backbone)
        self.optimizer_factory = optimizer
        given = {
            "objective": objective,
            "threshold": threshold,
            "system_prompt": system_prompt,
            "max_steps": max_steps,
            "aggregation": aggregation,
            "class_tokens": class_tokens,
            "image_backend": image_backend,
        }
        self.protocol = resolve_protocol(model_name_or_path, given)
        self.processor = load_processor(model_name_or_path, self.protocol.image_backend)
        self.step_loss = StepLoss(self.protocol.objective, self.protocol.threshold, LossOptions.of(loss))
        self.save_hyperparameters({"loss": asdict(self.step_loss.options)})  # checkpoints hold plain values only
        self.encoder = ConversationEncoder(
            self.processor, self.protocol.system_prompt, self.protocol.class_tokens or [], self.protocol.image_layout
        )
        self.build()
        self.step_validation = StepValidation(self.protocol)
        self.training_record: TrainingRecord | None = None

    def build(self) -> None:
        """Make the backbone and the step head, which stands in for the language-model head until export."""
        self.backbone = load_backbone(self.hparams["model_name_or_path"], self.backbone_options)
        untie_language_model_head(self.backbone)
        self.head = StepHead(self.backbone, self.encoder.class_token_ids)
        if not self.hparams["language_model_weight"]:
            language_model_head(self.backbone).requires_grad_(False)

    # ------------------------------------------------------------------ data

    def setup(self, stage: str) -> None:
        """Tell the data module how this model reads conversations."""
        if stage == "fit":
            # Training makes other scores; a resumed run gets the threshold of its checkpoint back.
            self.protocol = replace(self.protocol, step_threshold=None, step_threshold_chosen_on=None)
        data = data_module_of(self.trainer)
        if isinstance(data, RewardModelData):
            data.connect(
                RewardModelFacts(
                    self.encoder,
                    max_steps=self.protocol.max_steps,
                    response_as_one_step=self.protocol.objective == "outcome",
                    mark_step_tokens=self.hparams["language_model_weight"] > 0,
                    packing_obstacle=packing_obstacle(self.backbone),
                )
            )

    # ------------------------------------------------------------- forwards

    def forward(self, batch: StepBatch) -> Tensor:
        """Class logits of all steps of a batch of conversations: (B, S, K) float32."""
        return step_logits(self.head, hidden_states(self.backbone, batch), batch)

    def scores_from_logits(self, logits: Tensor) -> Tensor:
        """Mean worth of the class tokens, P(+) or P(+) - P(-) among them: (..., K) -> (...)."""
        return step_scores(logits, self.protocol.class_values)

    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """The objective over the labelled steps of the batch, with the language-model loss where it is switched on.

        Returns:
            A sum, see :meth:`sum_of_labels`.
        """
        states = hidden_states(self.backbone, batch)
        logits = step_logits(self.head, states, batch)
        judged = self._losses(batch, logits).sum
        weight = self.hparams["language_model_weight"]
        if not weight or batch.step_tokens is None:
            return self.sum_of_labels(*judged, loss=judged.total)
        text = step_text_losses(self.backbone, batch, states, self.step_loss.right_steps(batch.mc))
        total = self._losses(batch, logits, added=weight * text).sum.total
        added = (total - judged.total) / weight
        return self.sum_of_labels(total, judged.weight, loss=judged.total, language_model_loss=added)

    def _losses(self, batch: StepBatch, logits: Tensor, added: Tensor | None = None) -> LossSum:
        """The loss of each conversation of a batch, not divided by the weight of its labels."""
        accuracy, totals = batch.question_accuracy, batch.num_mc_total
        return self.step_loss.of_solutions(
            logits, batch.mc, question_accuracy=accuracy, num_mc_total=totals, added=added
        )

    def validation_step(self, batch: StepBatch | CandidateBatch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Score a batch of conversations or of Best-of-N candidates.

        Returns:
            For conversations ``{"step_scores": (B, S), "step_logits": (B, S, K)}``, scores NaN at padding. For
            candidates: for each question, for each candidate, its step scores (S,) on the CPU.
        """
        if isinstance(batch, CandidateBatch):
            return self.score_encoded([group.encoded for group in batch.groups])
        logits = self(batch)
        if evaluation_name(self.trainer, dataloader_idx) != PROCESS:
            return self._scored(batch, logits)
        self.step_validation.update(batch, self.scores_from_logits(logits), self._losses(batch, logits))
        return self._scored(batch, logits)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log loss and step metrics of the process validation split."""
        metrics = self.step_validation.compute()
        # The values are the same on all ranks; sync_dist only tells Lightning so.
        self.log_dict({f"validation/{name}": value for name, value in metrics.items()}, sync_dist=True)

    on_test_epoch_end = on_validation_epoch_end

    def _scored(self, batch: StepBatch, logits: Tensor) -> dict[str, Tensor]:
        scores = self.scores_from_logits(logits).masked_fill(batch.step_positions < 0, float("nan"))
        return {"step_scores": scores, "step_logits": logits}

    # ---------------------------------------------------------------- score

    @torch.no_grad()
    def score_encoded(self, groups: Sequence[EncodedCandidates]) -> list[list[Tensor]]:
        """Step scores of encoded candidates: for each question, for each candidate, (S,) on the CPU.

        In a distributed run all ranks must call it together.
        """
        pad_id = self.processor.tokenizer.pad_token_id
        logits = score_candidates(self.backbone, self.head, groups, pad_id, self.hparams["scoring_memory_gib"])
        return [[self.scores_from_logits(candidate) for candidate in group] for group in logits]

    def score(
        self, images: Image.Image | Sequence[Image.Image] | None, question: str, responses: Sequence[str]
    ) -> ScoredResponses:
        """Score N responses to one question.

        Args:
            images: One image, several (``<image>`` in the question says where), or None.
            question: Its text, without chain-of-thought instruction.
            responses: Solutions whose steps are separated by blank lines; a blank one is one empty step, as released.

        Returns:
            Step scores, see :class:`ScoredResponses`, and one response score each.

        Raises:
            TypeError: If a picture is not one of PIL, or the responses are a single text.
            ValueError: If there are no responses, a picture cannot be used, or images and placeholders do not match.
        """
        if isinstance(responses, str):
            raise TypeError("score(): responses must be a list of texts, got a text; put it into a list")
        given = [images] if isinstance(images, Image.Image | str) else list(images or [])
        opened = [decoded(image, f"score(): picture {number}") for number, image in enumerate(given)]
        as_one_step = self.protocol.objective == "outcome"
        steps = [response_steps(text, self.protocol.max_steps, as_one_step=as_one_step) for text in responses]
        encoded = encode_candidates(self.encoder, opened, question, steps, "score()")
        was_training = self.training
        self.eval()
        (scores,) = self.score_encoded([encoded])
        self.train(was_training)
        step_scores = [candidate.tolist() for candidate in scores]
        return ScoredResponses(
            steps, step_scores, [aggregate_step_scores(s, self.protocol.aggregation) for s in step_scores]
        )

    # ----------------------------------------------------------- persistence

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> ProcessRewardModel:
        """Load a model that :meth:`save_pretrained` wrote, ready to score; ``options`` go to the constructor."""
        return cls(str(folder), **options).eval()

    def save_pretrained(self, folder: str | Path, max_shard_size: str = MAX_SHARD_SIZE) -> None:
        """Write an ordinary checkpoint folder with a model card; see :func:`write_reward_model`.

        Where weights are sharded, all ranks must call it together; rank zero writes.
        """
        whole = self.unsharded()
        if whole is not None:
            write_reward_model(
                folder,
                whole.backbone,
                whole.head,
                whole.processor,
                whole.encoder,
                protocol=whole.protocol,
                loss=whole.step_loss.options,
                base_model=str(whole.hparams["model_name_or_path"]),
                record=training_record(whole) or whole.training_record,
                max_shard_size=max_shard_size,
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep with the weights what was chosen for them and what they were trained on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["step_threshold"] = [self.protocol.step_threshold, self.protocol.step_threshold_chosen_on]
        checkpoint["training_record"] = training_record(self) or self.training_record

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take that up."""
        super().on_load_checkpoint(checkpoint)
        value, chosen_on = checkpoint.get("step_threshold", [None, None])
        self.protocol = replace(self.protocol, step_threshold=value, step_threshold_chosen_on=chosen_on)
        self.training_record = checkpoint.get("training_record")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine decay."""
        return configure_warmup_cosine(
            self,
            self.optimizer_factory,
            learning_rate=self.hparams["learning_rate"],
            weight_decay=self.hparams["weight_decay"],
            warmup_share=self.hparams["warmup_share"],
            head_learning_rate_multiplier=self.hparams["head_learning_rate_multiplier"],
            vision_learning_rate_multiplier=self.hparams["vision_learning_rate_multiplier"],
        )
