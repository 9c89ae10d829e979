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
        step_uncertainties: In the same order the uncertainties of the scores; None if the model learns none.
        before_calibration: The same before the model's calibration; None if it has none, or for candidates.
    """

    step_scores: list[list[Tensor]]
    before_calibration: list[list[Tensor]] | None = None
    step_uncertainties: list[list[Tensor]] | None = None

    @property
    def uncalibrated_scores(self) -> list[list[Tensor]]:
        """The scores before any calibration."""
        return self.step_scores if self.before_calibration is None else self.before_calibration

    @classmethod
    def of_conversations(
        cls, scores: Tensor, step_positions: Tensor, before_calibration: Tensor | None = None
    ) -> ScoredBatch:
        """The scores of B conversations.

        Args:
            scores: (B, S), any value at padding.
            step_positions: (B, S), negative at padding.
            before_calibration: (B, S), the same before a calibration; None if there is none.
        """
        is_step = (step_positions >= 0).cpu()
        both = [
            None if values is None else [[row[mask]] for row, mask in zip(values.detach().cpu(), is_step, strict=True)]
            for values in (scores, before_calibration)
        ]
        return cls(both[0] or [], both[1])
