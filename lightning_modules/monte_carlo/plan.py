"""What an annotation draws: numbers of samples, how solutions are cut and continued, and when a step has enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from datamodules.conversation.reading_rules import WhiteSpace
from datamodules.conversation.steps import DEFAULT_MAX_STEPS, STEP_SEPARATOR, response_steps
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.monte_carlo.search import Search, steps_to_score
from lightning_modules.monte_carlo.stopping import Confidence, StoppingRule, stops_at

ContinueAfter = Literal["separator", "step"]


@dataclass(frozen=True)
class AnnotationPlan:
    """See :class:`lightning_modules.annotation.MonteCarloAnnotator` for its attributes.

    Raises:
        ValueError: If a number is below 1.
    """

    num_solutions: int
    num_continuations: int
    sampling: SamplingParameters
    solution_sampling: SamplingParameters
    max_steps: int = DEFAULT_MAX_STEPS
    continue_last_step: bool = False
    continue_after: ContinueAfter = "separator"
    white_space: WhiteSpace = "ours"
    early_stop: bool = False
    stopping: StoppingRule = "all"
    confidence: Confidence = field(default_factory=Confidence)
    search: Search = "linear"

    def __post_init__(self) -> None:
        for name in ("num_solutions", "num_continuations", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def split(self, text: str) -> list[str]:
        """The steps of a solution; an empty one is one empty step."""
        return response_steps(text, self.max_steps, white_space=self.white_space)

    def prefix(self, steps: Sequence[str], count: int) -> str:
        """The first ``count`` steps of a solution, as they are continued."""
        has_separator = self.continue_after == "separator" and count < len(steps)
        return STEP_SEPARATOR.join(steps[:count]) + (STEP_SEPARATOR if has_separator else "")

    def num_continued(self, steps: Sequence[str]) -> int:
        """How many steps of a solution continuations are drawn from."""
        return len(steps) if self.continue_last_step else len(steps) - 1

    def open_steps(self, steps: Sequence[str], known: Mapping[int, bool]) -> list[int]:
        """Steps of a solution that are to be continued now; see :func:`.search.steps_to_score`."""
        return steps_to_score(self.search, self.early_stop, known, len(steps), self.num_continued(steps))

    def stops_at(self, is_right: Sequence[bool]) -> int | None:
        """How many continuations of a step count; see :func:`.stopping.stops_at`."""
        return stops_at(is_right, self.num_continuations, self.stopping, self.confidence)

    @property
    def marks(self) -> dict[str, Any]:
        """What the rows say about how they were sampled; nothing where every step has K continuations."""
        stopping = {} if self.stopping == "all" else {"num_mc_stopping": self.stopping}
        return stopping | ({} if self.search == "linear" else {"num_mc_search": self.search})
