"""A language model as judge of steps: asked of each step of given solutions whether it is right.

VL-PRM300K (arXiv 2509.23250) keeps steps on which such a judge and Monte Carlo agree. The judge's rows are put beside
those of the annotator by ``visualprm-data agree``, and the data module's ``consensus`` says which opinion counts.

On rollouts and on VisualProcessBench such a judge is a critic to compare a reward model with (Table 3 of VisualPRM's
paper does). A written verdict ranks solutions coarsely; the probability of its word is a finer score.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from datamodules.conversation.messages import question_content
from datamodules.conversation.reading_rules import WhiteSpace
from datamodules.conversation.steps import DEFAULT_MAX_STEPS, STEP_SEPARATOR, response_steps
from datamodules.interfaces import PredictionSettings, data_module_of
from datamodules.policy.prompt_batches import PromptBatch
from datamodules.policy.prompts import Prompt
from lightning_modules.generation.answers import answers_to
from lightning_modules.generation.engine import (
    GeneratedText,
    GenerationEngine,
    GenerationRequest,
    PromptRefusedError,
)
from lightning_modules.generation.sampling import SamplingParameters, sampling_settings
from lightning_modules.generation.sampling_module import SamplingModule
from lightning_modules.generation.token_probabilities import TokenProbabilities, by_question
from lightning_modules.generation.transformers_engine import TransformersEngine, engine_settings
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.weights_digest import weights_digest
from lightning_modules.monte_carlo.costs import Costs
from lightning_modules.monte_carlo.given import GivenSolutions

REQUEST = (
    "Below is the beginning of a solution to this question, and then its next step. Earlier steps may be wrong.\n\n"
    "### Beginning\n{before}\n\n### Next step\n{step}\n\n"
    "Is the next step right: is what it says true of the question and its pictures, and does it follow? Think if you "
    "need to, and end with yes or no."
)
"""What a judge is asked behind the question; ``{before}`` and ``{step}`` stand for the steps."""
_NOTHING = "(nothing yet)"
_PROMPT_CHOICES = ("system_prompt", "max_tiles", "pictures", "other_images", "tiles_of_sources")
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_GREEDY = SamplingParameters(temperature=0.0, max_new_tokens=256)
_OPTIONS = (("yes", "Yes", "YES"), ("no", "No", "NO"))

_Steps = tuple[int, tuple[str, ...]]
"""Index of a prompt, and the steps up to the one that is judged."""


def read_verdict(text: str) -> bool | None:
    """What a judge says at last; None where it says neither.

    >>> read_verdict("No digit is 7, so yes."), read_verdict("I cannot tell.")
    (True, None)
    """
    found = _VERDICT.findall(text)
    return found[-1].lower() == "yes" if found else None


def ended_text(text: GeneratedText) -> str:
    """What a judge has written; nothing where it was cut, before it came to its verdict."""
    return text.text if text.finish_reason == "stop" else ""


def text_before_verdict(text: str) -> str | None:
    """What a judge says before its verdict; None where it has none.

    >>> text_before_verdict("No digit is 7, so yes.")
    'No digit is 7, so '
    """
    found = list(_VERDICT.finditer(text))
    return text[: found[-1].start()] if found else None


class StepJudge(SamplingModule):
    """Judges the steps of given solutions; `predict` returns rows with a verdict for a score.

    Args:
        model_name_or_path: The judge: any image-text-to-text or causal language model checkpoint.
        solutions_from: Rows whose solutions are judged, see
            :class:`lightning_modules.monte_carlo.given.GivenSolutions`. Not for prompts that come with solutions, as
            those of VisualProcessBench do.
        max_steps: As in the annotation that these rows are from.
        white_space: Likewise.
        num_votes: How often a step is judged; the majority counts, and a tie is no verdict.
        sampling: How the judge writes; greedily by default, which suits one vote.
        request: What it is asked behind the question, with ``{before}`` and ``{step}``.
        backbone: How the checkpoint is loaded.
        engine: What samples, by class path; the model in this process by default.
        score: What the score of a step is: the "verdict", 1 or 0; or the "probability" of yes against no at the place
            where the judge has written its verdict, p(yes) / (p(yes) + p(no)), the mean over the votes that have one.

    Attributes:
        prediction_costs: What the prompts of the last batch have cost, by id.

    Raises:
        ValueError: If the request lacks a place for the steps, ``num_votes`` is below 1, or probabilities are asked for
            and the engine does not give any.
    """

    def __init__(
        self,
        model_name_or_path: str,
        solutions_from: str | None = None,
        max_steps: int = DEFAULT_MAX_STEPS,
        white_space: WhiteSpace = "ours",
        num_votes: int = 1,
        sampling: SamplingParameters = _GREEDY,
        request: str = REQUEST,
        backbone: BackboneOptions | None = None,
        engine: GenerationEngine | None = None,
        score: Literal["verdict", "probability"] = "verdict",
    ) -> None:
        super().__init__()
        if "{before}" not in request or "{step}" not in request:
            raise ValueError(f"request must hold {{before}} and {{step}}, got {request!r}")
        if num_votes < 1:
            raise ValueError(f"num_votes must be at least 1, got {num_votes}")
        self.save_hyperparameters("model_name_or_path")
        self.keep_backbone_options(backbone)
        self.model_name_or_path = model_name_or_path
        self.given = None if solutions_from is None else GivenSolutions(Path(solutions_from))
        self.max_steps, self.white_space = max_steps, white_space
        self.num_votes, self.sampling, self.request = num_votes, sampling, request
        self.score = score
        self.prediction_costs: dict[str, dict[str, float]] = {}
        chosen = engine or TransformersEngine()
        if score == "probability" and not isinstance(chosen, TokenProbabilities):
            raise ValueError(
                f"score: probability needs an engine that tells how likely tokens are (option_logprobs), which "
                f"{type(chosen).__name__} does not; take score: verdict"
            )
        self.load_for(chosen)

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What the verdicts depend on besides the prompts."""
        data = data_module_of(self._trainer) if self._trainer else None
        asked = data.prediction_settings if isinstance(data, PredictionSettings) else {}
        return {
            "model": self.model_name_or_path,
            "weights": weights_digest(self.model_name_or_path),
            **({} if self.given is None else {"solutions_from": self.given.digest}),
            "max_steps": self.max_steps,
            "white_space": self.white_space,
            "num_votes": self.num_votes,
            "sampling": sampling_settings(self.sampling),
            "request": self.request,
            **({} if self.score == "verdict" else {"score": self.score}),
            **{name: asked[name] for name in _PROMPT_CHOICES if asked.get(name)},
            **engine_settings(self.engine),
        }

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[tuple[str, list[dict[str, Any]]]]:
        """Judge the solutions of the prompts of a batch; equal beginnings once.

        Returns:
            For each prompt its id and one row per solution. A step without a verdict has 0 of 0 continuations.

        Raises:
            ValueError: If prompts come without solutions and there is no ``solutions_from``.
        """
        self.attach_engine()
        begin = time.perf_counter()
        solutions = self._solutions(batch)
        asked: list[_Steps] = list(
            dict.fromkeys(
                (index, tuple(steps[:count]))
                for index, of_prompt in enumerate(solutions)
                for steps in of_prompt
                for count in range(1, len(steps) + 1)
            )
        )
        prompts = [batch.prompts[index] for index, _ in asked]

        def leave_out(number: int, problem: PromptRefusedError) -> None:
            batch.leave_out(prompts[number], problem)

        requests = [self._request(batch, index, steps) for index, steps in asked]
        answers = answers_to(self.engine, requests, self.sampling, leave_out)
        verdicts = {
            key: self._majority([ended_text(text) for text in texts]) for key, texts in zip(asked, answers, strict=True)
        }
        scores = {key: float(verdict or False) for key, verdict in verdicts.items()}
        if self.score == "probability":
            probabilities = self._probabilities(batch, asked, requests, answers)
            scores |= probabilities
            # Votes that are equally many on both sides are told apart, too.
            verdicts |= {key: probability > 0.5 for key, probability in probabilities.items()}
        costs = [Costs(seconds=(time.perf_counter() - begin) / len(batch.prompts)) for _ in batch.prompts]
        for (index, _), texts in zip(asked, answers, strict=True):
            if texts:  # a server that refuses a prompt gives none
                costs[index].add(texts, is_solution=False)
        self.prediction_costs = {
            prompt.prompt_id: asdict(replace(each)) for prompt, each in zip(batch.prompts, costs, strict=True)
        }
        return [
            (
                prompt.prompt_id,
                [self._row(prompt, index, n, steps, verdicts, scores) for n, steps in enumerate(of_prompt)],
            )
            for index, (prompt, of_prompt) in enumerate(zip(batch.prompts, solutions, strict=True))
        ]

    def _solutions(self, batch: PromptBatch) -> list[list[list[str]]]:
        """The steps of the solutions of each prompt."""
        without = [prompt for prompt in batch.prompts if not prompt.solutions]
        if without and self.given is None:
            raise ValueError(
                f"{without[0].where or without[0].prompt_id}: the prompt comes without solutions to judge; give "
                f"solutions_from"
            )
        given = self.given.of([prompt.prompt_id for prompt in without]) if self.given is not None else {}
        return [
            [list(steps) for steps in prompt.solutions]
            or [response_steps(text, self.max_steps, white_space=self.white_space) for text in given[prompt.prompt_id]]
            for prompt in batch.prompts
        ]

    def _probabilities(
        self,
        batch: PromptBatch,
        asked: Sequence[_Steps],
        requests: Sequence[GenerationRequest],
        answers: Sequence[Sequence[GeneratedText]],
    ) -> dict[_Steps, float]:
        """Probability of yes against no where the verdicts stand, by steps that have one."""
        assert isinstance(self.engine, TokenProbabilities)
        follow_up: list[GenerationRequest] = []
        keys: list[_Steps] = []
        for key, request, texts in zip(asked, requests, answers, strict=True):
            for name, text in zip(request.sample_keys, texts, strict=False):
                before = text_before_verdict(ended_text(text))
                if before is not None:
                    keys.append(key)
                    follow_up.append(replace(request, sample_keys=[name], partial_response=before))
        if not follow_up and self.engine.needs_all_ranks:
            # The other ranks wait for this one.
            first = GenerationRequest(batch.messages[0], batch.images[0], [batch.prompts[0].prompt_id])
            follow_up, keys = [first], [(-1, ())]
        groups, numbers = by_question(follow_up, lambda number: keys[number][0])
        found: dict[_Steps, list[float]] = {}
        for of_group, places in zip(self.engine.option_logprobs(groups, _OPTIONS), numbers, strict=True):
            for logprobs, place in zip(of_group, places, strict=True):
                found.setdefault(keys[place], []).append(float(logprobs.softmax(0)[0]))
        return {key: sum(values) / len(values) for key, values in found.items() if key[0] >= 0}

    def _request(self, batch: PromptBatch, index: int, steps: Sequence[str]) -> GenerationRequest:
        prompt, images = batch.prompts[index], batch.images[index]
        before = STEP_SEPARATOR.join(steps[:-1])
        # Texts of a solution may hold braces.
        parts = re.split(r"(\{before\}|\{step\})", self.request)
        filled = {"{before}": before or _NOTHING, "{step}": steps[-1]}
        after = "\n\n" + "".join(filled.get(part, part) for part in parts)
        user = {"role": "user", "content": question_content(prompt.question, len(images), after=after)}
        key = f"{prompt.prompt_id}/judge/{STEP_SEPARATOR.join(steps)}"
        return GenerationRequest(
            [*batch.messages[index][:-1], user],
            images,
            [f"{key}/{vote}" for vote in range(self.num_votes)],
            max_tiles=prompt.max_tiles,
        )

    @staticmethod
    def _majority(texts: Sequence[str]) -> bool | None:
        votes = Counter(verdict for verdict in map(read_verdict, texts) if verdict is not None)
        return None if votes[True] == votes[False] else votes[True] > votes[False]

    def _row(
        self,
        prompt: Prompt,
        index: int,
        number: int,
        steps: Sequence[str],
        verdicts: dict[_Steps, bool | None],
        scores: dict[_Steps, float],
    ) -> dict[str, Any]:
        scored: list[dict[str, Any]] = []
        for count, step in enumerate(steps, start=1):
            key = index, tuple(steps[:count])
            verdict = verdicts[key]
            more: dict[str, Any] = {"num_mc_correct": 0, "num_mc_total": 0} if verdict is None else {}
            if verdict is not None and self.score == "probability":
                more = {"is_right": verdict}
            scored.append({"step": step, "score": scores[key], **more})
        return {
            "id": f"{prompt.prompt_id}/{number}",
            "source": prompt.source,
            "response": STEP_SEPARATOR.join(steps),
            "steps_with_score": scored,
        }
