"""A language model as judge of pairs: given solutions meet in a bracket, and the better one goes on."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from datamodules.conversation.messages import question_content
from datamodules.interfaces import PredictionSettings, data_module_of
from datamodules.policy.prompt_batches import PromptBatch
from lightning_modules.distributed.sharding import computing_device
from lightning_modules.generation.answers import answers_to
from lightning_modules.generation.engine import GenerationEngine, GenerationRequest, PromptRefusedError
from lightning_modules.generation.sampling import SamplingParameters, sampling_settings
from lightning_modules.generation.sampling_module import SamplingModule
from lightning_modules.generation.transformers_engine import TransformersEngine, engine_settings
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.weights_digest import weights_digest
from lightning_modules.monte_carlo.costs import Costs
from lightning_modules.monte_carlo.given import GivenSolutions
from lightning_modules.scoring.memory import most_on_any_rank

REQUEST = (
    "Below are two solutions to this question.\n\n### Solution 1\n{first}\n\n### Solution 2\n{second}\n\n"
    "Which one is right, or has fewer mistakes? Think if you need to, and end with 1 or 2."
)
"""What a judge is asked behind the question; ``{first}`` and ``{second}`` stand for the solutions."""
_VERDICT = re.compile(r"(?<![\d.])[12](?!\d|\.\d)")
_GREEDY = SamplingParameters(temperature=0.0, max_new_tokens=256)

Outcome = Literal["agreed", "tie", "unparsed"]


def read_choice(text: str) -> int | None:
    """Which solution a judge names at last, 1 or 2; None where it names neither.

    >>> read_choice("Solution 1 misreads 12, so 2."), read_choice("Both are wrong.")
    (2, None)
    """
    found = _VERDICT.findall(text)
    return int(found[-1]) if found else None


@dataclass
class Bracket:
    """The solutions of one question, and who is left.

    Attributes:
        texts: All solutions.
        left: Numbers of those that have lost to none, in the order in which they meet.
        rounds: Rounds that each solution has won, those without a rival included.
        outcomes: How the meetings have ended, by kind.
    """

    texts: Sequence[str]
    left: list[int]
    rounds: list[int] = field(default_factory=list)
    outcomes: dict[Outcome, int] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Sequence[str], key: str) -> Bracket:
        """A bracket in an order that depends on a key alone; equal solutions take part once."""
        first = {text: number for number, text in reversed(list(enumerate(texts)))}
        order = sorted(first.values(), key=lambda number: _digest(f"{key}/{number}"))
        return cls(texts, order, [0] * len(texts))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Who meets in the next round; the last one of an odd number goes on without."""
        return list(zip(self.left[::2], self.left[1::2], strict=False))

    def play(self, choices: Sequence[tuple[int | None, int | None]]) -> None:
        """Take note of a round.

        Args:
            choices: For each of :attr:`pairs` what the judge has named, 1 or 2, in this order and in the other one.
                Nothing changes where there are none, as other questions may have more rounds.
        """
        if not self.pairs:
            return
        winners = []
        for (one, other), (named, swapped) in zip(self.pairs, choices, strict=True):
            votes = [one if named == 1 else other] if named else []
            votes += [other if swapped == 1 else one] if swapped else []
            kind: Outcome = "unparsed" if not votes else "agreed" if len(set(votes)) == 1 else "tie"
            self.outcomes[kind] = self.outcomes.get(kind, 0) + 1
            # Without a decision the one that was sampled first goes on.
            winners.append(votes[0] if kind == "agreed" else min(one, other))
        if len(self.left) % 2:
            winners.append(self.left[-1])
        for winner in winners:
            self.rounds[winner] += 1
        self.left = winners

    def scores(self) -> list[float]:
        """Rounds won by each solution; equal solutions share them."""
        first = {text: number for number, text in reversed(list(enumerate(self.texts)))}
        return [float(self.rounds[first[text]]) for text in self.texts]


