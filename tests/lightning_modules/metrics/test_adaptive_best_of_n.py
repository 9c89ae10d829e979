import itertools
import math

import numpy as np
import pytest

from lightning_modules.metrics import adaptive_best_of_n
from lightning_modules.metrics.adaptive_best_of_n import (
    StoredCandidates,
    sample_until_safe,
    saving_at_equal_accuracy,
    selective_accuracies,
)


def stored(scores, uncertainties, correct, costs):
    return StoredCandidates(*(np.array(each, dtype) for each, dtype in (
        (scores, float), (uncertainties, float), (correct, bool), (costs, float))))  # fmt: skip


def all_orders(scores, uncertainties, correct, costs, bound, z):
    """Accuracy, candidates and cost of one question, drawn candidate by candidate, over every order."""
    found = []
    for order in itertools.permutations(range(len(scores))):
        best, spent, number = None, 0.0, 0
        for index in order:
            number, spent = number + 1, spent + costs[index]
            best = index if best is None or scores[index] > scores[best] else best
            if scores[index] - z * uncertainties[index] >= bound:
                break
        found.append((correct[best], number, spent))
    return [sum(column) / len(found) for column in zip(*found, strict=True)]


@pytest.mark.parametrize(("bound", "z"), [(0.5, 0.0), (0.5, 1.0), (0.75, 2.0), (math.inf, 1.0), (-1.0, 0.0)])
def test_against_every_order(monkeypatch, bound, z):
    monkeypatch.setattr(adaptive_best_of_n, "ORDERS", 4000)
    question = ([0.9, 0.6, 0.3], [0.3, 0.05, 0.0], [False, True, True], [5.0, 7.0, 11.0])
    found = sample_until_safe(stored(*([each] for each in question)), bound, z, seed=0)
    expected = all_orders(*question, bound, z)
    assert [found.accuracy[0], found.candidates[0], found.cost[0]] == pytest.approx(expected, rel=0.06)
    if bound == math.inf:
        assert (found.accuracy[0], found.candidates[0], found.cost[0]) == (0.0, 3.0, 23.0)


def test_certain_winners_are_found_early():
    """A right candidate has score 1 and no uncertainty; wrong ones are unsure of higher scores than some right ones."""
    generator = np.random.default_rng(0)
    correct = generator.random((200, 8)) < 0.5
    scores = np.where(correct, 0.9, generator.uniform(0.2, 0.89, (200, 8)))
    unsure = np.where(correct, 0.0, 0.4)
    found = saving_at_equal_accuracy(stored(scores, unsure, correct, np.full((200, 8), 10.0)), z=1.0)
    assert found.accuracy == found.full_accuracy
    assert found.difference == (0, 0)
    # The first right one ends the search: on average the second of eight.
    assert 1.8 < found.candidates < 2.2
    assert found.saved_candidates == pytest.approx(1 - found.candidates / 8)
    assert found.saved_cost == pytest.approx(found.saved_candidates)


def test_a_bound_is_never_chosen_on_its_own_questions():
    """Scores that say nothing: whatever is saved may cost accuracy, and the interval is of the differences."""
    generator = np.random.default_rng(1)
    correct = generator.random((60, 4)) < 0.5
    found = saving_at_equal_accuracy(
        stored(generator.random((60, 4)), np.zeros((60, 4)), correct, np.ones((60, 4))), 1.0
    )
    assert found.difference[0] <= found.accuracy - found.full_accuracy <= found.difference[1]
    assert 1 <= found.candidates <= 4


def test_selective_accuracies_by_hand():
    correct, doubt = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.1, 0.9, 0.2, 0.3])
    assert selective_accuracies(correct, doubt, [1.0, 0.75, 0.5, 0.1]) == [0.5, pytest.approx(2 / 3), 1.0, 1.0]
