"""Searches for the questions of a batch, side by side, as one source of requests.

A question whose samples are there is scored together with all others that are as far, and goes on at once. So engines
see many requests at a time, keep what they have read of the questions, and wait for no other question.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from datamodules.conversation.steps import STEP_SEPARATOR
from datamodules.policy.prompt_batches import PromptBatch
from lightning_modules.generation.engine import GeneratedText, GenerationEngine, GenerationRequest, PromptRefusedError
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.metrics.response_score import Aggregation, aggregate_step_scores
from lightning_modules.monte_carlo.costs import Costs
from lightning_modules.search.options import SearchOptions
from lightning_modules.search.strategies import STRATEGIES, Expansion, Strategy
from lightning_modules.search.tree import Node, SearchTree

Scorer = Callable[[Sequence[tuple[int, list[str]]]], list[list[list[float]]]]
"""Scores responses, or beginnings of them: from (index of the prompt, its texts) to the step scores of each text."""


class _Asked(NamedTuple):
    """What a search waits for: texts of requests, or step scores of texts."""

    requests: list[GenerationRequest]
    to_score: list[str]


_Course = Generator[_Asked, list[list[GeneratedText]] | list[list[float]], None]


@dataclass(eq=False)
class QuestionSearch:
    """The search for one question.

    Attributes:
        index: Of its prompt in the batch.
        strategy: Chooses.
        tree: What it has found.
        costs: What was spent.
    """

    index: int
    strategy: Strategy
    tree: SearchTree = field(default_factory=SearchTree)
    costs: Costs = field(default_factory=Costs)
    answers: list[list[GeneratedText] | None] = field(default_factory=list)


class SearchWindow:
    """Runs the searches of a batch of questions.

    Samples depend on the seed, the prompt's id, the text that is continued and a number alone, so that a search is the
    same beside any other questions.

    Args:
        batch: The questions. Prompts that are left out are not searched.
        options: What the searches do.
        sampling: How steps are sampled; ``max_new_tokens`` is that of a whole solution.
        score: Scores the beginnings of solutions.
        aggregation: From step scores to a value, where the options name none.
        is_readable: Whether a step can be scored; others are dropped.

    Attributes:
        searches: One for each prompt; None for prompts that are left out.
    """

    def __init__(
        self,
        batch: PromptBatch,
        options: SearchOptions,
        sampling: SamplingParameters,
        score: Scorer,
        aggregation: Aggregation,
        is_readable: Callable[[str], bool] = lambda text: True,
    ) -> None:
        self.batch, self.options, self.sampling = batch, options, sampling
        self.score, self.is_readable = score, is_readable
        self.aggregation: Aggregation = options.value or aggregation
        self.searches: list[QuestionSearch | None] = []
        self._courses: dict[QuestionSearch, _Course] = {}
        self._waiting: deque[tuple[QuestionSearch, int, GenerationRequest]] = deque()
        self._outstanding: dict[int, tuple[QuestionSearch, int, GenerationRequest]] = {}
        self._to_score: list[tuple[QuestionSearch, list[str]]] = []
        for index, prompt in enumerate(batch.prompts):
            search = QuestionSearch(index, STRATEGIES[options.method](options))
            is_left_out = prompt.prompt_id in batch.left_out
            self.searches.append(None if is_left_out else search)
            if not is_left_out:
                self._courses[search] = self._course(search)
                self._ask(search, next(self._courses[search]))

    def run(self, engine: GenerationEngine) -> None:
        """Search until all searches are over. With sharded weights all ranks must call this together.

        Raises:
            PromptRefusedError: If the engine refuses a prompt that must not be left out.
        """
        engine.serve(self, self.sampling)

    # ------------------------------------------------------------------ source

    def take(self, room: int) -> list[GenerationRequest]:
        """See :meth:`lightning_modules.generation.engine.RequestSource.take`."""
        if self._to_score:
            self._score()
        taken: list[GenerationRequest] = []
        while self._waiting:
            search, _, request = self._waiting[0]
            if search not in self._courses:  # left out meanwhile
                self._waiting.popleft()
                continue
            if len(request.sample_keys) > room and (taken or self._outstanding):
                break
            self._outstanding[id(request)] = self._waiting.popleft()
            taken.append(request)
            room -= len(request.sample_keys)
        return taken

    def receive(self, request: GenerationRequest, texts: Sequence[GeneratedText]) -> None:
        """See :meth:`lightning_modules.generation.engine.RequestSource.receive`."""
        search, place, _ = self._outstanding.pop(id(request))
        if search not in self._courses:
            return
        search.costs.add(texts, is_solution=False)
        search.answers[place] = list(texts)
        found = [answer for answer in search.answers if answer is not None]
        if len(found) == len(search.answers):
            self._go_on(search, found)

    def refuse(self, request: GenerationRequest, problem: PromptRefusedError) -> None:
        """Leave the prompt out, with all that is known of it, or raise the problem."""
        search, _, _ = self._outstanding.pop(id(request))
        if self._courses.pop(search, None) is not None:
            self.batch.leave_out(self.batch.prompts[search.index], problem)
            self.searches[search.index] = None

    def _score(self) -> None:
        """Score what is waiting, and let these searches go on."""
        asked, self._to_score = self._to_score, []
        found = self.score([(search.index, texts) for search, texts in asked])
        for (search, _), scores in zip(asked, found, strict=True):
            self._go_on(search, scores)

    def _go_on(self, search: QuestionSearch, found: list[list[GeneratedText]] | list[list[float]]) -> None:
        try:
            self._ask(search, self._courses[search].send(found))
        except StopIteration:
            del self._courses[search]

    def _ask(self, search: QuestionSearch, asked: _Asked) -> None:
        if asked.to_score:
            self._to_score.append((search, asked.to_score))
        search.answers = [None] * len(asked.requests)
        self._waiting += [(search, place, request) for place, request in enumerate(asked.requests)]

    # ------------------------------------------------------------------ search

    def _course(self, search: QuestionSearch) -> _Course:
        """Rounds of a search: sample next steps, look ahead if that is wanted, score what is new, choose."""
        expansions, new = search.strategy.next([search.tree.root]), list[Node]()
        while expansions:
            answers = yield _Asked([self._request(search, each) for each in expansions], [])
            nodes, again = self._grown(search.tree, expansions, answers)  # type: ignore[arg-type]
            if nodes:
                ahead = yield from self._look_ahead(search, nodes)
                scores = yield _Asked([], list(ahead.values()))
                for node, of_node in zip(nodes, scores, strict=True):
                    self._value(node, of_node, ahead[node])  # type: ignore[arg-type]
            new += nodes
            # A beginning that got blank steps only is continued once more before the strategy chooses.
            expansions = again or search.strategy.next(new)
            new = new if again else []

    def _grown(
        self, tree: SearchTree, expansions: Sequence[Expansion], answers: Sequence[Sequence[GeneratedText]]
    ) -> tuple[list[Node], list[Expansion]]:
        """Add what was sampled to the tree: the new nodes, and what is to be expanded again."""
        begin, again = len(tree.nodes), []
        for expansion, texts in zip(expansions, answers, strict=True):
            before = len(tree.nodes)
            for number, text in enumerate(texts):
                self._add(tree, expansion, number, text)
            if len(tree.nodes) == before and not expansion.to_end:
                again.append(Expansion(expansion.node, 1, to_end=True))
        return tree.nodes[begin:], again

    def _add(self, tree: SearchTree, expansion: Expansion, number: int, text: GeneratedText) -> None:
        tree.samples += 1
        tree.sampled_tokens += text.completion_tokens
        step = text.text.strip()
        goes_on = text.stopped_at == STEP_SEPARATOR  # a stop string of the user's ends the solution
        if (goes_on and not step) or not self.is_readable(step):
            tree.dropped += 1
            return
        node = expansion.node
        group = node.group
        if node.parent is None:  # equal first steps are one, so different ones are counted
            group = sum(each.parent is node for each in tree.nodes) % self.options.groups
        tree.add(node, step, None if goes_on else text.finish_reason, text.completion_tokens, group)

    def _look_ahead(self, search: QuestionSearch, new: Sequence[Node]) -> Generator[_Asked, object, dict[Node, str]]:
        """What each new beginning goes on with, some steps, written greedily."""
        greedy = replace(self.sampling, temperature=0.0, top_p=1.0, top_k=None)
        ahead = {node: node.text for node in new}
        tokens = {node: node.path_tokens for node in new}
        going = [node for node in new if node.ended is None]
        for _ in range(self.options.lookahead if going else 0):
            keys = [[f"{self._key(search, ahead[node])}/ahead/0"] for node in going]
            answers = yield _Asked(
                [
                    self._continuing(search, ahead[node], key, tokens[node], greedy)
                    for node, key in zip(going, keys, strict=True)
                ],
                [],
            )
            still = []
            for node, (text,) in zip(going, answers, strict=True):  # type: ignore[call-overload]
                search.tree.sampled_tokens += text.completion_tokens
                search.tree.lookahead_tokens += text.completion_tokens
                tokens[node] += text.completion_tokens
                step = text.text.strip()
                if step and self.is_readable(step):
                    ahead[node] = f"{ahead[node]}{STEP_SEPARATOR}{step}"
                    still += [node] if text.stopped_at == STEP_SEPARATOR else []
            going = still
            if not going:
                break
        return ahead

    def _value(self, node: Node, scores: list[float], text: str) -> None:
        """Take the scores of a beginning, and of what lies ahead of it in a text."""
        node.value = aggregate_step_scores(scores, self.aggregation)
        node.step_scores = scores if text == node.text else scores[: node.depth]

    # ---------------------------------------------------------------- requests

    def _request(self, search: QuestionSearch, expansion: Expansion) -> GenerationRequest:
        node = expansion.node
        to_end = expansion.to_end or node.depth >= self.options.max_depth
        kind = "end" if to_end else "step"
        keys = [f"{self._key(search, node.text)}/{kind}/{number}" for number in range(expansion.samples)]
        return self._continuing(search, node.text, keys, node.path_tokens, self.sampling, to_end=to_end)

    def _key(self, search: QuestionSearch, text: str) -> str:
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        return f"{self.batch.prompts[search.index].prompt_id}/search/{digest}"

    def _continuing(
        self,
        search: QuestionSearch,
        text: str,
        keys: Sequence[str],
        tokens: int,
        sampling: SamplingParameters,
        *,
        to_end: bool = False,
    ) -> GenerationRequest:
        """A request for what follows a beginning of so many tokens."""
        left = max(1, self.sampling.max_new_tokens - tokens)
        stop = sampling.stop if to_end else (*sampling.stop, STEP_SEPARATOR)
        return GenerationRequest(
            self.batch.messages[search.index],
            self.batch.images[search.index],
            keys,
            partial_response=text and text + STEP_SEPARATOR,
            max_tiles=self.batch.prompts[search.index].max_tiles,
            parameters=replace(sampling, max_new_tokens=left, stop=stop),
        )
