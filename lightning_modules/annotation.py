"""Monte Carlo annotation: how often does a policy reach the right answer from each step of a solution?

Section 3.1 of the paper: for every prefix of a sampled solution, K continuations are sampled, and the Monte Carlo score
of its last step is the share of them that end in the gold answer. The share of the solutions themselves that are right
is the score before the first step, ``question_accuracy``; it is left out where solutions are sampled at another
temperature than continuations, since the two would not compare.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from datamodules.conversation.steps import STEP_SEPARATOR, merge_steps, split_into_steps
from datamodules.policy.prompts import Prompt, PromptBatch
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.transformers_engine import GenerationRequest, TransformersEngine
from lightning_modules.model.backbone import BackboneOptions, connect_processor, load_processor
from lightning_modules.model.backbone_module import BackboneModule
from lightning_modules.scoring.memory import most_on_any_rank


class MonteCarloAnnotator(BackboneModule):
    """Samples solutions and scores their steps by Monte Carlo; `predict` returns VisualPRM400K raw rows.

    Args:
        model_name_or_path: The policy.
        num_solutions: Solutions a question (4 in the paper).
        num_continuations: K, continuations a step prefix (16 in the paper).
        max_steps: Longer solutions have neighbouring steps merged (12 in the paper).
        sampling: Of solutions and continuations.
        solution_temperature: Temperature of the solutions, if another than that of the continuations. A higher one
            makes errors more frequent and more varied.
        max_batch_rows: Most texts decoded at once; bounds memory.
        backbone: How the checkpoint is loaded.
    """

    def __init__(
        self,
        model_name_or_path: str,
        num_solutions: int = 4,
        num_continuations: int = 16,
        max_steps: int = 12,
        sampling: SamplingParameters = SamplingParameters(),  # noqa: B008 - frozen
        solution_temperature: float | None = None,
        max_batch_rows: int = 256,
        backbone: BackboneOptions | None = None,
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
        self.processor = load_processor(model_name_or_path)
        self.build()

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What the annotation depends on, beside the prompts."""
        return {
            "model": self.model_name_or_path,
            "num_solutions": self.num_solutions,
            "num_continuations": self.num_continuations,
            "max_steps": self.max_steps,
            "sampling": asdict(self.sampling),
            "solution_sampling": asdict(self.solution_sampling),
        }

    def setup(self, stage: str) -> None:
        """Give the data module the processor."""
        connect_processor(self)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[tuple[str, list[dict[str, Any]]]]:
        """Annotate the prompts of a batch.

        Returns:
            For each prompt its id and one raw row a solution.
        """
        engine = TransformersEngine(self.backbone, self.processor)
        solutions = self._sample_solutions(engine, batch)
        prefixes = self._unfinished_prefixes(solutions)
        successes = self._count_successes(engine, batch, prefixes)
        annotated = []
        for index, prompt in enumerate(batch.prompts):
            rows = [self._row(prompt, index, i, steps, successes) for i, steps in enumerate(solutions[index])]
            annotated.append((prompt.prompt_id, self._with_question_accuracy(rows)))
        return annotated

    def _with_question_accuracy(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of a question with the share of its solutions that are right, if that is of the same sampling."""
        if self.solution_sampling != self.sampling:
            return rows
        accuracy = sum(row["steps_with_score"][-1]["score"] for row in rows) / len(rows)
        return [row | {"question_accuracy": accuracy} for row in rows]

    def _sample_solutions(self, engine: TransformersEngine, batch: PromptBatch) -> list[list[list[str]]]:
        """Solutions as steps, for each prompt of the batch; an empty solution is one empty step."""
        requests = [
            GenerationRequest(text, images, [f"{p.prompt_id}/solution/{i}" for i in range(self.num_solutions)])
            for p, images, text in zip(batch.prompts, batch.images, batch.texts, strict=True)
        ]
        sampled = self._in_pieces(engine, batch, requests, self.num_solutions, self.solution_sampling)
        return [
            [merge_steps(split_into_steps(text), self.max_steps) if text.strip() else [""] for text in texts]
            for texts in sampled
        ]

    @staticmethod
    def _unfinished_prefixes(solutions: list[list[list[str]]]) -> list[tuple[int, str]]:
        """Distinct (prompt index, partial solution) pairs; solutions often share their first steps."""
        prefixes = {
            (index, STEP_SEPARATOR.join(steps[: count + 1]) + STEP_SEPARATOR): count
            for index, of_prompt in enumerate(solutions)
            for steps in of_prompt
            for count in range(len(steps) - 1)
        }
        # Prefixes of like progress decode for a like time.
        return sorted(prefixes, key=lambda prefix: (prefixes[prefix], prefix))

    def _count_successes(
        self, engine: TransformersEngine, batch: PromptBatch, prefixes: list[tuple[int, str]]
    ) -> dict[tuple[int, str], int]:
        """How many of the K continuations of each prefix reach the gold answer."""
        requests = [
            GenerationRequest(
                batch.texts[index] + prefix,
                batch.images[index],
                [f"{batch.prompts[index].prompt_id}/{prefix}/{k}" for k in range(self.num_continuations)],
            )
            for index, prefix in prefixes
        ]
        continued = self._in_pieces(engine, batch, requests, self.num_continuations, self.sampling)
        return {
            (index, prefix): sum(batch.prompts[index].grade(prefix + text).is_correct for text in texts)
            for (index, prefix), texts in zip(prefixes, continued, strict=True)
        }

    def _in_pieces(
        self,
        engine: TransformersEngine,
        batch: PromptBatch,
        requests: list[GenerationRequest],
        repeats: int,
        sampling: SamplingParameters,
    ) -> list[list[str]]:
        size = self.max_batch_rows // repeats
        pieces = [requests[start : start + size] for start in range(0, len(requests), size)]
        # While weights are sharded, every forward needs all ranks, also those that have fewer pieces.
        rounds = most_on_any_rank(len(pieces), self.device) if engine.needs_all_ranks else len(pieces)
        sampled = [texts for piece in pieces for texts in engine.sample(piece, sampling)]
        for _ in range(rounds - len(pieces)):
            idle = GenerationRequest(batch.texts[0], batch.images[0], [batch.prompts[0].prompt_id])
            engine.sample([idle], sampling)
        return [[text for text, _ in texts] for texts in sampled]

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
