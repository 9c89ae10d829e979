import dataclasses
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.metrics.response_score import AGGREGATIONS, aggregate_step_scores
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.selection.methods import method_accuracies, method_label, methods_of
from lightning_modules.metrics.selection.pool import candidate_pool
from lightning_modules.metrics.selection.subsets import MOST_SUBSETS, rank_weights, subset_indices
from lightning_modules.metrics.selection.votes import majority_index

EXAMPLE = QuestionCandidates(
    benchmark="MathVista",
    question_id="7",
    #            mean 0.5     0.6   0.6         0.55
    step_scores=[[0.1, 0.9], [0.6], [0.9, 0.3], [0.5, 0.6]],
    is_correct=[False, True, False, True],
    answer_classes=[0, 1, -1, 1],
    outcome_scores=[0.2, 0.1, 0.9, 0.8],
)


def accuracies(questions, ns, aggregations, subsets="first", least_score=0.0):
    """(Q, len(ns)) accuracies by name of the method."""
    pool = candidate_pool(questions, max(ns), aggregations, subsets, least_score)
    found = method_accuracies(pool, list(ns))
    assert found.shape == (len(questions), len(ns), len(methods_of(pool)))
    return {method.name: found[..., column] for column, method in enumerate(methods_of(pool))}


@st.composite
def candidates(draw, with_outcome=True, count=8):
    # Few different values, so that ties are common.
    value = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    steps = draw(st.lists(st.lists(value, min_size=1, max_size=4), min_size=count, max_size=count))
    classes = draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count))
    right = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    outcome = draw(st.lists(value, min_size=count, max_size=count)) if with_outcome else None
    lengths = draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    return QuestionCandidates("b", "q", steps, right, classes, outcome, lengths=lengths)


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
    question = dataclasses.replace(EXAMPLE, critic_scores={"judge": [1, 0, 0, 2]}, lengths=[3, 2, 2, 9])
    table = accuracies([question], (1, 2, 4), ("mean", "min", "max", "last", "product"))
    assert {name: values[0].tolist() for name, values in table.items()} == {
        "pass_at_1": [0.5, 0.5, 0.5],
        "random_choice": [0, 0.5, 0.5],
        "shortest": [0, 1, 1],
        "longest": [0, 0, 1],
        "self_consistency": [0, 0, 1],  # n = 2 is a tie of classes 0 and 1
        "outcome": [0, 0, 0],
        "critic_judge": [0, 0, 1],
        "prm_mean": [0, 1, 1],  # n = 4: candidates 1 and 2 tie at 0.6
        "prm_min": [0, 1, 1],
        "prm_max": [0, 0, 0],
        "prm_last": [0, 0, 0],
        "prm_product": [0, 1, 1],
        "weighted_vote": [0, 1, 1],  # 0.5 for class 0; 0.6, and then 1.15, for class 1
        "best_answered": [0, 1, 1],
        "pass_at_n": [0, 1, 1],
    }
    # Over all subsets of 2: candidate 1 is the best of 3 of the 6, candidate 2 of 2 (it loses the tie), 3 of 1.
    over_all = accuracies([question], (2, 4), ["mean"], "all")
    assert over_all["prm_mean"][0].tolist() == pytest.approx([4 / 6, 1])
    assert over_all["pass_at_n"][0, 0] == pytest.approx(5 / 6)  # all but the pair of the two wrong ones
    # Pairs 01 02 03 12 13 23: ties go to the earlier answer, and candidate 2 has none.
    assert over_all["self_consistency"][0, 0] == pytest.approx(3 / 6)


def chosen(question, name, subset):
    """Whether the method is right on a subset of the candidates, in plain words."""
    right = [question.is_correct[index] for index in subset]
    classes = [question.answer_classes[index] for index in subset]
    means = [aggregate_step_scores(question.step_scores[index], "mean") for index in subset]

    def best(scores):
        return right[sorted(range(len(subset)), key=lambda index: (-scores[index], index))[0]]

    if name.startswith("prm_"):
        return best([aggregate_step_scores(question.step_scores[i], name.removeprefix("prm_")) for i in subset])
    if name == "outcome":
        return best([question.outcome_scores[index] for index in subset])
    if name in ("shortest", "longest"):
        return best([(1 if name == "longest" else -1) * question.lengths[index] for index in subset])
    if name == "self_consistency":
        return right[majority_index(classes)]
    if name == "pass_at_n":
        return any(right)
    if name == "random_choice":
        return np.mean(right)
    answered = [index for index, answer in enumerate(classes) if answer >= 0] or list(range(len(subset)))
    if name == "best_answered":
        return right[sorted(answered, key=lambda index: (-means[index], index))[0]]
    assert name == "weighted_vote"
    winner = None
    if any(answer >= 0 for answer in classes):
        support = {}
        for index in answered:
            support[classes[index]] = support.get(classes[index], 0) + means[index]
        winner = max(support, key=lambda answer: support[answer])
    members = [index for index in range(len(subset)) if winner is None or classes[index] == winner]
    return right[sorted(members, key=lambda index: (-means[index], index))[0]]


