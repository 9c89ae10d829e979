"""The process reward model: a multimodal language model that judges each step of a solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import BinaryAUROC

from datamodules.process.candidates import EncodedCandidates, encode_candidates
from datamodules.process.collate import ConversationEncoder, StepBatch
from datamodules.process.conversation import CLASS_TOKENS
from datamodules.process.labels import IGNORE_INDEX, value_labels
from datamodules.process.steps import response_steps
from datamodules.reasoning_benchmarks import CandidateBatch
from datamodules.visual_prm_400k import PROCESS
from lightning_modules.metrics.response_score import Aggregation, aggregate_step_scores
from lightning_modules.metrics.step_f1 import StepF1
from lightning_modules.model.backbone import ImageBackend, load_backbone, load_processor
from lightning_modules.model.cache import uses_plain_positions
from lightning_modules.model.scoring import score_candidates
from lightning_modules.model.step_head import StepHead, class_token_ids, language_model_head, untie_language_model_head
from lightning_modules.optimization import OptimizerFactory, configure_warmup_cosine
from lightning_modules.protocol import Objective, resolve_protocol, save_protocol


@dataclass(frozen=True)
class ScoredResponses:
    """Scores of N responses to one question.

    Attributes:
        steps: The steps as they were judged.
        step_scores: One score in [0, 1] a step.
        response_scores: One score a response.
    """

    steps: list[list[str]]
    step_scores: list[list[float]]
    response_scores: list[float]


class ProcessRewardModel(LightningModule):
    """Trains on steps with Monte Carlo scores and scores steps of new solutions.

    Args:
        model_name_or_path: Any image-text-to-text checkpoint, or a folder that :meth:`save_pretrained` wrote.
        objective: See :class:`lightning_modules.protocol.Protocol`; None takes the folder's, else ``value``.
        threshold: Likewise; else 0.
        system_prompt: Likewise; else our default. An empty text switches the system turn off.
        max_steps: Likewise; else 12.
        aggregation: Likewise; else ``mean``.
        language_model_weight: Weight of a second loss, in training only: the language-model loss on the text of the
            steps labelled right. It keeps hidden states generative, after GRM (Yang et al. 2024, arXiv 2406.10216);
            0, the paper's recipe, leaves it out.
        learning_rate: Peak learning rate.
        weight_decay: Of matrices.
        warmup_share: Share of the run that warms up.
        optimizer: Factory by class path; AdamW by default.
        dtype: See :func:`lightning_modules.model.backbone.load_backbone`.
        attention_implementation: Likewise.
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
        language_model_weight: float = 0.0,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.05,
        warmup_share: float = 0.05,
        optimizer: OptimizerFactory | None = None,
        dtype: str = "auto",
        attention_implementation: str | None = None,
        image_backend: ImageBackend | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self.optimizer_factory = optimizer
        given = {
            "objective": objective,
            "threshold": threshold,
            "system_prompt": system_prompt,
            "max_steps": max_steps,
            "aggregation": aggregation,
            "image_backend": image_backend,
        }
        self.protocol = resolve_protocol(model_name_or_path, given)
        self.processor = load_processor(model_name_or_path, self.protocol.image_backend)
        self.backbone = load_backbone(model_name_or_path, dtype, attention_implementation)
        if not uses_plain_positions(self.backbone.config):
            raise ValueError(f"scoring does not support the positions of {self.backbone.config.model_type!r} yet")
        untie_language_model_head(self.backbone)
        class_tokens = CLASS_TOKENS["value"]
        self.head = StepHead(self.backbone, class_token_ids(self.processor, class_tokens))
        # The step head stands in for the language-model head, which gets its rows at export.
        language_model_head(self.backbone).requires_grad_(language_model_weight > 0)
        self.encoder = ConversationEncoder(
            self.processor, self.protocol.system_prompt, class_tokens, self.protocol.image_layout
        )
        self.validation_f1 = StepF1(threshold=0.5)
        self.validation_auroc = BinaryAUROC()

    # ------------------------------------------------------------------ data

    def setup(self, stage: str) -> None:
        """Tell the data module how this model reads conversations."""
        if stage == "fit":
            # Training makes other scores; a resumed run gets the threshold of its checkpoint back.
            self.protocol = replace(self.protocol, step_threshold=None, step_threshold_chosen_on=None)
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None and hasattr(datamodule, "connect"):
            datamodule.connect(
                self.encoder,
                max_steps=self.protocol.max_steps,
                response_as_one_step=self.protocol.objective == "outcome",
                mark_step_tokens=self.hparams["language_model_weight"] > 0,
            )

    # ------------------------------------------------------------- forwards

    def forward(self, batch: StepBatch) -> Tensor:
        """Class logits of all steps of a batch of conversations: (B, S, K) float32."""
        return self.head(self._hidden_states(batch), batch.step_positions)

    def _hidden_states(self, batch: StepBatch) -> Tensor:
        return self.backbone.model(**batch.inputs, use_cache=False).last_hidden_state

    @staticmethod
    def scores_from_logits(logits: Tensor) -> Tensor:
        """P(+) among the class tokens: (..., K) -> (...)."""
        return logits.softmax(-1)[..., 0]

    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """Cross-entropy over the labelled steps of the batch, and the language-model loss where it is switched on."""
        hidden_states = self._hidden_states(batch)
        loss, labels = self._step_loss(batch, self.head(hidden_states, batch.step_positions))
        size = len(batch.sample_ids)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        weight = self.hparams["language_model_weight"]
        if weight and batch.step_tokens is not None:
            language_model_loss = self._language_model_loss(batch, hidden_states, labels == 0)
            self.log("train/language_model_loss", language_model_loss, batch_size=size)
            loss = loss + weight * language_model_loss
        return loss

    def _step_loss(self, batch: StepBatch, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, 0 where no step has a score, and the labels (B, S) it is of."""
        labels = value_labels(batch.mc, self.protocol.threshold)
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        # A batch may hold no label: a mean over nothing is NaN and would ruin the weights.
        return loss / (labels != IGNORE_INDEX).sum().clamp_min(1), labels

    def _language_model_loss(self, batch: StepBatch, hidden_states: Tensor, is_right: Tensor) -> Tensor:
        """Next-token cross-entropy over the tokens of the right steps, ``is_right`` (B, S); 0 if there are none."""
        assert batch.step_tokens is not None
        is_target = (batch.step_tokens & is_right[..., None]).any(1)[:, 1:]
        targets = batch.inputs["input_ids"][:, 1:][is_target]
        logits = language_model_head(self.backbone)(hidden_states[:, :-1][is_target])
        return cross_entropy(logits.float(), targets, reduction="sum") / max(1, len(targets))

    def validation_step(self, batch: StepBatch | CandidateBatch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Score a batch of conversations or of Best-of-N candidates.

        Returns:
            For conversations ``{"step_scores": (B, S), "step_logits": (B, S, K)}``, scores NaN at padding. For
            candidates: for each question, for each candidate, its step scores (S,) on the CPU.
        """
        if isinstance(batch, CandidateBatch):
            return self.score_encoded([group.encoded for group in batch.groups])
        logits = self(batch)
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if datamodule.validation_names[dataloader_idx] != PROCESS:
            return self._scored(batch, logits)
        loss, labels = self._step_loss(batch, logits)
        labelled = labels != IGNORE_INDEX
        scores = self.scores_from_logits(logits)[labelled]
        self.validation_f1.update(scores, labels[labelled] == 0)
        self.validation_auroc.update(scores, (labels[labelled] == 0).long())
        self.log(
            "validation/loss",
            loss,
            prog_bar=True,
            batch_size=len(batch.sample_ids),
            sync_dist=True,
            add_dataloader_idx=False,
        )
        return self._scored(batch, logits)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log step metrics of the process validation split."""
        if self.validation_f1.update_count:
            self.log_dict({f"validation/{name}": value for name, value in self.validation_f1.compute().items()})
            self.log("validation/auroc", self.validation_auroc.compute())
        self.validation_f1.reset()
        self.validation_auroc.reset()

    on_test_epoch_end = on_validation_epoch_end

    def _scored(self, batch: StepBatch, logits: Tensor) -> dict[str, Tensor]:
        scores = self.scores_from_logits(logits).masked_fill(batch.step_positions < 0, float("nan"))
        return {"step_scores": scores, "step_logits": logits}

    # ---------------------------------------------------------------- score

    @torch.no_grad()
    def score_encoded(self, groups: Sequence[EncodedCandidates]) -> list[list[Tensor]]:
        """Step scores of encoded candidates: for each question, for each candidate, (S,) on the CPU."""
        logits = score_candidates(self.backbone, self.head, groups, self.processor.tokenizer.pad_token_id)
        return [[self.scores_from_logits(candidate) for candidate in group] for group in logits]

    def score(
        self, images: Image.Image | Sequence[Image.Image] | None, question: str, responses: Sequence[str]
    ) -> ScoredResponses:
        """Score N responses to one question.

        Args:
            images: One image, several (``<image>`` in the question says where), or None.
            question: Its text, without chain-of-thought instruction.
            responses: Solutions whose steps are separated by blank lines.

        Returns:
            Step scores in [0, 1] and one response score each.

        Raises:
            ValueError: If there are no responses, or images and placeholders do not match.
        """
        opened = [images] if isinstance(images, Image.Image) else list(images or [])
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

    def save_pretrained(self, folder: str | Path) -> None:
        """Write an ordinary checkpoint folder: the head's rows are in the language-model head."""
        self.head.write_back(self.backbone)
        self.backbone.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        save_protocol(self.protocol, folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the chosen step threshold with the weights that it was chosen for."""
        checkpoint["step_threshold"] = [self.protocol.step_threshold, self.protocol.step_threshold_chosen_on]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the step threshold of the weights."""
        value, chosen_on = checkpoint.get("step_threshold", [None, None])
        self.protocol = replace(self.protocol, step_threshold=value, step_threshold_chosen_on=chosen_on)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine decay."""
        return configure_warmup_cosine(
            self,
            self.optimizer_factory,
            learning_rate=self.hparams["learning_rate"],
            weight_decay=self.hparams["weight_decay"],
            warmup_share=self.hparams["warmup_share"],
        )
