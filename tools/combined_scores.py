"""Scores of two critics as one: a reward model's probability, and how likely the policy finds the candidate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lightning_modules.callbacks.candidate_scores import CandidateScore

LEAST_PROBABILITY = 1e-6
"""Scores of a reward model below this are taken for it, as 0 has no logarithm."""


def combined_scores(
    model: Sequence[CandidateScore], other: Sequence[CandidateScore], weight: float
) -> list[CandidateScore]:
    """For each candidate the logarithm of the model's response score plus the weighted score of another critic.

    With the log-probabilities of :class:`lightning_modules.response_likelihood.ResponseLikelihood` and weight 1 that is
    the logarithm of a product of probabilities: that a candidate is right, and, a token, that the policy writes it.

    Args:
        model: Scores of a reward model, in [0, 1].
        other: Scores of the other critic on the same candidates, in any order.
        weight: Of the other critic.

    Raises:
        ValueError: If a candidate has no score of the other critic, or one of another response, or the model's score is
            no probability; names the first and says how many there are.
    """
    found = {_key(each): each for each in other}
    missing = [each for each in model if _key(each) not in found]
    others = [
        each
        for each in model
        if _key(each) in found and len({each.response_digest, found[_key(each)].response_digest} - {""}) > 1
    ]
    unfit = [each for each in model if not 0 <= each.response_score <= 1]
    for problem, rows in (
        ("have no score of the other critic", missing),
        ("have a score of another response there", others),
        ("have a score outside [0, 1] here, which is no probability", unfit),
    ):
        if rows:
            raise ValueError(f"{len(rows)} of {len(model)} candidates {problem}, the first is {_name(rows[0])}")
    combined = []
    for each in model:
        score = math.log(max(each.response_score, LEAST_PROBABILITY)) + weight * found[_key(each)].response_score
        combined.append(replace(each, step_scores=[score], response_score=score))
    return combined


def _key(score: CandidateScore) -> tuple[str, str, int]:
    return score.benchmark, score.question_id, score.sample_index


def _name(score: CandidateScore) -> str:
    return f"{score.benchmark} question {score.question_id!r}, sample_index {score.sample_index}"