@given(st.lists(candidates(), min_size=1, max_size=5))
def test_first_candidates_against_brute_force(questions):
    ns = (1, 2, 4, 8)
    for name, values in accuracies(questions, ns, AGGREGATIONS).items():
        for row, question in enumerate(questions):
            for column, n in enumerate(ns):
                expected = np.mean(question.is_correct) if name == "pass_at_1" else chosen(question, name, range(n))
                assert values[row, column] == pytest.approx(float(expected)), name


@given(st.lists(candidates(count=6), min_size=1, max_size=3))
def test_all_subsets_against_brute_force(questions):
    ns = (1, 2, 3, 6)
    for name, values in accuracies(questions, ns, AGGREGATIONS, "all").items():
        for row, question in enumerate(questions):
            for column, n in enumerate(ns):
                verdicts = question.is_correct
                if name != "pass_at_1":
                    verdicts = [chosen(question, name, subset) for subset in combinations(range(6), n)]
                expected = np.mean(verdicts)
                assert values[row, column] == pytest.approx(float(expected)), name


def test_subsets_are_drawn_where_there_are_too_many():
    drawn = subset_indices("all", 16, 32)
    assert drawn.shape == (MOST_SUBSETS, 16)
    assert (np.diff(drawn, axis=1) > 0).all()
    assert len({tuple(subset) for subset in drawn.tolist()}) == MOST_SUBSETS
    # Each candidate is in half of them, give or take four standard deviations.
    assert np.abs(np.bincount(drawn.ravel(), minlength=32) / MOST_SUBSETS - 0.5).max() < 4 * 0.5 / MOST_SUBSETS**0.5
    assert subset_indices("first", 3, 8).tolist() == [[0, 1, 2]]
    assert rank_weights(64, 128).sum() == pytest.approx(1)


def test_votes_are_weighted_from_the_least_score_on():
    """An answer that two candidates give is not outvoted because their scores are below zero."""
    question = QuestionCandidates("b", "q", [[-0.1], [-0.2], [-0.3]], [False, True, True], [0, 1, 1])
    found = accuracies([question], (3,), ["mean"], least_score=-1.0)
    assert found["weighted_vote"].tolist() == [[1]]  # 0.8 + 0.7 against 0.9
    assert found["prm_mean"].tolist() == [[0]]


def test_labels():
    assert method_label("pass_at_n", 8) == "Pass@8"
    assert method_label("pass_at_n") == "Pass@N"
    assert method_label("prm_mean") == "PRM (mean)"
    assert method_label("prm_mean", critic="PRM advantage") == "PRM advantage (mean)"
    assert method_label("prm_mean", critic="ORM") == method_label("outcome") == "ORM"
    assert method_label("weighted_vote", critic="ORM") == "ORM vote"
    assert method_label("critic_GPT judge") == "GPT judge"


@given(st.lists(candidates(with_outcome=False), min_size=1, max_size=4))
def test_no_method_beats_pass_at_n_and_all_agree_on_one_candidate(questions):
    table = accuracies(questions, (1, 4, 8), AGGREGATIONS)
    for name, values in table.items():
        assert (values[:, 2] <= table["pass_at_n"][:, 2] + 1e-12).all()
        if name != "pass_at_1":
            assert (values[:, 0] == table["random_choice"][:, 0]).all()


def test_bad_questions_are_refused_by_name():
    with pytest.raises(ValueError, match=r"MathVista question '7': 4 candidates, Best-of-8 needs 8"):
        candidate_pool([EXAMPLE], 8, ["mean"])
    with pytest.raises(ValueError, match="for all questions or for none"):
        candidate_pool([EXAMPLE, dataclasses.replace(EXAMPLE, outcome_scores=None)], 1, ["mean"])
    with pytest.raises(ValueError, match="outcome scores must be finite"):
        candidate_pool([dataclasses.replace(EXAMPLE, outcome_scores=[float("nan")] * 4)], 1, ["mean"])
    with pytest.raises(ValueError, match="critic must be given for all questions or for none"):
        candidate_pool([EXAMPLE, dataclasses.replace(EXAMPLE, critic_scores={"judge": [1.0] * 4})], 1, ["mean"])
    with pytest.raises(ValueError, match="'scores of judge': 1"):
        dataclasses.replace(EXAMPLE, critic_scores={"judge": [1.0]})
    broken = dataclasses.replace(EXAMPLE, step_scores=[[0.5], [float("nan")], [0.5], []])
    with pytest.raises(ValueError, match=r"MathVista question '7', candidate 1: step 0 has the score nan"):
        candidate_pool([broken], 1, ["mean"])
    with pytest.raises(ValueError, match=r"'is_correct': 1"):
        dataclasses.replace(EXAMPLE, is_correct=[True])
    with pytest.raises(ValueError, match="N >= 1"):
        QuestionCandidates("b", "q", [], [], [])
