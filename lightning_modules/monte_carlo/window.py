"""All solutions and steps of a window of questions as one source of requests.

Solutions are asked for first. When one comes, its steps are asked for at once, whatever else is still open; distinct
prefixes of a question are continued once. So engines see many requests at a time and need not wait for the longest.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from datamodules.conversation.steps import STEP_SEPARATOR
from datamodules.policy.prompt_batches import PromptBatch
from lightning_modules.generation.engine import GeneratedText, GenerationRequest, PromptRefusedError
from lightning_modules.monte_carlo.costs import Costs
from lightning_modules.monte_carlo.draws import Counts, Outcome, PrefixDraws, outcome_of
from lightning_modules.monte_carlo.plan import AnnotationPlan


@dataclass
class Solution:
    """A solution and what is known of its steps.

    Attributes:
        index: Of its prompt in the window.
        steps: Its steps, at least one.
        outcome: What it is as a whole.
        asked: Draws of the steps that it has asked for, by number from 1.
    """

    index: int
    steps: list[str]
    outcome: Outcome
    asked: dict[int, PrefixDraws] = field(default_factory=dict)

    def known(self, plan: AnnotationPlan) -> dict[int, bool]:
        """Steps whose score is known, and whether a continuation was right."""
        found = {step: draws.counts.correct > 0 for step, draws in self.asked.items() if draws.is_done}
        if plan.num_continued(self.steps) < len(self.steps):
            found[len(self.steps)] = self.outcome.is_right
        return found

    def counts(self, step: int) -> Counts | None:
        """Counts of a step, None where it was not asked for."""
        return self.asked[step].counts if step in self.asked else None


@dataclass(frozen=True)
class _Asked:
    """What a request is about: solutions of a prompt, or continuations of a prefix."""

    request: GenerationRequest
    index: int
    numbers: range
    draws: PrefixDraws | None = None


class AnnotationWindow:
    """Hands out the requests of a window, and collects what its rows are made of.

    Args:
        batch: The questions. Prompts that are left out are not asked.
        plan: What is drawn.
        most_at_once: Most samples that are handed out and not answered; None for no bound.
        given: Solutions by prompt id, to be scored instead of sampled ones.

    Attributes:
        solutions: For each prompt of the window, its solutions in order of their numbers, as they come.
        costs: For each prompt what was spent.
    """

    def __init__(
        self,
        batch: PromptBatch,
        plan: AnnotationPlan,
        most_at_once: int | None = None,
        given: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.batch, self.plan, self.most_at_once = batch, plan, most_at_once
        self.solutions: list[dict[int, Solution]] = [{} for _ in batch.prompts]
        self.costs = [Costs() for _ in batch.prompts]
        self._in_flight = 0
        self._order = count()
        self._asked: dict[int, _Asked] = {}
        self._draws: dict[tuple[int, str], PrefixDraws] = {}
        self._waiting: dict[tuple[int, str], list[Solution]] = {}
        self._ready: list[tuple[int, int, int, PrefixDraws]] = []
        asked = [index for index, prompt in enumerate(batch.prompts) if prompt.prompt_id not in batch.left_out]
        self._unasked = [] if given is not None else asked[::-1]
        for index in asked if given is not None else []:
            for number, text in enumerate((given or {}).get(batch.prompts[index].prompt_id, [])):
                self._add_solution(index, number, GeneratedText(text, "stop", 0, 0))

    # ------------------------------------------------------------------ source

    def take(self, room: int) -> list[GenerationRequest]:
        """See :meth:`lightning_modules.generation.engine.RequestSource.take`."""
        if self.most_at_once is not None:
            room = min(room, self.most_at_once - self._in_flight)
        taken: list[GenerationRequest] = []
        chosen: list[PrefixDraws] = []

        def fits(samples: int) -> bool:
            return samples <= room or not (taken or chosen or self._in_flight)

        while self._unasked and fits(self.plan.num_solutions):
            room -= self.plan.num_solutions
            taken.append(self._ask_solutions(self._unasked.pop()))
        if self._unasked:
            return taken
        while self._ready and fits(self._ready[0][-1].least):
            draws = heapq.heappop(self._ready)[-1]
            if not self._is_left_out(draws.index):
                chosen.append(draws)
                room -= draws.least
        for draws in chosen:
            # Rows that would stay idle draw ahead.
            ahead = max(0, min(room, draws.most - draws.least))
            room -= ahead
            taken.append(self._ask_continuations(draws, draws.least + ahead))
        return taken

    def receive(self, request: GenerationRequest, texts: Sequence[GeneratedText]) -> None:
        """See :meth:`lightning_modules.generation.engine.RequestSource.receive`."""
        asked = self._asked.pop(id(request))
        self._in_flight -= len(texts)
        self.costs[asked.index].add(texts, is_solution=asked.draws is None)
        if self._is_left_out(asked.index):
            return
        if asked.draws is None:
            for number, text in zip(asked.numbers, texts, strict=True):
                self._add_solution(asked.index, number, text)
            return
        draws, prompt = asked.draws, self.batch.prompts[asked.index]
        draws.receive(asked.numbers, [outcome_of(prompt, draws.text, text) for text in texts])
        if draws.is_done:
            self.costs[asked.index].surplus += draws.asked - draws.counts.total
            for solution in self._waiting.pop((draws.index, draws.text)):
                self._go_on(solution)
        elif not draws.is_waiting:
            self._make_ready(draws)

    def refuse(self, request: GenerationRequest, problem: PromptRefusedError) -> None:
        """Leave the prompt out, with all that is known of it, or raise the problem."""
        asked = self._asked.pop(id(request))
        self._in_flight -= len(asked.numbers)
        if not self._is_left_out(asked.index):
            self.batch.leave_out(self.batch.prompts[asked.index], problem)
            self.solutions[asked.index] = {}

    def _is_left_out(self, index: int) -> bool:
        return self.batch.prompts[index].prompt_id in self.batch.left_out

    # ---------------------------------------------------------------- requests

    def _ask_solutions(self, index: int) -> GenerationRequest:
        numbers = range(self.plan.num_solutions)
        prompt_id = self.batch.prompts[index].prompt_id
        request = self._request(index, [f"{prompt_id}/solution/{number}" for number in numbers])
        return self._hand_out(_Asked(request, index, numbers))

    def _ask_continuations(self, draws: PrefixDraws, samples: int) -> GenerationRequest:
        numbers = draws.ask(samples)
        prompt_id = self.batch.prompts[draws.index].prompt_id
        request = self._request(draws.index, [f"{prompt_id}/{draws.text}/{number}" for number in numbers], draws.text)
        return self._hand_out(_Asked(request, draws.index, numbers, draws))

    def _request(self, index: int, keys: list[str], beginning: str | None = None) -> GenerationRequest:
        return GenerationRequest(
            self.batch.messages[index],
            self.batch.images[index],
            keys,
            partial_response=beginning or "",
            max_tiles=self.batch.prompts[index].max_tiles,
            parameters=self.plan.solution_sampling if beginning is None else self.plan.sampling,
        )

    def _hand_out(self, asked: _Asked) -> GenerationRequest:
        self._asked[id(asked.request)] = asked  # the request is kept, so that its id stays its own
        self._in_flight += len(asked.numbers)
        return asked.request

    # --------------------------------------------------------------- solutions

    def _add_solution(self, index: int, number: int, found: GeneratedText) -> None:
        steps = self.plan.split(found.text)
        whole = outcome_of(self.batch.prompts[index], "", found._replace(text=STEP_SEPARATOR.join(steps)))
        solution = self.solutions[index][number] = Solution(index, steps, whole)
        self._go_on(solution)

    def _go_on(self, solution: Solution) -> None:
        """Ask for the steps of a solution that are needed next; equal prefixes share their draws."""
        while True:
            known = solution.known(self.plan)
            is_any_done = False
            for step in self.plan.open_steps(solution.steps, known):
                if step in solution.asked:
                    continue
                key = solution.index, self.plan.prefix(solution.steps, step)
                draws = self._draws.get(key)
                if draws is None:
                    draws = self._draws[key] = PrefixDraws(*key, step, self.plan)
                    self._make_ready(draws)
                solution.asked[step] = draws
                if draws.is_done:
                    is_any_done = True
                else:
                    self._waiting.setdefault(key, []).append(solution)
            if not is_any_done:
                return

    def _make_ready(self, draws: PrefixDraws) -> None:
        # Prefixes that have been drawn from least come first, of those the ones with the longest way to go.
        heapq.heappush(self._ready, (draws.asked, draws.step, next(self._order), draws))
