"""Ways to choose what a search goes on from. They see values of nodes, and neither models nor texts.

To add one, write a class with :class:`Strategy`'s method and an entry of :data:`STRATEGIES`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from lightning_modules.search.options import Method, SearchOptions
from lightning_modules.search.tree import Node


class Expansion(NamedTuple):
    """What is to be sampled.

    Attributes:
        node: The beginning that is continued.
        samples: How many next steps.
        to_end: Write the rest of the solution instead of a step.
    """

    node: Node
    samples: int
    to_end: bool = False


class Strategy(Protocol):
    """The search for one question."""

    def next(self, new: Sequence[Node]) -> list[Expansion]:
        """What is expanded next; nothing when the search is over.

        Args:
            new: The nodes that the last expansions have made, with values; at first the root alone.
        """


class BeamSearch:
    """Keeps the best ``width`` beginnings of each length; solutions that have ended keep their place while they are.

    Args:
        options: Of the search.
    """

    def __init__(self, options: SearchOptions) -> None:
        self.options = options
        self._finished: list[Node] = []

    def next(self, new: Sequence[Node]) -> list[Expansion]:
        """See :class:`Strategy`."""
        options = self.options
        if len(new) == 1 and new[0].parent is None:
            return [Expansion(new[0], options.width * options.expansion)]
        kept: list[Node] = []
        for group in range(options.groups):
            rivals = [node for node in (*self._finished, *new) if node.group == group]
            kept += sorted(rivals, key=lambda node: node.order)[: options.width // options.groups]
        for node in kept:
            node.is_kept = True
        self._finished = [node for node in kept if node.ended is not None]
        return [Expansion(node, options.expansion) for node in kept if node.ended is None]


class BestFirstSearch:
    """Goes on from the beginning with the best value, whatever its length.

    Args:
        options: Of the search.
    """

    def __init__(self, options: SearchOptions) -> None:
        self.options = options
        self._open: list[tuple[tuple[float, int], Node]] = []
        self._finished = self._expanded = 0

    def next(self, new: Sequence[Node]) -> list[Expansion]:
        """See :class:`Strategy`; a search that has spent its expansions without a solution writes one to its end."""
        for node in new:
            if node.ended is None:
                heapq.heappush(self._open, (node.order, node))
            else:
                self._finished += 1
                node.is_kept = True
        if self._finished >= self.options.solutions or not self._open:
            return []
        is_spent = self._expanded >= self.options.max_expansions
        if is_spent and self._finished:
            return []
        node = heapq.heappop(self._open)[1]
        node.is_kept = True
        self._expanded += 1
        return [Expansion(node, 1, to_end=True) if is_spent else Expansion(node, self.options.expansion)]


STRATEGIES: Mapping[Method, Callable[[SearchOptions], Strategy]] = {"beam": BeamSearch, "best_first": BestFirstSearch}
