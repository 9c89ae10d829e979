"""Best-of-N that stops sampling when the leader is safe, and abstention, on stored candidates.

Q questions, N candidates each, drawn one after the other. A candidate's safe score is its response score minus ``z``
times its uncertainty, after the adaptive allocation of BetaPRM (arXiv 2605.15529). Sampling stops at the first
candidate whose safe score reaches a bound; the best response score so far is picked. Models without uncertainties have
safe scores that are their scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metrics.bootstrap import Array, percentile_interval, resampled_means

ORDERS = 16
"""Random orders of the candidates that results are means over."""


@dataclass(frozen=True)
class StoredCandidates:
    """Candidates of one benchmark or of several.

    Attributes:
        scores: (Q, N) response scores.
        uncertainties: (Q, N), 0 for a model that learns none.
        correct: (Q, N) verdicts.
        costs: (Q, N) lengths of the responses.
    """

    scores: Array
    uncertainties: Array
    correct: NDArray[np.bool_]
    costs: Array


@dataclass(frozen=True)
class Outcome:
    """What sampling with a bound comes to; means over orders and questions, or (Q,) of each question.

    Attributes:
        accuracy: Share of questions whose pick is right.
        candidates: Number of candidates drawn.
        cost: Length of what was drawn.
    """

    accuracy: Array
    candidates: Array
    cost: Array


@dataclass(frozen=True)
class Saving:
    """Adaptive sampling against all N candidates.

    Attributes:
        accuracy: Of adaptive sampling.
        full_accuracy: Of all candidates.
        difference: 95 % interval of the first minus the second.
        candidates: Mean number of candidates drawn, of N.
        saved_candidates: Share of candidates that are not drawn.
        saved_cost: Share of their length.
    """

    accuracy: float
    full_accuracy: float
    difference: tuple[float, float]
    candidates: float
    saved_candidates: float
    saved_cost: float


def sample_until_safe(stored: StoredCandidates, bound: float, z: float, seed: int) -> Outcome:
    """Draw the candidates of every question in random orders until one is safe.

    Args:
        stored: The candidates.
        bound: Safe score that ends sampling; infinity for never.
        z: How many uncertainties a safe score is below the score.
        seed: Of the orders, which do not depend on the bound.

    Returns:
        (Q,) means over :data:`ORDERS` orders.
    """
    generator = np.random.default_rng(seed)
    questions, count = stored.scores.shape
    safe = stored.scores - z * stored.uncertainties
    found = np.zeros((3, questions))
    for _ in range(ORDERS):
        order = generator.permuted(np.tile(np.arange(count), (questions, 1)), axis=1)

        def drawn(values: NDArray, order: NDArray = order) -> NDArray:
            return np.take_along_axis(values, order, axis=1)

        is_safe = drawn(safe) >= bound
        last = np.where(is_safe.any(axis=1), is_safe.argmax(axis=1), count - 1)
        is_drawn = np.arange(count) <= last[:, None]
        picks = np.where(is_drawn, drawn(stored.scores), -np.inf).argmax(axis=1)
        rows = np.arange(questions)
        found += [drawn(stored.correct)[rows, picks], last + 1, (drawn(stored.costs) * is_drawn).sum(axis=1)]
    return Outcome(*(found / ORDERS))


def saving_at_equal_accuracy(stored: StoredCandidates, z: float, seed: int = 0, draws: int = 1000) -> Saving:
    """What adaptive sampling saves, with a bound that was chosen on other questions.

    The bound of each half of the questions is the lowest one at which the other half loses no accuracy. Bounds that are
    tried are quantiles of the safe scores.

    Args:
        stored: At least two questions.
        z: See :func:`sample_until_safe`.
        seed: Of the halves, the orders and the bootstrap.
        draws: Of the bootstrap over questions.
    """
    questions, count = stored.scores.shape
    safe = stored.scores - z * stored.uncertainties
    bounds = np.unique(np.quantile(safe, np.linspace(0, 1, 101)))
    halves = np.random.default_rng(seed).permutation(questions) % 2 == 0
    full = sample_until_safe(stored, np.inf, z, seed)
    tried = [sample_until_safe(stored, bound, z, seed) for bound in bounds]
    found = np.empty((3, questions))
    for half in (halves, ~halves):
        target = full.accuracy[~half].mean()
        chosen = next((each for each in tried if each.accuracy[~half].mean() >= target), full)
        for row, values in enumerate((chosen.accuracy, chosen.candidates, chosen.cost)):
            found[row, half] = values[half]
    units = np.stack([found[0], full.accuracy], axis=1)
    resampled = resampled_means(units, draws, np.random.default_rng(seed))
    low, high = percentile_interval((resampled[:, 0] - resampled[:, 1])[:, None])
    return Saving(
        accuracy=float(found[0].mean()),
        full_accuracy=float(full.accuracy.mean()),
        difference=(float(low[0]), float(high[0])),
        candidates=float(found[1].mean()),
        saved_candidates=1 - float(found[1].mean()) / count,
        saved_cost=1 - float(found[2].sum() / full.cost.sum()),
    )


def selective_accuracies(correct: Array, doubt: Array, coverages: Sequence[float]) -> list[float]:
    """Accuracy over the answered questions, if the most doubtful ones are not answered (selective prediction).

    Args:
        correct: (Q,) chances that the pick is right.
        doubt: (Q,) what decides; equal ones are kept in the order of the questions.
        coverages: Shares of questions to answer, in (0, 1]; at least one question is.
    """
    order = np.argsort(doubt, kind="stable")
    return [float(correct[order[: max(1, round(share * len(order)))]].mean()) for share in coverages]
