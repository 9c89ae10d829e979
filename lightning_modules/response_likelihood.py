"""How likely a policy finds given solutions: a critic that needs no training, to compare reward models with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from datamodules.interfaces import PredictionSettings, data_module_of
from datamodules.policy.prompt_batches import PromptBatch
from lightning_modules.generation.engine import GenerationEngine, GenerationRequest
from lightning_modules.generation.sampling_module import SamplingModule
from lightning_modules.generation.token_probabilities import TokenProbabilities
from lightning_modules.generation.transformers_engine import TransformersEngine, engine_settings
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.weights_digest import weights_digest
from lightning_modules.monte_carlo.given import GivenSolutions


class ResponseLikelihood(SamplingModule):
    """Reads given solutions; `predict` returns rows with the log-probability of their tokens.

    The policy is asked as it was when it wrote them, so the data module must have the same settings. Each picture and
    question is read once, and each solution behind it. Probabilities are those of temperature 1. Texts are tokenised
    anew, which now and then gives other tokens than were sampled.

    Args:
        model_name_or_path: The policy: any image-text-to-text or causal language model checkpoint.
        solutions_from: Rows whose solutions are read, see :class:`lightning_modules.monte_carlo.given.GivenSolutions`.
        cut_at: Limit of new tokens (``max_new_tokens``) of these solutions. The token that ends a solution is counted,
            but not for solutions of at least so many tokens; by default for all.
        backbone: How the checkpoint is loaded.
        engine: What reads them, by class path; the model in this process by default.

    Raises:
        ValueError: If the engine does not tell how likely tokens are.
    """

    given: GivenSolutions

    def __init__(
        self,
        model_name_or_path: str,
        solutions_from: str,
        cut_at: int | None = None,
        backbone: BackboneOptions | None = None,
        engine: GenerationEngine | None = None,
    ) -> None:
        super().__init__()
        if cut_at is not None and cut_at < 1:
            raise ValueError(f"cut_at must be at least 1, got {cut_at}")
        self.save_hyperparameters("model_name_or_path")
        self.keep_backbone_options(backbone)
        self.model_name_or_path = model_name_or_path
        self.given = GivenSolutions(Path(solutions_from))
        self.cut_at = cut_at
        chosen = engine or TransformersEngine()
        if not isinstance(chosen, TokenProbabilities):
            raise ValueError(
                f"engine: {type(chosen).__name__} does not tell how likely tokens are (response_logprobs); leave the "
                f"engine out, or take one that does"
            )
        self.load_for(chosen)

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What the probabilities depend on besides the prompts."""
        data = data_module_of(self._trainer) if self._trainer else None
        return {
            "model": self.model_name_or_path,
            "weights": weights_digest(self.model_name_or_path),
            "solutions_from": self.given.digest,
            "cut_at": self.cut_at,
            "data": data.prediction_settings if isinstance(data, PredictionSettings) else {},
            **engine_settings(self.engine),
        }

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[tuple[str, list[dict[str, Any]]]]:
        """Read the solutions of the prompts of a batch.

        Returns:
            For each prompt its id and one row per solution, whose ``scores`` are the sum of the log-probabilities of
            its tokens (``log_probability``) and their mean (``mean_log_probability``), both at most 0.
        """
        self.attach_engine()
        assert isinstance(self.engine, TokenProbabilities)
        given = self.given.of(batch.sample_ids)
        groups: list[list[GenerationRequest]] = []
        for prompt, images, messages in zip(batch.prompts, batch.images, batch.messages, strict=True):
            groups.append(
                [
                    GenerationRequest(messages, images, [f"{prompt.prompt_id}/{number}"], text, prompt.max_tiles)
                    for number, text in enumerate(given[prompt.prompt_id])
                ]
            )
        asked = [group for group in groups if group]
        if not asked and self.engine.needs_all_ranks:
            # The other ranks wait for this one.
            asked = [[GenerationRequest(batch.messages[0], batch.images[0], [batch.prompts[0].prompt_id])]]
        found = iter(self.engine.response_logprobs(asked, self.cut_at))
        rows: list[tuple[str, list[dict[str, Any]]]] = []
        for prompt, group in zip(batch.prompts, groups, strict=True):
            logprobs = next(found) if group else []
            rows.append(
                (
                    prompt.prompt_id,
                    [
                        _row(prompt.source, request, tokens.double().tolist())
                        for request, tokens in zip(group, logprobs, strict=True)
                    ],
                )
            )
        return rows


def _row(source: str, request: GenerationRequest, logprobs: list[float]) -> dict[str, Any]:
    total = math.fsum(logprobs)
    return {
        "id": request.sample_keys[0],
        "source": source,
        "response": request.partial_response,
        "num_tokens": len(logprobs),
        "scores": {"mean_log_probability": total / len(logprobs), "log_probability": total},
    }