class KnockoutJudge(SamplingModule):
    """Judges given solutions by pairs; `predict` returns rows with the rounds that each has won.

    Who meets whom is drawn with the seed of ``sampling`` and the prompt's id. Each pair is shown in both orders, as
    judges tend to prefer a place. If both answers name the same solution, or only one can be read, that decides; else
    the solution that was sampled first goes on. How many meetings ended without a decision is in the rows.

    Args:
        model_name_or_path: The judge: any image-text-to-text or causal language model checkpoint.
        solutions_from: Rows whose solutions are judged, see
            :class:`lightning_modules.monte_carlo.given.GivenSolutions`.
        both_orders: Show each pair in both orders; otherwise in one.
        sampling: How the judge writes; greedily by default.
        request: What it is asked behind the question, with ``{first}`` and ``{second}``.
        backbone: How the checkpoint is loaded.
        engine: What samples, by class path; the model in this process by default.

    Attributes:
        prediction_costs: What the prompts of the last batch have cost, by id.

    Raises:
        ValueError: If the request lacks a place for a solution.
    """

    given: GivenSolutions

    def __init__(
        self,
        model_name_or_path: str,
        solutions_from: str,
        both_orders: bool = True,
        sampling: SamplingParameters = _GREEDY,
        request: str = REQUEST,
        backbone: BackboneOptions | None = None,
        engine: GenerationEngine | None = None,
    ) -> None:
        super().__init__()
        if "{first}" not in request or "{second}" not in request:
            raise ValueError(f"request must hold {{first}} and {{second}}, got {request!r}")
        self.save_hyperparameters("model_name_or_path")
        self.keep_backbone_options(backbone)
        self.model_name_or_path = model_name_or_path
        self.given = GivenSolutions(Path(solutions_from))
        self.both_orders, self.sampling, self.request = both_orders, sampling, request
        self.prediction_costs: dict[str, dict[str, float]] = {}
        self.load_for(engine or TransformersEngine())

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What the choices depend on besides the prompts."""
        data = data_module_of(self._trainer) if self._trainer else None
        return {
            "model": self.model_name_or_path,
            "weights": weights_digest(self.model_name_or_path),
            "solutions_from": self.given.digest,
            "both_orders": self.both_orders,
            "sampling": sampling_settings(self.sampling),
            "request": self.request,
            "data": data.prediction_settings if isinstance(data, PredictionSettings) else {},
            **engine_settings(self.engine),
        }

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[tuple[str, list[dict[str, Any]]]]:
        """Let the solutions of the prompts of a batch meet, all questions side by side.

        Returns:
            For each prompt its id and one row per solution; ``scores`` are the ``rounds_won``.
        """
        self.attach_engine()
        begin = time.perf_counter()
        given = self.given.of(batch.sample_ids)
        brackets = [
            Bracket.of(given[prompt.prompt_id], f"{self.sampling.seed}/{prompt.prompt_id}") for prompt in batch.prompts
        ]
        costs = [Costs() for _ in batch.prompts]
        while self._on_any_rank(any(bracket.pairs for bracket in brackets)):
            self._play(batch, brackets, costs)
        seconds = (time.perf_counter() - begin) / len(batch.prompts)
        self.prediction_costs = {
            prompt.prompt_id: asdict(replace(each, seconds=seconds))
            for prompt, each in zip(batch.prompts, costs, strict=True)
        }
        rows: list[tuple[str, list[dict[str, Any]]]] = []
        for prompt, bracket in zip(batch.prompts, brackets, strict=True):
            of_prompt = [
                {
                    "id": f"{prompt.prompt_id}/{number}",
                    "source": prompt.source,
                    "response": text,
                    "scores": {"rounds_won": score},
                    "meetings": {str(kind): count for kind, count in bracket.outcomes.items()},
                }
                for number, (text, score) in enumerate(zip(bracket.texts, bracket.scores(), strict=True))
            ]
            rows.append((prompt.prompt_id, of_prompt))
        return rows

    def _play(self, batch: PromptBatch, brackets: Sequence[Bracket], costs: Sequence[Costs]) -> None:
        """One round of all questions."""
        orders = (False, True) if self.both_orders else (False,)
        meetings = [
            (index, pair, is_swapped)
            for index, bracket in enumerate(brackets)
            for pair in bracket.pairs
            for is_swapped in orders
        ]
        requests = [self._request(batch, brackets[index], index, pair, swap) for index, pair, swap in meetings]

        def leave_out(number: int, problem: PromptRefusedError) -> None:
            index = meetings[number][0]
            brackets[index].left = []
            if batch.prompts[index].prompt_id not in batch.left_out:
                batch.leave_out(batch.prompts[index], problem)

        answers = answers_to(self.engine, requests, self.sampling, leave_out)
        named: dict[tuple[int, tuple[int, int], bool], int | None] = {}
        for meeting, texts in zip(meetings, answers, strict=True):
            if texts:
                costs[meeting[0]].add(texts, is_solution=False)
            # What was cut has not come to its verdict.
            named[meeting] = read_choice(texts[0].text) if texts and texts[0].finish_reason == "stop" else None
        for index, bracket in enumerate(brackets):
            bracket.play([(named.get((index, pair, False)), named.get((index, pair, True))) for pair in bracket.pairs])

    def _request(
        self, batch: PromptBatch, bracket: Bracket, index: int, pair: tuple[int, int], is_swapped: bool
    ) -> GenerationRequest:
        prompt, images = batch.prompts[index], batch.images[index]
        one, other = pair[::-1] if is_swapped else pair
        # Texts of solutions may hold braces.
        filled = {"{first}": bracket.texts[one], "{second}": bracket.texts[other]}
        parts = re.split(r"(\{first\}|\{second\})", self.request)
        after = "\n\n" + "".join(filled.get(part, part) for part in parts)
        user = {"role": "user", "content": question_content(prompt.question, len(images), after=after)}
        return GenerationRequest(
            [*batch.messages[index][:-1], user],
            images,
            [f"{prompt.prompt_id}/knockout/{one}-{other}/0"],
            max_tiles=prompt.max_tiles,
        )

    def _on_any_rank(self, has_work: bool) -> bool:
        if not self.engine.needs_all_ranks:
            return has_work
        return most_on_any_rank(int(has_work), computing_device(self.backbone)) > 0


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
