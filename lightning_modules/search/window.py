"""Searches for the questions of a batch, side by side: all steps are sampled together, and all are scored together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from datamodules.conversation.steps import STEP_SEPARATOR
from datamodules.policy.prompts import PromptBatch
from lightning_modules.generation.answers import answers_to
from lightning_modules.generation.engine import GeneratedText, GenerationEngine, GenerationRequest, PromptRefusedError
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.metrics.response_score import aggregate_step_scores
from lightning_modules.monte_carlo.costs import Costs
from lightning_modules.search.options import SearchOptions
from lightning_modules.search.strategies import STRATEGIES, Expansion, Strategy
from lightning_modules.search.tree import Node, SearchTree

Scorer = Callable[[Sequence[tuple[int, list[str]]]], list[list[list[float]]]]
"""Scores responses, or beginnings of them: from (index of the prompt, its texts) to the step scores of each text."""


@dataclass
class QuestionSearch:
    """The search for one question.

    Attributes:
        index: Of its prompt in the batch.
        strategy: Chooses.
        tree: What it has found.
        expansions: What is sampled next; the search is over when there are none.
        new: Nodes that the strategy has not seen yet.
        costs: What was spent.
    """

    index: int
    strategy: Strategy
    tree: SearchTree = field(default_factory=SearchTree)
    expansions: list[Expansion] = field(default_factory=list)
    new: list[Node] = field(default_factory=list)
    costs: Costs = field(default_factory=Costs)


class SearchWindow:
    """Runs the searches of a batch of questions.

    Each round samples the next steps of all questions, looks ahead if that is wanted, scores what is new, and lets each
    search choose. Samples depend on the seed, the prompt's id, the text that is continued and a number alone, so that a
    search is the same beside any other questions.

    Args:
        batch: The questions. Prompts that are left out are not searched.
        options: What the searches do.
        sampling: How steps are sampled; ``max_new_tokens`` is that of a whole solution.
        engine: What samples.
        score: Scores the beginnings of solutions.
        aggregation: From step scores to a value, where the options name none.
        on_any_rank: From whether this rank has something to do to whether any has; for engines that need all ranks.
        is_readable: Whether a step can be scored; others are dropped.

    Attributes:
        searches: One for each prompt; None for prompts that are left out.
    """

    def __init__(
        self,
        batch: PromptBatch,
        options: SearchOptions,
        sampling: SamplingParameters,
        engine: GenerationEngine,
        score: Scorer,
        aggregation: str,
        on_any_rank: Callable[[bool], bool] = bool,
        is_readable: Callable[[str], bool] = lambda text: True,
    ) -> None:
        self.is_readable = is_readable
        self.batch, self.options, self.sampling = batch, options, sampling
        self.engine, self.score, self.on_any_rank = engine, score, on_any_rank
        self.aggregation = options.value or aggregation
        self.searches: list[QuestionSearch | None] = []
        for index, prompt in enumerate(batch.prompts):
            found = QuestionSearch(index, STRATEGIES[options.method](options))
            found.expansions = found.strategy.next([found.tree.root])
            self.searches.append(None if prompt.prompt_id in batch.left_out else found)

    def run(self) -> None:
        """Search until all searches are over.

        Raises:
            PromptRefusedError: If the engine refuses a prompt that must not be left out.
        """
        while self.on_any_rank(any(search.expansions for search in self._open)):
            new = self._expand()
            ahead = self._look_ahead([(search, node) for search, nodes in new for node in nodes])
            self._score([(search, nodes) for search, nodes in new if nodes], ahead)
            for search, nodes in new:
                search.new += nodes
                if not search.expansions:  # else a beginning got blank steps only, and is continued once more
                    search.expansions, search.new = search.strategy.next(search.new), []

    @property
    def _open(self) -> list[QuestionSearch]:
        return [search for search in self.searches if search is not None]

    # ---------------------------------------------------------------- sampling

    def _expand(self) -> list[tuple[QuestionSearch, list[Node]]]:
        """Sample what the searches have chosen; for each open one, the nodes that are new."""
        asked = [(search, expansion) for search in self._open for expansion in search.expansions]
        expanded = list(dict.fromkeys(search.index for search, _ in asked))
        answers = self._sample([self._request(search, expansion) for search, expansion in asked], [s for s, _ in asked])
        new: dict[int, list[Node]] = {index: [] for index in expanded}
        for search in self._open:
            search.expansions = []
        for (search, expansion), texts in zip(asked, answers, strict=True):
            tree, before = search.tree, len(search.tree.nodes)
            for number, text in enumerate(texts):
                self._add(tree, expansion, number, text)
            found = tree.nodes[before:]
            new[search.index] += found
            if texts and not found and not expansion.to_end:
                search.expansions.append(Expansion(expansion.node, 1, to_end=True))
        return [(search, new[search.index]) for search in self._open if search.index in new]

    def _add(self, tree: SearchTree, expansion: Expansion, number: int, text: GeneratedText) -> None:
        tree.samples += 1
        tree.sampled_tokens += text.completion_tokens
        step = text.text.strip()
        goes_on = text.stopped_at is not None
        if (goes_on and not step) or not self.is_readable(step):
            tree.dropped += 1
            return
        node = expansion.node
        group = number % self.options.groups if node.parent is None else node.group
        tree.add(node, step, None if goes_on else text.finish_reason, text.completion_tokens, group)

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

    def _sample(
        self, requests: Sequence[GenerationRequest], searches: Sequence[QuestionSearch]
    ) -> list[list[GeneratedText]]:
        def leave_out(number: int, problem: PromptRefusedError) -> None:
            index = searches[number].index
            if self.searches[index] is not None:
                self.batch.leave_out(self.batch.prompts[index], problem)
                self.searches[index] = None

        answers = answers_to(self.engine, requests, self.sampling, leave_out)
        for search, texts in zip(searches, answers, strict=True):
            if texts:
                search.costs.add(texts, is_solution=False)
        return answers

    def _look_ahead(self, new: Sequence[tuple[QuestionSearch, Node]]) -> dict[Node, str]:
        """What each new beginning goes on with, some steps, written greedily."""
        greedy = replace(self.sampling, temperature=0.0, top_p=1.0, top_k=None)
        ahead: dict[Node, str] = {node: node.text for _, node in new}
        tokens = {node: node.path_tokens for _, node in new}
        going = [(search, node) for search, node in new if node.ended is None]
        for _ in range(self.options.lookahead):
            requests = [
                self._continuing(
                    search, ahead[node], [f"{self._key(search, ahead[node])}/ahead/0"], tokens[node], greedy
                )
                for search, node in going
            ]
            answers = self._sample(requests, [search for search, _ in going])
            still = []
            for (search, node), texts in zip(going, answers, strict=True):
                for text in texts:  # one, or none of a prompt that is left out
                    search.tree.sampled_tokens += text.completion_tokens
                    search.tree.lookahead_tokens += text.completion_tokens
                    tokens[node] += text.completion_tokens
                    if step := text.text.strip():
                        ahead[node] = f"{ahead[node]}{STEP_SEPARATOR}{step}"
                        still += [(search, node)] if text.stopped_at is not None else []
            going = still
        return ahead

    # ----------------------------------------------------------------- scoring

    def _score(self, new: Sequence[tuple[QuestionSearch, list[Node]]], ahead: dict[Node, str]) -> None:
        texts = [(search.index, [ahead[node] for node in nodes]) for search, nodes in new]
        for (_, nodes), of_nodes in zip(new, self.score(texts) if texts else [], strict=True):
            for node, scores in zip(nodes, of_nodes, strict=True):
                node.value = aggregate_step_scores(scores, self.aggregation)
                # Merging more steps than the protocol permits may leave fewer scores than steps.
                node.step_scores = scores[: node.depth] if ahead[node] != node.text else scores
