"""The process reward model: a multimodal language model that scores each step of a solution."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from datamodules.batching.candidate_batch import CandidateBatch
from datamodules.batching.collate import StepBatch
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.reading_rules import PastVerdicts, PictureRules, QuestionText, WhiteSpace
from datamodules.interfaces import (
    RewardModelData,
    RewardModelFacts,
    SystemPromptData,
    data_module_of,
    evaluation_name,
)
from datamodules.supervision.splits import PROCESS
from lightning_modules.export.pretrained_folder import MAX_SHARD_SIZE
from lightning_modules.export.reward_model import write_reward_model
from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.model.backbone import (
    BackboneOptions,
    ImageBackend,
    config_beside,
    load_backbone,
    load_processor,
    max_positions,
)
from lightning_modules.model.packed_forward import hidden_states, packing_obstacle, step_logits
from lightning_modules.model.step_head import StepHead, language_model_head, untie_language_model_head
from lightning_modules.objectives.language_model_loss import step_text_losses, verdict_losses
from lightning_modules.objectives.past_verdicts import LabelsAsVerdicts
from lightning_modules.objectives.step_loss import LossOptions, LossSum, StepLoss, step_scores
from lightning_modules.objectives.step_validation import StepValidation
from lightning_modules.objectives.table import ObjectiveName
from lightning_modules.protocol import FROM_DATA, PROTOCOL_FILE, PresetName, resolve_protocol
from lightning_modules.scoring.calibration import Calibration
from lightning_modules.scoring.responses import QuestionWithResponses, ScoredResponses
from lightning_modules.scoring.scored_batch import ScoredBatch
from lightning_modules.scoring.scoring_module import ScoringModule
from lightning_modules.scoring.served_scorer import RewardModelServer, ServedScorer
from lightning_modules.training.optimization import DEFAULT_WARMUP_RATIO, OptimizerFactory, require_optimization
from lightning_modules.training.record import TrainingRecord, training_record

logger = logging.getLogger(__name__)

__all__ = ["ProcessRewardModel", "QuestionWithResponses", "RewardModelServer", "ScoredResponses"]


class ProcessRewardModel(ScoringModule):
    """Learns from steps with Monte Carlo scores, and scores the steps of new solutions.

    Settings of the protocol that are None are those that the checkpoint's folder stores; without them they are the
    defaults of :class:`lightning_modules.protocol.Protocol`.

    Args:
        model_name_or_path: Any image-text-to-text or causal language model checkpoint, or a folder that
            :meth:`save_pretrained` wrote.
        objective: What the model learns: an entry of :data:`lightning_modules.objectives.table.OBJECTIVES`; by default
            ``value``, whether a step is right.
        threshold: A step is right if its Monte Carlo score is above it; in [0, 1), by default 0.
        system_prompt: The system turn; an empty text for none.
        max_steps: Responses with more steps have consecutive ones merged; by default 12.
        aggregation: From step scores to the response score; by default their mean.
        class_tokens: Texts of the class tokens, best first; by default those of the objective.
        loss: Options of the step loss. Training only.
        language_model_weight: Weight of a second loss: the language-model loss on the text of right steps, which keeps
            hidden states generative; see :mod:`lightning_modules.objectives.language_model_loss`. Training only. 0,
            the paper's setting, switches it off.
        learning_rate: Peak learning rate.
        weight_decay: Applied to matrices and embeddings, not to biases, norms and single vectors.
        warmup_ratio: Fraction of the optimizer steps with linear warm-up, in [0, 1).
        head_learning_rate_multiplier: Learning rate of the step head relative to ``learning_rate``.
        vision_learning_rate_multiplier: Learning rate of the vision tower relative to ``learning_rate``.
        optimizer: Optimizer by class path; AdamW by default.
        backbone: How the checkpoint is loaded and which of its weights are trained.
        scoring_memory_gib: See ``memory_gib`` of :func:`lightning_modules.scoring.candidates.score_candidates`.
        image_backend: What resizes images, see :func:`lightning_modules.model.backbone.load_processor`.
        preset: Settings of the protocol by the name of the released data that they belong to, an entry of
            :data:`lightning_modules.protocol.PRESETS`; arguments given beside it win.
        question_text: Whether questions are read ``bare`` or ``as_asked``, with the policy's instruction; this and the
            next three are rules of reading, see :class:`datamodules.conversation.reading_rules.ReadingRules`.
        pictures: How pictures are converted, ``ours`` or as ``released``.
        white_space: Whether blank steps and white space around steps are kept, ``ours`` (no) or as ``released``.
        past_verdicts: What stands in the assistant turns of training, a ``placeholder`` or the ``labels``.
        server: Servers that hold the exported model. They score in place of this process, which loads the processor and
            the protocol of ``model_name_or_path``, but no weights; the model cannot be trained then.

    Raises:
        ValueError: If a setting is out of range, or two do not go together.
    """

    def __init__(
        self,
        model_name_or_path: str,
        objective: ObjectiveName | None = None,
        threshold: float | None = None,
        system_prompt: str | None = None,
        max_steps: int | None = None,
        aggregation: Aggregation | None = None,
        class_tokens: list[str] | None = None,
        loss: LossOptions | None = None,
        language_model_weight: float = 0.0,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.05,
        warmup_ratio: float = DEFAULT_WARMUP_RATIO,
        head_learning_rate_multiplier: float = 1.0,
        vision_learning_rate_multiplier: float = 1.0,
        optimizer: OptimizerFactory | None = None,
        backbone: BackboneOptions | None = None,
        scoring_memory_gib: float | None = None,
        image_backend: ImageBackend | None = None,
        preset: PresetName | None = None,
        question_text: QuestionText | None = None,
        pictures: PictureRules | None = None,
        white_space: WhiteSpace | None = None,
        past_verdicts: PastVerdicts | None = None,
        server: RewardModelServer | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "backbone", "loss", "server"])
        self.keep_backbone_options(backbone)
        self.optimizer_factory = optimizer
        require_optimization(**self.optimization)
        if not 0 <= language_model_weight < math.inf:
            raise ValueError(f"language_model_weight must be at least 0, got {language_model_weight}")
        if scoring_memory_gib is not None and not scoring_memory_gib > 0:
            raise ValueError(f"scoring_memory_gib must be above 0, or absent, got {scoring_memory_gib}")
        given = {
            "objective": objective,
            "threshold": threshold,
            "system_prompt": system_prompt,
            "max_steps": max_steps,
            "aggregation": aggregation,
            "class_tokens": class_tokens,
            "image_backend": image_backend,
            "question_text": question_text,
            "pictures": pictures,
            "white_space": white_space,
            "past_verdicts": past_verdicts,
        }
        self.protocol = resolve_protocol(model_name_or_path, given, preset)
        self.processor = load_processor(model_name_or_path, self.protocol.image_backend, with_model=server is None)
        self.step_loss = StepLoss(self.protocol.objective, self.protocol.threshold, LossOptions.of(loss))
        self.save_hyperparameters({"loss": asdict(self.step_loss.options)})  # checkpoints hold plain values only
        # Until the data have said their system prompt, another one shows whether the template suits.
        known = None if self.protocol.system_prompt == FROM_DATA else self.protocol.system_prompt
        self.encoder = ConversationEncoder(
            self.processor,
            known,
            self.protocol.class_tokens or [],
            self.protocol.image_layout,
            self.protocol.reading_rules,
            encodes_pictures=server is None,
        )
        self.served = None if server is None else ServedScorer(server, self.encoder)
        self.build()
        self.step_validation = StepValidation(self.protocol)
        self.training_record: TrainingRecord | None = None

    def build(self) -> None:
        """Load the backbone and take the step head from the rows of its language-model head; not if servers score."""
        if self.served is not None:
            return
        self.backbone = load_backbone(self.hparams["model_name_or_path"], self.backbone_options)
        untie_language_model_head(self.backbone)
        self.head = StepHead(self.backbone, self.encoder.class_token_ids)
        if not self.hparams["language_model_weight"] and not self.step_loss.options.language_model_loss_on_verdicts:
            language_model_head(self.backbone).requires_grad_(False)

    # ------------------------------------------------------------------ data

    def setup(self, stage: str) -> None:
        """Tell the data module how this model reads conversations."""
        if stage == "fit":
            self.require_weights("fit")
            # Training changes the scores; a resumed run gets what its checkpoint holds back.
            self.protocol = replace(self.protocol, step_threshold=None, step_threshold_chosen_on=None, calibration=None)
        data = data_module_of(self.trainer)
        if stage == "fit" and self.protocol.system_prompt == FROM_DATA:
            if not isinstance(data, SystemPromptData):
                raise ValueError(f"system_prompt {FROM_DATA!r} needs a data module whose rows have one; give the text")
            self.use_system_prompt(data.training_system_prompt())
        if isinstance(data, RewardModelData):
            data.connect(self.facts)

    @property
    def facts(self) -> RewardModelFacts:
        """How this model reads conversations, for data modules and tools."""
        config = self.backbone.config if self.has_weights else config_beside(self.hparams["model_name_or_path"])
        return RewardModelFacts(
            self.encoder,
            max_steps=self.protocol.max_steps,
            response_as_one_step=self.protocol.response_as_one_step,
            mark_step_tokens=self.hparams["language_model_weight"] > 0,
            packing_obstacle=packing_obstacle(self.backbone) if self.has_weights else None,
            training_verdicts=self._training_verdicts(),
            max_tokens=max_positions(config),
            needs_all_continuations=self.step_loss.needs_all_continuations,
            needs_measured_scores=self.step_loss.needs_measured_scores,
        )

    def _training_verdicts(self) -> LabelsAsVerdicts | None:
        protocol = self.protocol
        if protocol.past_verdicts == "placeholder":
            return None
        return LabelsAsVerdicts(protocol.objective, protocol.threshold, tuple(protocol.class_tokens or ()))

    # ------------------------------------------------------------- forwards

    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """The step loss, plus the language-model loss if it is switched on.

        Returns:
            A sum over the labelled steps, see :meth:`sum_of_labels`.
        """
        states = hidden_states(self.backbone, batch)
        logits = step_logits(self.head, states, batch)
        judged = self._losses(batch, logits).sum
        total, logged = judged.total, {"loss": judged.total}
        if self.step_loss.options.language_model_loss_on_verdicts:
            verdicts = verdict_losses(self.backbone, self.head, batch, states, logits)
            both = self._losses(batch, logits, added=verdicts).sum.total
            total, logged["verdict_loss"] = both / 2, both / 2
        weight = self.hparams["language_model_weight"]
        if weight and batch.step_tokens is not None:
            text = step_text_losses(self.backbone, batch, states, self.step_loss.right_steps(batch.mc))
            added = self._losses(batch, logits, added=text).sum.total - judged.total
            total, logged["language_model_loss"] = total + weight * added, added
        return self.sum_of_labels(total, judged.weight, **logged)

    def _losses(self, batch: StepBatch, logits: Tensor, added: Tensor | None = None) -> LossSum:
        """(B,) losses of the conversations, not yet divided by the weight of their labels."""
        accuracy, totals = batch.question_accuracy, batch.num_mc_total
        return self.step_loss.of_solutions(
            logits,
            batch.mc,
            question_accuracy=accuracy,
            num_mc_total=totals,
            added=added,
            step_weights=batch.step_weights,
        )

    # Lightning hands on whatever an evaluation step returns; its annotation is that of training.
    def validation_step(  # type: ignore[override]
        self, batch: StepBatch | CandidateBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> ScoredBatch:
        """Score the steps of a batch of conversations or of Best-of-N candidates."""
        if isinstance(batch, CandidateBatch):
            scored, uncertainties = self.score_with_uncertainties([group.encoded for group in batch.groups])
            return ScoredBatch(scored, step_uncertainties=uncertainties)
        logits = self(batch)
        scores = self.scores_from_logits(logits)
        if evaluation_name(self.trainer, dataloader_idx) == PROCESS:
            self.step_validation.update(batch, scores, self._losses(batch, logits))
        is_calibrated = self.protocol.calibration is not None
        before = step_scores(logits, self.protocol.class_values) if is_calibrated else None
        return ScoredBatch.of_conversations(scores, batch.step_positions, before)

    test_step = validation_step  # type: ignore[assignment]

    def on_validation_epoch_start(self) -> None:
        """Refuse to judge without a system prompt, or through servers that read conversations in another way.

        A folder that no reward model was saved to is judged with as it is, since the language-model head of any model
        gives scores; that is said.
        """
        self.require_system_prompt()
        name, is_fitting = self.hparams["model_name_or_path"], self.trainer.state.fn == TrainerFn.FITTING
        if not (is_fitting or self.trainer.ckpt_path or (Path(name) / PROTOCOL_FILE).is_file()):
            logger.warning(
                "%s holds no %s: it was not saved as a reward model, and its scores are those of an untrained one",
                name,
                PROTOCOL_FILE,
            )
        if self.served is not None:
            self.served.check()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log loss and step metrics of the process validation split."""
        metrics = self.step_validation.compute()
        # The values are the same on all ranks; sync_dist only tells Lightning so.
        self.log_dict({f"validation/{name}": value for name, value in metrics.items()}, sync_dist=True)

    on_test_epoch_end = on_validation_epoch_end

    # ----------------------------------------------------------- persistence

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> ProcessRewardModel:
        """Load a model for scoring, in evaluation mode.

        Args:
            folder: A folder that :meth:`save_pretrained` wrote, or any checkpoint that the constructor takes.
            options: Further arguments of the constructor.
        """
        return cls(str(folder), **options).eval()

    def save_pretrained(self, folder: str | Path, max_shard_size: str = MAX_SHARD_SIZE) -> None:
        """Write an ordinary `transformers` folder with a model card; see :func:`write_reward_model`.

        With sharded weights all ranks must call it together; rank zero writes.
        """
        self.require_system_prompt()
        self.require_weights("save_pretrained")
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
        """Store the step threshold, the calibration, the system prompt and the training record with the weights."""
        super().on_save_checkpoint(checkpoint)
        calibration = self.protocol.calibration
        checkpoint["calibration"] = None if calibration is None else asdict(calibration)
        checkpoint["step_threshold"] = [self.protocol.step_threshold, self.protocol.step_threshold_chosen_on]
        checkpoint["system_prompt"] = self.protocol.system_prompt
        checkpoint["training_record"] = training_record(self) or self.training_record

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the step threshold, the calibration, the system prompt and the training record from a checkpoint."""
        self.require_weights("a checkpoint")
        super().on_load_checkpoint(checkpoint)
        value, chosen_on = checkpoint.get("step_threshold", [None, None])
        stored = checkpoint.get("calibration")
        calibration = None if stored is None else Calibration(**stored)
        self.protocol = replace(
            self.protocol, step_threshold=value, step_threshold_chosen_on=chosen_on, calibration=calibration
        )
        if self.protocol.system_prompt == FROM_DATA:
            self.use_system_prompt(checkpoint.get("system_prompt", FROM_DATA))
        self.training_record = checkpoint.get("training_record")
