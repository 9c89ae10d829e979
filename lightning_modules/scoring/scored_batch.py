"""What a reward model returns for a batch of validation or test data, whatever the kind of batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ScoredBatch:
    """Step scores of a batch, without padding. Callbacks read it as ``outputs``.

    Attributes:
        step_scores: For each sample of the batch, for each of its responses, the scores of the steps, (S,) on the CPU.
            A conversation has one response, a Best-of-N question has its N candidates.
    """

    step_scores: list[list[Tensor]]

    @classmethod
    def of_conversations(cls, scores: Tensor, step_positions: Tensor) -> ScoredBatch:
        """The scores of B conversations.

        Args:
            scores: (B, S), any value at padding.
            step_positions: (B, S), negative at padding.
        """
        is_step = (step_positions >= 0).cpu()
        return cls([[row[mask]] for row, mask in zip(scores.detach().cpu(), is_step, strict=True)])
