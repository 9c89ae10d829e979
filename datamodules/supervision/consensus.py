"""Whose verdict on a step counts where a row holds two: that of Monte Carlo, of a judge, or of both.

A judge's verdict on a step is its field ``judge``, in [0, 1] and right above 0.5, absent or null where there is none.
``visualprm-data agree`` writes it from a second annotation, such as that of a stronger policy (Athena-PRM,
arXiv 2506.09532, keeps what a weak and a strong policy agree on); a model may write it, too (VL-PRM300K,
arXiv 2509.23250).
"""

from __future__ import annotations

import math
from typing import Literal

Consensus = Literal["monte_carlo", "judge", "agreement"]


def score_by(consensus: Consensus, score: float, judge: float | None) -> float:
    """The score of a step that counts; NaN where there is none, so that the step has no label.

    >>> score_by("judge", 0.25, 0.0), score_by("agreement", 0.25, 1.0), score_by("agreement", 0.25, 0.0)
    (0.0, 0.25, nan)

    Args:
        consensus: ``monte_carlo``: the Monte Carlo score. ``judge``: the judge's verdict. ``agreement``: the Monte
            Carlo score where it is above 0 and the judge says right, or is 0 and the judge says wrong.
        score: Monte Carlo score in [0, 1]; NaN where there is none.
        judge: The judge's verdict, 1.0 or 0.0.
    """
    if consensus == "monte_carlo":
        return score
    if judge is None:
        return math.nan
    if consensus == "judge":
        return judge
    return score if (score > 0) == (judge > 0) else math.nan
