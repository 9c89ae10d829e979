"""The policy: a multimodal language model that writes step-by-step solutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.conversation.labels import IGNORE_INDEX
from datamodules.interfaces import PredictionSettings, data_module_of
from datamodules.policy.demonstrations import SupervisedBatch
from datamodules.policy.prompt_batches import PromptBatch
from lightning_modules.distributed.gathering import SampleMeans
from lightning_modules.export.pretrained_folder import MAX_SHARD_SIZE
from lightning_modules.generation.answers import answers_to
from lightning_modules.generation.engine import (
    GenerationEngine,
    GenerationRequest,
    PromptRefusedError,
)
from lightning_modules.generation.graded_rollouts import graded_rollout
from lightning_modules.generation.sampling import SamplingParameters, sampling_settings
from lightning_modules.generation.sampling_module import SamplingModule
from lightning_modules.generation.transformers_engine import TransformersEngine, engine_settings
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.lora import merged_backbone
from lightning_modules.model.packed_forward import hidden_states
from lightning_modules.model.step_head import vocabulary_logits
from lightning_modules.model.weights_digest import weights_digest
from lightning_modules.training.optimization import DEFAULT_WARMUP_RATIO, OptimizerFactory, require_optimization


class Policy(SamplingModule):
    """Fine-tunes on gold solutions (`fit`) and samples solutions (`predict`).

    Args:
        model_name_or_path: Any image-text-to-text or causal language model checkpoint.
        learning_rate: Peak learning rate of supervised fine-tuning.
        weight_decay: Applied to matrices and embeddings, not to biases, norms and single vectors.
        warmup_ratio: Fraction of the optimizer steps with linear warm-up, in [0, 1).
        vision_learning_rate_multiplier: Learning rate of the vision tower relative to ``learning_rate``.
        optimizer: Optimizer by class path; AdamW by default.
        num_samples: Solutions per question in `predict`.
        sampling: How they are sampled.
        first_greedy: Decode the first solution of a question greedily, and sample the others.
        backbone: How the checkpoint is loaded and which of its weights are trained.
        engine: What samples, by class path; the model in this process by default.

    Attributes:
        samples_done: How many solutions of a prompt are there already, by its id; `predict` samples the others. A
            solution depends on its number, the prompt's id and the seed alone, so that it is the same in any job.
        growing_setting: Name of the prediction setting that may grow while what is there is kept.
    """

    growing_setting = "num_samples"

    def __init__(
        self,
        model_name_or_path: str,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.05,
        warmup_ratio: float = DEFAULT_WARMUP_RATIO,
        vision_learning_rate_multiplier: float = 1.0,
        optimizer: OptimizerFactory | None = None,
        num_samples: int = 8,
        sampling: SamplingParameters = SamplingParameters(),  # noqa: B008 - frozen
        first_greedy: bool = False,
        backbone: BackboneOptions | None = None,
        engine: GenerationEngine | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "sampling", "backbone", "engine"])
        self.keep_backbone_options(backbone)
        self.optimizer_factory = optimizer
        require_optimization(**self.optimization)
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        self.num_samples = num_samples
        self.sampling = sampling
        self.first_greedy = first_greedy
        self.engine = engine or TransformersEngine()
        self.samples_done: Mapping[str, int] = {}
        self._validation = SampleMeans()
        self.load_for(engine or TransformersEngine())

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What the rollouts depend on besides the prompts."""
        data = data_module_of(self.trainer)
        return {
            "model": str(self.hparams["model_name_or_path"]),
            "weights": weights_digest(self.hparams["model_name_or_path"]),
            "num_samples": self.num_samples,
            "sampling": sampling_settings(self.sampling),
            # Named only where it is chosen, so that rollouts from before there was a choice go on.
            **({"first_greedy": True} if self.first_greedy else {}),
            "data": data.prediction_settings if isinstance(data, PredictionSettings) else {},
            **engine_settings(self.engine),
        }

    def training_step(self, batch: SupervisedBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of the response tokens.

        Returns:
            A sum over the tokens, see :meth:`sum_of_labels`.
        """
        losses, is_hit, row = self._judge(batch)
        total = losses.sum()
        return self.sum_of_labels(total, losses.new_tensor(len(row)), loss=total, token_accuracy=is_hit.sum())

    def validation_step(self, batch: SupervisedBatch, batch_idx: int) -> None:
        """Cross-entropy and accuracy of the response tokens of validation demonstrations."""
        losses, is_hit, row = self._judge(batch)

        def of_samples(values: Tensor) -> Tensor:
            return losses.new_zeros(len(batch.sample_ids), dtype=torch.double).index_add(0, row, values.double())

        sums = {"loss": of_samples(losses), "token_accuracy": of_samples(is_hit)}
        self._validation.update(batch.sample_ids, of_samples(torch.ones_like(losses)), **sums)

    def on_validation_epoch_end(self) -> None:
        """Log means over the response tokens of all demonstrations."""
        means = {f"validation/{name}": value for name, value in self._validation.compute().items()}
        # The values are the same on all ranks; sync_dist only tells Lightning so.
        self.log_dict(means, prog_bar=True, sync_dist=True)

    def _judge(self, batch: SupervisedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """For each response token: its loss, whether it is the most likely one, and its conversation in the batch."""
        states = hidden_states(self.backbone, batch)[:, :-1]
        labels = batch.labels[:, 1:]
        is_target = labels != IGNORE_INDEX
        # Vocabulary logits are computed where a target stands, not over the whole sequence.
        logits = vocabulary_logits(self.backbone, states[is_target])
        losses = torch.nn.functional.cross_entropy(logits.float(), labels[is_target], reduction="none")
        return losses, logits.argmax(-1) == labels[is_target], batch.samples_of(is_target)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[tuple[str, list[dict[str, Any]]]]:
        """Sample and grade solutions.

        Returns:
            For each prompt its id and its rollout rows (see :mod:`datamodules.rollouts.records`).
        """
        self.attach_engine()
        rows: list[list[dict[str, Any]]] = [[] for _ in batch.prompts]
        asked: list[tuple[int, range]] = []
        requests: list[GenerationRequest] = []
        for index, (prompt, images, messages) in enumerate(
            zip(batch.prompts, batch.images, batch.messages, strict=True)
        ):
            if prompt.prompt_id in batch.left_out:
                continue
            for sampling, numbers in self._rounds(self.samples_done.get(prompt.prompt_id, 0)):
                keys = [f"{prompt.prompt_id}/{number}" for number in numbers]
                requests.append(
                    GenerationRequest(messages, images, keys, max_tiles=prompt.max_tiles, parameters=sampling)
                )
                asked.append((index, numbers))

        def leave_out(number: int, problem: PromptRefusedError) -> None:
            batch.leave_out(batch.prompts[asked[number][0]], problem)

        name = Path(str(self.hparams["model_name_or_path"])).name
        sampled = answers_to(self.engine, requests, self.sampling, leave_out)
        for (index, numbers), request, texts in zip(asked, requests, sampled, strict=True):
            for number, found in zip(numbers, texts, strict=False):  # a refused prompt has none
                own = request.parameters or self.sampling
                rows[index].append(graded_rollout(batch.prompts[index], number, found.text, own, name))
        return [(prompt.prompt_id, of_prompt) for prompt, of_prompt in zip(batch.prompts, rows, strict=True)]

    def _rounds(self, done: int) -> list[tuple[SamplingParameters, range]]:
        """How samples are drawn, and the numbers of those that are drawn so; without the first ``done`` ones."""
        if not self.first_greedy:
            return [(self.sampling, range(done, self.num_samples))] if done < self.num_samples else []
        greedy = replace(self.sampling, temperature=0.0, top_p=1.0, top_k=None)
        rounds = [(greedy, range(done, 1)), (self.sampling, range(max(1, done), self.num_samples))]
        return [(sampling, numbers) for sampling, numbers in rounds if numbers]

    def save_pretrained(self, folder: str | Path, max_shard_size: str = MAX_SHARD_SIZE) -> None:
        """Write an ordinary `transformers` folder, adapters merged.

        With sharded weights all ranks must call it together; rank zero writes.
        """
        whole = self.unsharded()
        if whole is not None:
            merged_backbone(whole.backbone).save_pretrained(folder, max_shard_size=max_shard_size)
            self.processor.save_pretrained(folder)
