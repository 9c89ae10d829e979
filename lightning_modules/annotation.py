"""Monte Carlo annotation: how often a policy reaches the right answer from each step of a solution.

Section 3.1 of the paper: for every prefix of a sampled solution, K continuations are sampled. The Monte Carlo score of
the prefix's last step is the fraction of them that end in the gold answer. The fraction of right solutions is the score
before the first step, ``question_accuracy``. It is left out if solutions and continuations are sampled at different
temperatures, because the two would not compare.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from datamodules.conversation.steps import DEFAULT_MAX_STEPS, STEP_SEPARATOR, merge_steps, split_into_steps
from datamodules.interfaces import PredictionSettings, data_module_of
from datamodules.policy.prompts import Prompt, PromptBatch
from lightning_modules.generation.engine import GenerationEngine, GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.transformers_engine import TransformersEngine, engine_settings
from lightning_modules.model.backbone import BackboneOptions, connect_processor, load_processor
from lightning_modules.model.backbone_module import BackboneModule
from lightning_modules.model.weights_digest import weights_digest
from lightning_modules.scoring.memory import most_on_any_rank


class MonteCarloAnnotator(BackboneModule):
    """Samples solutions and scores their steps by Monte Carlo; `predict` returns VisualPRM400K raw rows.

    Args:
        model_name_or_path: The policy: any image-text-to-text or causal language model checkpoint.
        num_solutions: Solutions per question (4 in the paper).
        num_continuations: K, continuations per step prefix (16 in the paper).
        max_steps: Solutions with more steps have consecutive ones merged (12 in the paper).
        sampling: How solutions and continuations are sampled.
        solution_temperature: Temperature of the solutions, if it differs from that of the continuations. A higher one
            makes errors more frequent and more varied.
        max_batch_rows: Most texts that are decoded at once; bounds memory.
        backbone: How the checkpoint is loaded.
        engine: What samples, by class path; the model in this process by default.

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
        max_batch_rows: int = 256,
        backbone: BackboneOptions | None = None,
        engine: GenerationEngine | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters("model_name_or_path")
        self.keep_backbone_options(backbone)
        if max_batch_rows < max(num_solutions, num_continuations):
            raise ValueError(f"max_batch_rows ({max_batch_rows}) must hold the samples of one prompt")
        self.model_name_or_path = model_name_or_path
        self.num_solutions = num_solutions
        self.num_continuations = num_continuations
        self.max_steps = max_steps
        self.sampling = sampling
        self.solution_sampling = (
            sampling if solution_temperature is None else replace(sampling, temperature=solution_temperature)
        )
        self.max_batch_rows = max_batch_rows
        self.engine = engine or TransformersEngine()
        self.processor = load_processor(model_name_or_path)
        self.build()

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What the annotation depends on besides the prompts."""
        data = data_module_of(self._trainer) if self._trainer else None
        settings = data.prediction_settings if isinstance(data, PredictionSettings) else {}
        return {
            "model": self.model_name_or_path,
            "weights": weights_digest(self.model_name_or_path),
            "num_solutions": self.num_solutions,
            "num_continuations": self.num_continuations,
            "max_steps": self.max_steps,
            "sampling": asdict(self.sampling),
            "solution_sampling": asdict(self.solution_sampling),
            # Named only where it is not the default, so that annotations from before it was named go on. Of the other
            # settings of the data, the contents of the prompts tell.
            **{name: settings[name] for name in ("grading", "system_prompt") if settings.get(name)},
            **engine_settings(self.engine),
        }

    def setup(self, stage: str) -> None:
        """Give the data module the processor."""
        connect_processor(self)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[tuple[str, list[dict[str, Any]]]]:
        """Annotate the prompts of a batch.

        Returns:
            For each prompt its id and one raw row per solution.
        """
        self.engine.attach(self.backbone, self.processor)
        solutions = self._sample_solutions(batch)
        prefixes = self._unfinished_prefixes(solutions)
        successes = self._count_successes(batch, prefixes)
        annotated = []
        for index, prompt in enumerate(batch.prompts):
            rows = [self._row(prompt, index, i, steps, successes) for i, steps in enumerate(solutions[index])]
            annotated.append((prompt.prompt_id, self._with_question_accuracy(rows)))
        return annotated

    def _with_question_accuracy(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of a question with the accuracy of its solutions, if sampled like the continuations."""
        if self.solution_sampling != self.sampling:
            return rows
        accuracy = sum(row["steps_with_score"][-1]["score"] for row in rows) / len(rows)
        return [row | {"question_accuracy": accuracy} for row in rows]

    def _sample_solutions(self, batch: PromptBatch) -> list[list[list[str]]]:
        """Solutions as steps, for each prompt of the batch; an empty solution is one empty step."""
        requests = [
            GenerationRequest(messages, images, [f"{p.prompt_id}/solution/{i}" for i in range(self.num_solutions)])
            for p, images, messages in zip(batch.prompts, batch.images, batch.messages, strict=True)
        ]
        sampled = self._in_pieces(batch, requests, self.num_solutions, self.solution_sampling)
        return [
            [merge_steps(split_into_steps(text), self.max_steps) if text.strip() else [""] for text in texts]
            for texts in sampled
        ]

    @staticmethod
    def _unfinished_prefixes(solutions: list[list[list[str]]]) -> list[tuple[int, str]]:
        """Distinct (prompt index, partial solution) pairs, as solutions often share their first steps."""
        prefixes = {
            (index, STEP_SEPARATOR.join(steps[: count + 1]) + STEP_SEPARATOR): count
            for index, of_prompt in enumerate(solutions)
            for steps in of_prompt
            for count in range(len(steps) - 1)
        }
        # Prefixes with equally many steps have continuations of similar length.
        return sorted(prefixes, key=lambda prefix: (prefixes[prefix], prefix))

    def _count_successes(self, batch: PromptBatch, prefixes: list[tuple[int, str]]) -> dict[tuple[int, str], int]:
        """How many of the K continuations of each prefix reach the gold answer."""
        requests = [
            GenerationRequest(
                batch.messages[index],
                batch.images[index],
                [f"{batch.prompts[index].prompt_id}/{prefix}/{k}" for k in range(self.num_continuations)],
                partial_response=prefix,
            )
            for index, prefix in prefixes
        ]
        continued = self._in_pieces(batch, requests, self.num_continuations, self.sampling)
        return {
            (index, prefix): sum(batch.prompts[index].grade(prefix + text).is_correct for text in texts)
            for (index, prefix), texts in zip(prefixes, continued, strict=True)
        }

    def _in_pieces(
        self,
        batch: PromptBatch,
        requests: list[GenerationRequest],
        repeats: int,
        sampling: SamplingParameters,
    ) -> list[list[str]]:
        """Texts of each request, of which ``max_batch_rows`` are decoded at once."""
        size = self.max_batch_rows // repeats
        pieces = [requests[start : start + size] for start in range(0, len(requests), size)]
        # With sharded weights every forward needs all ranks, including those that have fewer pieces.
        rounds = most_on_any_rank(len(pieces), self.device) if self.engine.needs_all_ranks else len(pieces)
        sampled = [texts for piece in pieces for texts in self.engine.sample(piece, sampling)]
        for _ in range(rounds - len(pieces)):
            idle = GenerationRequest(batch.messages[0], batch.images[0], [batch.prompts[0].prompt_id])
            self.engine.sample([idle], sampling)
        return [[found.text for found in texts] for texts in sampled]

    def _row(
        self, prompt: Prompt, index: int, solution: int, steps: list[str], successes: dict[tuple[int, str], int]
    ) -> dict[str, Any]:
        total = self.num_continuations
        response = STEP_SEPARATOR.join(steps)
        scored = []
        for count, step in enumerate(steps):
            if count + 1 < len(steps):
                correct = successes[index, STEP_SEPARATOR.join(steps[: count + 1]) + STEP_SEPARATOR]
            else:
                # A finished solution has one continuation, the empty one.
                correct = total if prompt.grade(response).is_correct else 0
            scored.append({"step": step, "score": correct / total, "num_mc_correct": correct, "num_mc_total": total})
        row: dict[str, Any] = {"id": f"{prompt.prompt_id}/{solution}", "source": prompt.source}
        if prompt.image_names:
            names = list(prompt.image_names)
            row["image"] = names[0] if len(names) == 1 else names
        return row | {
            "question": prompt.question,
            "question_orig": prompt.question,
            "answer": prompt.answer,
            "response": response,
            "steps_with_score": scored,
            "num_mc_sequences": total,
        }
