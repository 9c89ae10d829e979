import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.metrics.response_score import AGGREGATIONS, aggregate_step_scores
from lightning_modules.metrics.selection import QuestionCandidates, majority_index, method_accuracies, method_names

EXAMPLE = QuestionCandidates(
    benchmark="MathVista",
    question_id="7",
    #            mean 0.5     0.6   0.6         0.55
    step_scores=[[0.1, 0.9], [0.6], [0.9, 0.3], [0.5, 0.6]],
    is_correct=[False, True, False, True],
    answer_classes=[0, 1, -1, 1],
    outcome_scores=[0.2, 0.1, 0.9, 0.8],
)


@st.composite
def candidates(draw, with_outcome=True):
    count = 8
    # Few different values, so that ties are common.
    value = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    steps = draw(st.lists(st.lists(value, min_size=1, max_size=4), min_size=count, max_size=count))
    classes = draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count))
    right = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    outcome = draw(st.lists(value, min_size=count, max_size=count)) if with_outcome else None
    return QuestionCandidates("b", "q", steps, right, classes, outcome)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([3], 0),
        ([0, 1, 1], 1),
        ([2, 0, 0, 2], 0),  # a tie: class 2 was given first
        ([-1, -1, 5], 2),  # two that cannot be read do not outvote one that can
        ([-1, -1], 0),
        ([-1, 4, 2, 2, 4, 2], 2),
    ],
)
def test_majority(classes, expected):
    assert majority_index(classes) == expected


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=10))
def test_majority_against_counting(classes):
    counts = Counter(answer for answer in classes if answer != -1)
    winner = classes[majority_index(classes)]
    if counts:
        best = {answer for answer, votes in counts.items() if votes == max(counts.values())}
        assert winner == next(answer for answer in classes if answer in best)
        assert majority_index(classes) == classes.index(winner)
    else:
        assert majority_index(classes) == 0


def test_worked_example():
    aggregations = ("mean", "min", "max", "last", "product")
    result = method_accuracies([EXAMPLE], (1, 2, 4), aggregations)
    names = method_names(aggregations, with_outcome=True)
    table = {name: result[0, :, column].tolist() for column, name in enumerate(names)}
    assert table == {
        "pass_at_1": [0.5, 0.5, 0.5],
        "random_choice": [0, 0.5, 0.5],
        "self_consistency": [0, 0, 1],  # n = 2 is a tie of classes 0 and 1
        "outcome": [0, 0, 0],
        "prm_mean": [0, 1, 1],  # n = 4: candidates 1 and 2 tie at 0.6
        "prm_min": [0, 1, 1],
        "prm_max": [0, 0, 0],
        "prm_last": [0, 0, 0],
        "prm_product": [0, 1, 1],
        "pass_at_n": [0, 1, 1],
    }


@given(st.lists(candidates(), min_size=1, max_size=5))
def test_against_brute_force(questions):
    ns = (1, 2, 4, 8)
    result = method_accuracies(questions, ns, AGGREGATIONS)
    names = method_names(AGGREGATIONS, with_outcome=True)
    assert result.shape == (len(questions), 4, len(names))
    for row, question in enumerate(questions):
        for middle, n in enumerate(ns):
            right = question.is_correct[:n]
            scores = {
                f"prm_{how}": [aggregate_step_scores(s, how) for s in question.step_scores] for how in AGGREGATIONS
            }
            scores["outcome"] = question.outcome_scores
            for column, name in enumerate(names):
                if name in scores:
                    best = sorted(range(n), key=lambda index: (-scores[name][index], index))[0]
                    expected = right[best]
                elif name == "self_consistency":
                    expected = right[majority_index(question.answer_classes[:n])]
                else:
                    expected = {
                        "pass_at_1": np.mean(question.is_correct),
                        "random_choice": np.mean(right),
                        "pass_at_n": any(right),
                    }[name]
                assert result[row, middle, column] == pytest.approx(float(expected))


@given(st.lists(candidates(with_outcome=False), min_size=1, max_size=4))
def test_no_method_beats_pass_at_n_and_all_agree_on_one_candidate(questions):
    result = method_accuracies(questions, (1, 4, 8), AGGREGATIONS)
    assert (result <= result[:, :, -1:] + 1e-12)[:, 2].all()
    assert (result[:, 0, 1:] == result[:, 0, 1:2]).all()


def test_bad_questions_are_refused_by_name():
    with pytest.raises(ValueError, match=r"MathVista question '7': 4 candidates, Best-of-8 needs 8"):
        method_accuracies([EXAMPLE], (8,), ["mean"])
    with pytest.raises(ValueError, match="for all questions or for none"):
        method_accuracies([EXAMPLE, dataclasses.replace(EXAMPLE, outcome_scores=None)], (1,), ["mean"])
    with pytest.raises(ValueError, match="outcome scores must be finite"):
        method_accuracies([dataclasses.replace(EXAMPLE, outcome_scores=[float("nan")] * 4)], (1,), ["mean"])
    broken = dataclasses.replace(EXAMPLE, step_scores=[[0.5], [float("nan")], [0.5], []])
    with pytest.raises(ValueError, match=r"MathVista question '7', candidate 1: step 0 has the score nan"):
        method_accuracies([broken], (1,), ["mean"])
    with pytest.raises(ValueError, match=r"'is_correct': 1"):
        dataclasses.replace(EXAMPLE, is_correct=[True])
    with pytest.raises(ValueError, match="N >= 1"):
        QuestionCandidates("b", "q", [], [], [])
