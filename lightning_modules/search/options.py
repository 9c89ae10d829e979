"""The settings of a step search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_modules.metrics.response_score import Aggregation

Method = Literal["beam", "best_first"]


@dataclass(frozen=True)
class SearchOptions:
    """How a tree of steps is searched.

    Beam search keeps the best partial solutions of equal length (Snell et al., arXiv 2408.03314, section 5.2, also for
    lookahead). Groups make beams diverse: each searches a tree of its own (DVTS of Hugging Face's search-and-learn).
    Best-first search continues the best partial solution of any length.

    Attributes:
        method: ``beam`` or ``best_first``.
        width: Beams that are kept, at least 1. Beam search only.
        expansion: Next steps that are sampled for each partial solution, at least 1. Beam search samples ``width``
            times as many first steps.
        groups: Groups of beams which do not compete; must divide ``width``. Beam search only.
        lookahead: Further steps that are decoded greedily to value a new step, and then dropped; at least 0.
        value: How the step scores of a partial solution become its value; by default the reward model's aggregation.
            Snell et al. take ``last``.
        max_depth: After so many steps the rest of a solution is sampled at once.
        max_expansions: Most partial solutions that are continued. Best-first search only.
        solutions: Number of finished solutions after which the search ends. Best-first search only.

    Raises:
        ValueError: If a number is out of range.
    """

    method: Method = "beam"
    width: int = 4
    expansion: int = 4
    groups: int = 1
    lookahead: int = 0
    value: Aggregation | None = None
    max_depth: int = 32
    max_expansions: int = 32
    solutions: int = 4

    def __post_init__(self) -> None:
        if self.method not in ("beam", "best_first"):
            raise ValueError(f"search.method must be beam or best_first, got {self.method!r}")
        for name in ("width", "expansion", "groups", "max_depth", "max_expansions", "solutions"):
            if getattr(self, name) < 1:
                raise ValueError(f"search.{name} must be at least 1, got {getattr(self, name)}")
        if self.lookahead < 0:
            raise ValueError(f"search.lookahead must be at least 0, got {self.lookahead}")
        if self.width % self.groups:
            raise ValueError(f"search.groups ({self.groups}) must divide search.width ({self.width})")
