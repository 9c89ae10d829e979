"""What a search does, as a configuration says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_modules.metrics.response_score import Aggregation

Method = Literal["beam", "best_first"]


@dataclass(frozen=True)
class SearchOptions:
    """How a tree of steps is searched.

    Beam search keeps the best beginnings of equal length (Snell et al., arXiv 2408.03314, section 5.2, also for
    lookahead). Groups make beams diverse: each searches a tree of its own (DVTS of Hugging Face's search-and-learn).
    Best-first search goes on from the best beginning of any length.

    Attributes:
        method: ``beam`` or ``best_first``.
        width: Beams that are kept, at least 1. Beam search only.
        expansion: Next steps that are sampled from each beginning, at least 1. Beam search samples ``width`` times as
            many first steps.
        groups: Groups of beams which do not compete; must divide ``width``. Beam search only.
        lookahead: Steps that are written greedily behind each new step before it is valued, at least 0. They are
            thrown away.
        value: What the scores of steps make of a beginning; by default what the reward model makes of a response.
            Snell et al. take ``last``.
        max_depth: Behind so many steps a solution is written to its end in one go.
        max_expansions: Beginnings that are gone on from, at most. Best-first only.
        solutions: Finished solutions after which it ends. Best-first only.

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
