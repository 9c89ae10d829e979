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

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from datamodules.conversation.reading_rules import QuestionText, WhiteSpace
from datamodules.conversation.steps import DEFAULT_MAX_STEPS, STEP_SEPARATOR, response_steps
from datamodules.interfaces import PredictionSettings, data_module_of
from datamodules.policy.prompts import Prompt, PromptBatch
from lightning_modules.generation.engine import GenerationEngine, GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters, sampling_settings
from lightning_modules.generation.sampling_module import SamplingModule
from lightning_modules.generation.transformers_engine import TransformersEngine, engine_settings
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.weights_digest import weights_digest
from lightning_modules.scoring.memory import most_on_any_rank

_OURS = {
    "continue_last_step": False,
    "continue_after": "separator",
    "white_space": "ours",
    "early_stop": False,
    "question_text": "bare",
}
_PROMPT_CHOICES = ("grading", "system_prompt", "max_tiles", "pictures")

Prefix = tuple[int, str]
"""Index of a prompt, and a partial solution."""


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
        question_text: What the rows give as ``question``: the "bare" one, or what the policy was asked ("as_asked");
            ``question_orig`` is the bare one.
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
        continue_last_step: bool = False,
        continue_after: Literal["separator", "step"] = "separator",
        white_space: WhiteSpace = "ours",
        early_stop: bool = False,
        question_text: QuestionText = "bare",
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
        self.continue_last_step = continue_last_step
        self.continue_after = continue_after
        self.white_space = white_space
        self.early_stop = early_stop
        self.question_text = question_text
        self.max_batch_rows = max_batch_rows
        self.load_for(engine or TransformersEngine())

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
            "sampling": sampling_settings(self.sampling),
            "solution_sampling": sampling_settings(self.solution_sampling),
            # Named only where it is not the default, so that annotations from before it was named go on. Of the other
            # settings of the data, the contents of the prompts tell.
            **{name: settings[name] for name in _PROMPT_CHOICES if settings.get(name)},
            **{name: getattr(self, name) for name, ours in _OURS.items() if getattr(self, name) != ours},
            **engine_settings(self.engine),
        }

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[tuple[str, list[dict[str, Any]]]]:
        """Annotate the prompts of a batch.

        Returns:
            For each prompt its id and one raw row per solution.
        """
        self.attach_engine()
        solutions = self._sample_solutions(batch)
        successes = self._count_all(batch, solutions)
        annotated = []
        for index, prompt in enumerate(batch.prompts):
            is_right = [prompt.grade(STEP_SEPARATOR.join(steps)).is_correct for steps in solutions[index]]
            rows = []
            for number, (steps, right) in enumerate(zip(solutions[index], is_right, strict=True)):
                scored = self._scored(index, steps, successes, right)
                rows.append(self._row(prompt, number, STEP_SEPARATOR.join(steps), scored))
                if self.solution_sampling == self.sampling:
                    rows[-1]["question_accuracy"] = sum(is_right) / len(is_right)
            annotated.append((prompt.prompt_id, rows))
        return annotated

    def _sample_solutions(self, batch: PromptBatch) -> list[list[list[str]]]:
        """Solutions as steps, for each prompt of the batch; an empty solution is one empty step."""
        requests = [
            GenerationRequest(
                messages,
                images,
                [f"{prompt.prompt_id}/solution/{i}" for i in range(self.num_solutions)],
                max_tiles=prompt.max_tiles,
            )
            for prompt, images, messages in zip(batch.prompts, batch.images, batch.messages, strict=True)
        ]
        sampled = self._in_pieces(batch, requests, self.num_solutions, self.solution_sampling)
        return [[self._split(text) for text in texts] for texts in sampled]

    def _split(self, text: str) -> list[str]:
        return response_steps(text, self.max_steps, white_space=self.white_space)

    def _prefix(self, index: int, steps: Sequence[str], count: int) -> Prefix:
        """The first ``count`` steps of a solution of a prompt, as they are continued."""
        has_separator = self.continue_after == "separator" and count < len(steps)
        return index, STEP_SEPARATOR.join(steps[:count]) + (STEP_SEPARATOR if has_separator else "")

    def _num_continued(self, steps: Sequence[str]) -> int:
        """How many steps of a solution continuations are drawn from."""
        return len(steps) if self.continue_last_step else len(steps) - 1

    def _count_all(self, batch: PromptBatch, solutions: list[list[list[str]]]) -> dict[Prefix, int]:
        """How many continuations of each prefix of the solutions reach the gold answer."""
        # Solutions often share their first steps: distinct prefixes are continued once.
        prefixes = {
            self._prefix(index, steps, count): count
            for index, of_prompt in enumerate(solutions)
            for steps in of_prompt
            for count in range(1, self._num_continued(steps) + 1)
        }
        if not self.early_stop:
            # Prefixes with equally many steps have continuations of similar length.
            return self._count_successes(batch, sorted(prefixes, key=lambda prefix: (prefixes[prefix], prefix)))
        successes: dict[Prefix, int] = {}
        open_solutions = [(index, steps) for index, of_prompt in enumerate(solutions) for steps in of_prompt]
        # As many rounds on all ranks, since sampling may need them all.
        for count in range(1, self.max_steps + 1):
            open_solutions = [
                (index, steps)
                for index, steps in open_solutions
                if count <= self._num_continued(steps)
                and (count == 1 or successes[self._prefix(index, steps, count - 1)] > 0)
            ]
            reached = {self._prefix(index, steps, count) for index, steps in open_solutions} - successes.keys()
            successes |= self._count_successes(batch, sorted(reached))
        return successes

    def _count_successes(self, batch: PromptBatch, prefixes: list[Prefix]) -> dict[Prefix, int]:
        """How many of the K continuations of each prefix reach the gold answer."""
        requests = [
            GenerationRequest(
                batch.messages[index],
                batch.images[index],
                [f"{batch.prompts[index].prompt_id}/{prefix}/{k}" for k in range(self.num_continuations)],
                partial_response=prefix,
                max_tiles=batch.prompts[index].max_tiles,
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

    def _scored(
        self, index: int, steps: list[str], successes: dict[Prefix, int], is_right: bool
    ) -> list[dict[str, Any]]:
        """The steps of a solution of a prompt with their scores; ``is_right`` is the verdict on the solution."""
        scored: list[dict[str, Any]] = []
        for count, step in enumerate(steps, start=1):
            if self.early_stop and scored and scored[-1]["num_mc_correct"] == 0:
                correct, total = 0, 0
            elif count <= self._num_continued(steps):
                correct, total = successes[self._prefix(index, steps, count)], self.num_continuations
            else:
                # A finished solution has one continuation, the empty one.
                correct, total = int(is_right), 1
            score = correct / total if total else 0.0
            scored.append({"step": step, "score": score, "num_mc_correct": correct, "num_mc_total": total})
        return scored

    def _row(self, prompt: Prompt, solution: int, response: str, scored: list[dict[str, Any]]) -> dict[str, Any]:
        row: dict[str, Any] = {"id": f"{prompt.prompt_id}/{solution}", "source": prompt.source}
        if prompt.image_names:
            names = list(prompt.image_names)
            row["image"] = names[0] if len(names) == 1 else names
        return row | {
            "question": prompt.policy_text if self.question_text == "as_asked" else prompt.question,
            "question_orig": prompt.question,
            "answer": prompt.answer,
            "response": response,
            "steps_with_score": scored,
            "num_mc_sequences": self.num_continuations,
        }
