"""The ways to choose a candidate: one entry each in METHODS, and no other list of them.

A method says how often it is right on each question with n of N candidates. Q questions, N candidates each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metrics.bootstrap import Array
from lightning_modules.metrics.selection.pool import OUTCOME, CandidatePool
from lightning_modules.metrics.selection.subsets import rank_weights, subset_indices
from lightning_modules.metrics.selection.votes import vote_picks

PASS_AT_1 = "pass_at_1"  # noqa: S105
RANDOM_CHOICE = "random_choice"
SHORTEST = "shortest"
LONGEST = "longest"
SELF_CONSISTENCY = "self_consistency"
WEIGHTED_VOTE = "weighted_vote"
BEST_ANSWERED = "best_answered"
PASS_AT_N = "pass_at_n"  # noqa: S105

Accuracies = Callable[[CandidatePool, int], Array]
"""``(pool, n)`` -> (Q,) chances of being right with n candidates, in [0, 1]."""


@dataclass(frozen=True)
class Method:
    """A way to choose.

    Attributes:
        name: Key in reports.
        label: Displayed name; ``{critic}`` stands for the reward model's name, ``{n}`` for the number of candidates.
        accuracies: See :data:`Accuracies`.
        fits: Whether a pool has what the method needs.
    """

    name: str
    label: str
    accuracies: Accuracies
    fits: Callable[[CandidatePool], bool] = lambda pool: True


def best_of(scores: Array, pool: CandidatePool, n: int) -> Array:
    """Chances that the candidate with the best score is right; in a tie the earlier one is chosen.

    Args:
        scores: (Q, N).
        pool: The candidates.
        n: Number of candidates to choose from.
    """
    if pool.subsets == "first":
        picks = scores[:, :n].argmax(axis=1)
        return pool.correct[np.arange(len(picks)), picks]
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(pool.correct, order, axis=1) @ rank_weights(n, pool.count)


def mean_over_subsets(pool: CandidatePool, n: int, pick: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Array:
    """Mean verdict on what a rule picks, over subsets of n candidates.

    Args:
        pool: The candidates.
        n: Number of candidates to choose from.
        pick: From (n,) indices of candidates to (Q,) places in them.
    """
    rows = np.arange(len(pool.correct))
    subsets = subset_indices(pool.subsets, n, pool.count)
    return np.mean([pool.correct[rows, subset[pick(subset)]] for subset in subsets], axis=0)


def _single(pool: CandidatePool, n: int) -> Array:
    return pool.single


def _random_choice(pool: CandidatePool, n: int) -> Array:
    return (pool.correct[:, :n] if pool.subsets == "first" else pool.correct).mean(axis=1)


def _any(pool: CandidatePool, n: int) -> Array:
    """Whether any candidate is right; over all subsets 1 - C(N - c, n) / C(N, n) with c right ones (Pass@k)."""
    return best_of(pool.correct, pool, n)


def _shortest(pool: CandidatePool, n: int) -> Array:
    return best_of(-_lengths(pool), pool, n)


def _longest(pool: CandidatePool, n: int) -> Array:
    return best_of(_lengths(pool), pool, n)


def _lengths(pool: CandidatePool) -> Array:
    if pool.lengths is None:
        raise ValueError("the candidates have no lengths")
    return pool.lengths


def _majority(pool: CandidatePool, n: int) -> Array:
    return mean_over_subsets(
        pool, n, lambda subset: vote_picks(pool.answer_classes[:, subset], np.ones((len(pool.correct), len(subset))))
    )


def _weighted_vote(pool: CandidatePool, n: int) -> Array:
    """Answers are weighted by the sum of the response scores, counted from the least possible one."""
    scores = pool.scores[pool.primary]
    weights = scores - pool.least_score
    return mean_over_subsets(
        pool,
        n,
        lambda subset: vote_picks(pool.answer_classes[:, subset], weights[:, subset], scores[:, subset]),
    )


def _best_answered(pool: CandidatePool, n: int) -> Array:
    """Answers are weighted by their best response score: the best candidate of those with a readable answer."""
    scores = pool.scores[pool.primary]
    is_read = pool.answer_classes >= 0
    # Without any answer the best of all is taken, so candidates without one come last, in the order of their scores.
    behind = scores - (scores.max() - scores.min() + 1)
    return best_of(np.where(is_read, scores, behind), pool, n)


def by_scores(name: str, label: str) -> Method:
    """The method that picks the candidate with the best of the pool's scores of that name."""
    return Method(name, label, lambda pool, n: best_of(pool.scores[name], pool, n))


def _has_lengths(pool: CandidatePool) -> bool:
    return pool.lengths is not None


_BEFORE = (
    Method(PASS_AT_1, "Pass@1", _single),
    Method(RANDOM_CHOICE, "Random choice", _random_choice),
    Method(SHORTEST, "Shortest response", _shortest, _has_lengths),
    Method(LONGEST, "Longest response", _longest, _has_lengths),
    Method(SELF_CONSISTENCY, "Self-consistency", _majority),
)
_AFTER = (
    Method(WEIGHTED_VOTE, "{critic} vote", _weighted_vote),
    Method(BEST_ANSWERED, "{critic} (answered)", _best_answered),
    Method(PASS_AT_N, "Pass@{n}", _any),
)

METHODS = {method.name: method for method in (*_BEFORE, *_AFTER)}
"""The methods that need no critic but the reward model itself; :func:`methods_of` adds one for each kind of scores."""


def methods_of(pool: CandidatePool) -> list[Method]:
    """The methods that a pool has all that is needed for, in the order of tables."""
    scores = [by_scores(name, method_label(name)) for name in pool.scores]
    return [method for method in (*_BEFORE, *scores, *_AFTER) if method.fits(pool)]


def method_label(name: str, n: int | None = None, critic: str = "PRM") -> str:
    """Displayed name of a method, e.g. ``PRM (mean)``.

    Args:
        name: Of the method.
        n: Completes ``Pass@N``.
        critic: What the reward model is, e.g. "PRM" or "ORM".
    """
    if name in METHODS:
        return METHODS[name].label.format(critic=critic, n="N" if n is None else n)
    if name == OUTCOME:
        return "ORM"
    if name.startswith("critic_"):
        return name.removeprefix("critic_")
    return critic if critic == "ORM" else f"{critic} ({name.removeprefix('prm_')})"


def method_accuracies(pool: CandidatePool, ns: list[int]) -> Array:
    """Accuracy of each method on each question with n candidates.

    Methods that pick one candidate get 0 or 1 on a subset of n; in a tie of scores the earlier candidate wins.
    ``pass_at_1`` is the mean over all candidates, whatever n is.

    Args:
        pool: Q questions with N candidates each.
        ns: Numbers of candidates, at most N.

    Returns:
        (Q, len(ns), M) values in [0, 1], for the M methods of :func:`methods_of`.
    """
    methods = methods_of(pool)
    return np.stack([np.stack([method.accuracies(pool, n) for method in methods], axis=1) for n in ns], axis=1)
