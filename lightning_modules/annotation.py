"""Monte Carlo annotation: how often a policy reaches the right answer from each step of a solution.

Section 3.1 of the paper: for every prefix of a sampled solution, K continuations are sampled. The Monte Carlo score of
the prefix's last step is the fraction of them that end in the gold answer. The fraction of right solutions is the score
before the first step, ``question_accuracy``. It is left out if solutions and continuations are sampled at different
temperatures, because the two would not compare.

By default nothing is drawn from the end of a solution: its last step is counted as the one continuation that it has,
the empty one. The released annotation of VisualPRM400K differs in this and other points; each is an option here, see
``experiments/released/visualprm_400k_v1_1.yaml``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from datamodules.conversation.reading_rules import QuestionText, WhiteSpace
from datamodules.conversation.steps import DEFAULT_MAX_STEPS
from datamodules.interfaces import PredictionSettings, PromptInstructions, data_module_of
from datamodules.policy.prompt_batches import PromptBatch
from lightning_modules.generation.engine import GenerationEngine
from lightning_modules.generation.sampling import SamplingParameters, sampling_settings
from lightning_modules.generation.sampling_module import SamplingModule
from lightning_modules.generation.transformers_engine import TransformersEngine, engine_settings
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.weights_digest import weights_digest
from lightning_modules.monte_carlo.card import card_of
from lightning_modules.monte_carlo.given import GivenSolutions
from lightning_modules.monte_carlo.plan import AnnotationPlan
from lightning_modules.monte_carlo.rows import rows_of
from lightning_modules.monte_carlo.search import Search
from lightning_modules.monte_carlo.stopping import Confidence, StoppingRule
from lightning_modules.monte_carlo.window import AnnotationWindow

_SAMPLES_AT_ONCE = 256
_OURS = {
    "continue_last_step": False,
    "continue_after": "separator",
    "white_space": "ours",
    "early_stop": False,
    "question_text": "bare",
    "stopping": "all",
    "search": "linear",
}
_PROMPT_CHOICES = ("grading", "system_prompt", "max_tiles", "pictures", "other_images", "tiles_of_sources")


class MonteCarloAnnotator(SamplingModule):
    """Samples solutions and scores their steps by Monte Carlo; `predict` returns VisualPRM400K raw rows.

    Args:
        model_name_or_path: The policy: any image-text-to-text or causal language model checkpoint.
        num_solutions: Solutions per question (4 in the paper).
        num_continuations: K, continuations per step prefix (16 in the paper).
        max_steps: Solutions with more steps have consecutive ones merged (12 in the paper).
        sampling: How solutions and continuations are sampled.
        solution_temperature: Temperature of the solutions, if it differs from that of the continuations. A higher one
            makes errors more frequent and more varied.
        continue_last_step: Draw K continuations of a finished solution, too; by default its last step is one of one, or
            none of one.
        continue_after: Where continuations begin: behind the "separator" that follows a step, the blank line, or behind
            the "step" itself, so that the policy chooses whether another paragraph follows.
        white_space: How solutions are split, see :func:`datamodules.conversation.steps.split_into_steps`: blank pieces,
            and white space around steps, are left out, or, as "released", kept.
        early_stop: Do not draw from the steps after one that no continuation reached the answer from; they get the
            score 0, of 0 continuations.
        question_text: What the rows give as ``question``: what the policy was asked ("as_asked"), as in the release,
            which reward models of either rule of reading can use; or the question alone ("bare"). ``question_orig`` is
            the question alone.
        max_batch_rows: Most texts that are sampled at once; bounds memory. By default 256 with the model in this
            process, and as many as another engine takes.
        backbone: How the checkpoint is loaded.
        engine: What samples, by class path; the model in this process by default.
        stopping: Continue every step K times ("all"); or until one continuation is right ("first_success"), which gives
            the same labels ``mc > 0``; or until a posterior is sure enough ("confident"). See
            :mod:`lightning_modules.monte_carlo.stopping` for what such counts are good for.
        confidence: When "confident" has seen enough.
        search: Score all steps ("linear"), or look for the first wrong one by halving ("binary"), which takes for
            granted that no step behind a wrong one is right, see :mod:`lightning_modules.monte_carlo.search`.
        solutions_from: Rows whose solutions are scored instead of sampled ones: what another policy, or an earlier
            annotation, has written, see :class:`lightning_modules.monte_carlo.given.GivenSolutions`.

    Attributes:
        prediction_costs: What the prompts of the last batch have cost, by id.

    Raises:
        ValueError: If ``max_batch_rows`` is smaller than the number of samples of one prompt.
    """

    def __init__(
        self,
        model_name_or_path: str,
        num_solutions: int = 4,
        num_continuations: int = 16,
        max_steps: int = DEFAULT_MAX_STEPS,
        sampling: SamplingParameters = SamplingParameters(),  # noqa: B008 - frozen
        solution_temperature: float | None = None,
        continue_last_step: bool = False,
        continue_after: Literal["separator", "step"] = "separator",
        white_space: WhiteSpace = "ours",
        early_stop: bool = False,
        question_text: QuestionText = "as_asked",
        max_batch_rows: int | None = None,
        backbone: BackboneOptions | None = None,
        engine: GenerationEngine | None = None,
        stopping: StoppingRule = "all",
        confidence: Confidence = Confidence(),  # noqa: B008 - frozen
        search: Search = "linear",
        solutions_from: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters("model_name_or_path")
        self.keep_backbone_options(backbone)
        if max_batch_rows is not None and max_batch_rows < max(num_solutions, num_continuations):
            raise ValueError(f"max_batch_rows ({max_batch_rows}) must hold the samples of one prompt")
        self.model_name_or_path = model_name_or_path
        self.plan = AnnotationPlan(
            num_solutions,
            num_continuations,
            sampling,
            sampling if solution_temperature is None else replace(sampling, temperature=solution_temperature),
            max_steps,
            continue_last_step,
            continue_after,
            white_space,
            early_stop,
            stopping,
            confidence,
            search,
        )
        self.question_text = question_text
        self.max_batch_rows = max_batch_rows
        self.prediction_costs: dict[str, dict[str, float]] = {}
        self.given = None if solutions_from is None else GivenSolutions(Path(solutions_from))
        self.load_for(engine or TransformersEngine(max_batch_rows or _SAMPLES_AT_ONCE))

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What the annotation depends on besides the prompts."""
        data = data_module_of(self._trainer) if self._trainer else None
        settings = data.prediction_settings if isinstance(data, PredictionSettings) else {}
        plan = self.plan
        # Rows say the same either way where the policy is asked nothing but the question.
        is_same = isinstance(data, PromptInstructions) and not data.asks_with_instruction
        chosen = {**vars(plan), "question_text": "bare" if is_same else self.question_text}
        return {
            "model": self.model_name_or_path,
            "weights": weights_digest(self.model_name_or_path),
            "num_solutions": plan.num_solutions,
            "num_continuations": plan.num_continuations,
            "max_steps": plan.max_steps,
            "sampling": sampling_settings(plan.sampling),
            "solution_sampling": sampling_settings(plan.solution_sampling),
            # Named only where it is not the default, so that annotations from before it was named go on. Of the other
            # settings of the data, the contents of the prompts tell.
            **{name: settings[name] for name in _PROMPT_CHOICES if settings.get(name)},
            **{name: chosen[name] for name, ours in _OURS.items() if chosen[name] != ours},
            **({} if self.given is None else {"solutions_from": self.given.digest}),
            **({"confidence": asdict(plan.confidence)} if plan.stopping == "confident" else {}),
            **engine_settings(self.engine),
        }

    def prediction_card(
        self, rows: Path, settings: Mapping[str, Any], costs: Mapping[str, float], when: str | None
    ) -> str:
        """Statistics by source, costs and settings of a finished annotation."""
        return card_of(rows, settings, costs, when)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[tuple[str, list[dict[str, Any]]]]:
        """Annotate the prompts of a batch.

        Returns:
            For each prompt its id and one raw row per solution.
        """
        self.attach_engine()
        begin = time.perf_counter()
        given = None if self.given is None else self.given.of(batch.sample_ids)
        window = AnnotationWindow(batch, self.plan, self.max_batch_rows, given)
        self.engine.serve(window, self.plan.sampling)
        seconds = (time.perf_counter() - begin) / len(batch.prompts)
        annotated = []
        self.prediction_costs = {}
        for prompt, solutions, costs in zip(batch.prompts, window.solutions, window.costs, strict=True):
            self.prediction_costs[prompt.prompt_id] = asdict(replace(costs, seconds=seconds))
            rows = rows_of(prompt, solutions, self.plan, self.question_text, are_sampled=given is None)
            annotated.append((prompt.prompt_id, rows))
        return annotated
