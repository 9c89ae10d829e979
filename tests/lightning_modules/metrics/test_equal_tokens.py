"""Worked by hand, and beside subsets that are drawn one by one."""

import itertools

import numpy as np
import pytest

from lightning_modules.metrics.equal_tokens import (
    BEST_OF_N,
    SEARCH,
    SearchedBenchmark,
    accuracies_at,
    equal_numbers,
    equal_tokens_report,
)
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.selection.methods import SELF_CONSISTENCY
from lightning_modules.metrics.selection.pool import candidate_pool

CORRECT = [[True, False, False, True], [False, False, True, False]]
CLASSES = [[0, 1, 1, 0], [0, 0, 1, 2]]
SCORES = [[0.9, 0.5, 0.1, 0.6], [0.2, 0.8, 0.7, 0.1]]


@pytest.fixture
def pool():
    rows = zip(CORRECT, CLASSES, SCORES, strict=True)
    questions = [
        QuestionCandidates("MMMU", str(n), [[score] for score in scores], right, classes)
        for n, (right, classes, scores) in enumerate(rows)
    ]
    return candidate_pool(questions, 4, ["mean"])


def best_of(question, n):
    """Mean over all subsets of n candidates of whether the best one is right."""
    subsets = list(itertools.combinations(range(4), n))
    return np.mean([CORRECT[question][max(subset, key=lambda i: SCORES[question][i])] for subset in subsets])


def test_numbers_with_as_many_tokens():
    numbers = equal_numbers(np.array([[30.0, 5.0], [60.0, 15.0]]), np.array([[8.0, 12.0], [10.0, 20.0]]))
    # 30 tokens are three candidates of 10 tokens on average; fewer than one candidate is one.
    assert numbers.tolist() == [[3.0, 1.0], [4.0, 1.0]]


def test_between_whole_numbers(pool):
    found = accuracies_at(pool, np.array([[2.0, 2.25], [1.0, 9.0]]))
    expected = [
        [best_of(0, 2), 0.75 * best_of(0, 2) + 0.25 * best_of(0, 3)],
        [best_of(1, 1), best_of(1, 4)],
    ]
    assert found[..., 0] == pytest.approx(np.array(expected))
    # Of all four of the second question the vote is for class 0, which is wrong.
    assert found[1, 1, 1] == 0.0


def test_accuracies_are_none_above_1():
    question = QuestionCandidates("MMMU", "q", [[0.5]] * 7, [True] * 7, [0] * 7)
    always = candidate_pool([question], 7, ["mean"])
    numbers = np.linspace(1, 7, 97)[None]
    found = accuracies_at(always, numbers)
    assert found.max() <= 1
    assert found == pytest.approx(np.ones((1, 97, 2)))


def test_a_report(pool):
    benchmark = SearchedBenchmark(
        correct=np.array([[1.0, 0.0], [1.0, 0.0]]),
        sampled_tokens=np.array([[20.0, 50.0], [20.0, 50.0]]),
        pool=pool,
        candidate_tokens=np.full((2, 4), 10.0),
        unit_scorer=lambda right: right,
    )
    report = equal_tokens_report({"MMMU": benchmark}, ["good", "bad"])
    expected = (best_of(0, 2) + best_of(1, 2)) / 2
    assert report.accuracies["MMMU", "good", SEARCH].value == 1.0
    assert report.accuracies["MMMU", "good", BEST_OF_N].value == pytest.approx(expected)
    difference = report.differences["overall", "good", BEST_OF_N]
    assert difference.value == pytest.approx(1 - expected)
    assert difference.low <= difference.value <= difference.high
    assert report.differences["all_questions", "bad", SELF_CONSISTENCY].value <= 0
    assert (report.tokens, report.numbers) == ({"good": 20.0, "bad": 50.0}, {"good": 2.0, "bad": 4.0})
    # 50 tokens are five candidates, and there are four.
    assert report.short == {"good": 0, "bad": 2}
    text = report.to_table().to_markdown()
    assert "good (20 tokens)" in text
    assert "bad: 2" in text
    assert report.to_dict()["searches"]["bad"] == {"tokens": 50.0, "candidates": 4.0, "short_questions": 2}
    with pytest.raises(ValueError, match="nothing to compare"):
        equal_tokens_report({}, [])
