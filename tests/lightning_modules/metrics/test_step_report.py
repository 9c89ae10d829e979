import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from lightning_modules.metrics.step_report import ScoredSolution, StepIndexMetrics, step_report
from lightning_modules.metrics.step_threshold import StepThreshold

HALF = StepThreshold(0.5)

WORKED = [
    ScoredSolution("a", "MMMU", [0.9, 0.4, 0.1], [1, 1, -1]),
    ScoredSolution("b", "DynaMath", [0.7, 0.2, 0.6], [-1, 0, 1]),
    ScoredSolution("c", "MMMU", [0.8], [1]),
]


def test_worked_example():
    report = step_report(WORKED, HALF)
    assert list(report.sources) == ["DynaMath", "MMMU"]
    # Judged correct: .9 (right), .7 (false), .6 (right), .8 (right); judged wrong: .4 (false), .1 (right).
    assert report.overall.correct_f1 == pytest.approx(2 * 3 / (2 * 3 + 2))
    assert report.overall.wrong_f1 == pytest.approx(2 * 1 / (2 * 1 + 2))
    assert report.overall.macro_f1 == pytest.approx((0.75 + 0.5) / 2)
    assert report.overall.accuracy == pytest.approx(4 / 6)
    assert report.overall.auroc == pytest.approx(6 / 8)
    assert (report.overall.correct_steps, report.overall.wrong_steps, report.overall.neutral_steps) == (4, 2, 1)
    assert report.sources["MMMU"].macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert report.sources["MMMU"].solutions == 2
    assert report.sources["DynaMath"].auroc == 0


def test_threshold_moves_the_judgement():
    strict = step_report(WORKED, StepThreshold(0.85)).overall
    assert (strict.correct_f1, strict.wrong_f1) == pytest.approx((2 / 5, 4 / 7))


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from([-1, 0, 1])), min_size=1, max_size=6),
        min_size=1,
        max_size=6,
    )
)
def test_pooled_numbers_against_scikit_learn(solutions):
    rows = [
        ScoredSolution(str(number), str(number % 2), [score for score, _ in steps], [label for _, label in steps])
        for number, steps in enumerate(solutions)
    ]
    overall = step_report(rows, HALF).overall
    decided = [(score, label == 1) for steps in solutions for score, label in steps if label]
    truth = [label for _, label in decided]
    if not decided:
        assert overall.macro_f1 == 0
        return
    judged = [score >= 0.5 for score, _ in decided]
    expected = f1_score(truth, judged, labels=[False, True], average="macro", zero_division=0)
    assert overall.macro_f1 == pytest.approx(expected, abs=1e-6)
    scores = [score for score, _ in decided]
    if len(set(truth)) == 2:
        assert overall.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
        correct = average_precision_score(truth, scores)
        assert overall.correct_average_precision == pytest.approx(correct, abs=1e-5)
        wrong = average_precision_score([not label for label in truth], [1 - score for score in scores])
        assert overall.wrong_average_precision == pytest.approx(wrong, abs=1e-5)
    else:
        assert overall.auroc is overall.correct_average_precision is overall.wrong_average_precision is None


def test_dictionary():
    report = step_report([*WORKED, ScoredSolution("d", "WeMath", [0.5], [1])], HALF)
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert stored["sources"]["MMMU"]["correct_steps"] == 3
    assert (stored["threshold"], stored["threshold_source"], stored["threshold_chosen_on"]) == (0.5, "fixed", "")
    assert stored["by_step_index"][0] == {
        "step_index": 0,
        "steps": 4,
        "wrong_steps": 1,
        "error_rate": 0.25,
        "wrong_recall": 0.0,
        "correct_recall": 1.0,
    }
    assert sum(entry["steps"] for entry in stored["calibration"]) == 7


def test_errors_by_place_of_the_step():
    # Place 0: .9 and .8 correct, .7 wrong but passed; 1: .4 correct but judged wrong, .2 neutral;
    # 2: .1 wrong, .6 right.
    assert step_report(WORKED, HALF).by_step_index == [
        StepIndexMetrics(0, 3, 1, pytest.approx(1 / 3), 0.0, 1.0),
        StepIndexMetrics(1, 1, 0, 0.0, None, 0.0),
        StepIndexMetrics(2, 2, 1, 0.5, 1.0, 1.0),
    ]


def test_places_without_steps_that_count_are_left_out():
    solutions = [ScoredSolution("a", "MMMU", [0.5, 0.5, 0.1], [0, 1, -1])]
    assert [row.step_index for row in step_report(solutions, HALF).by_step_index] == [1, 2]


def test_the_oracle_threshold_says_what_it_is():
    """Cut between .1 and .4: only .7 is judged wrongly."""
    report = step_report(WORKED, None)
    assert report.threshold == StepThreshold((0.1 + 0.4) / 2, "oracle", "the benchmark itself")
    assert report.overall.macro_f1 == pytest.approx((2 * 4 / (8 + 1) + 2 * 1 / (2 + 1)) / 2)
    assert report.to_dict()["threshold_source"] == "oracle"
    assert report.overall.macro_f1 >= step_report(WORKED, HALF).overall.macro_f1
    with pytest.raises(ValueError, match="all 1 are correct"):
        step_report(WORKED[2:], None)


def test_bad_rows_are_refused_by_name():
    with pytest.raises(ValueError, match=r"x, step 1: the score is nan"):
        ScoredSolution("x", "MMMU", [0.5, float("nan")], [1, 1])
    with pytest.raises(ValueError, match=r"x, step 0: correctness must be 1, 0 or -1, got 2"):
        ScoredSolution("x", "MMMU", [0.5], [2])
    with pytest.raises(ValueError, match="x: 1 scores for 2 labels"):
        ScoredSolution("x", "MMMU", [0.5], [1, 1])
    with pytest.raises(ValueError, match="no solutions"):
        step_report([], HALF)
