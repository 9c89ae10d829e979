import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from lightning_modules.metrics.step_report import JudgedSolution, step_report

WORKED = [
    JudgedSolution("a", "MMMU", [0.9, 0.4, 0.1], [1, 1, -1]),
    JudgedSolution("b", "DynaMath", [0.7, 0.2, 0.6], [-1, 0, 1]),
    JudgedSolution("c", "MMMU", [0.8], [1]),
]


def test_worked_example():
    report = step_report(WORKED, threshold=0.5)
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
    strict = step_report(WORKED, threshold=0.85).overall
    assert (strict.correct_f1, strict.wrong_f1) == pytest.approx((2 / 5, 4 / 7))


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from([-1, 0, 1])), min_size=1, max_size=6),
        min_size=1,
        max_size=6,
    )
)
def test_pooled_numbers_against_scikit_learn(solutions):
    rows = [
        JudgedSolution(str(number), str(number % 2), [score for score, _ in steps], [label for _, label in steps])
        for number, steps in enumerate(solutions)
    ]
    overall = step_report(rows, threshold=0.5).overall
    decided = [(score, label == 1) for steps in solutions for score, label in steps if label]
    truth = [label for _, label in decided]
    if not decided:
        assert overall.macro_f1 == 0
        return
    judged = [score >= 0.5 for score, _ in decided]
    expected = f1_score(truth, judged, labels=[False, True], average="macro", zero_division=0)
    assert overall.macro_f1 == pytest.approx(expected, abs=1e-6)
    if len(set(truth)) == 2:
        assert overall.auroc == pytest.approx(roc_auc_score(truth, [score for score, _ in decided]), abs=1e-6)
    else:
        assert overall.auroc is None


def test_table_and_dictionary():
    report = step_report([*WORKED, JudgedSolution("d", "WeMath", [0.5], [1])], threshold=0.5)
    table = report.to_table()
    assert [row[0].text for row in table.rows] == ["DynaMath", "MMMU", "WeMath", "Overall"]
    assert table.rows[2][5].text == "-"
    assert [cell.text for cell in table.rows[1]] == ["MMMU", "73.3", "80.0", "66.7", "75.0", "100.0", "4", "2"]
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert stored["sources"]["MMMU"]["correct_steps"] == 3
    assert stored["threshold"] == 0.5


def test_bad_rows_are_refused_by_name():
    with pytest.raises(ValueError, match=r"x, step 1: the score is nan"):
        JudgedSolution("x", "MMMU", [0.5, float("nan")], [1, 1])
    with pytest.raises(ValueError, match=r"x, step 0: correctness must be 1, 0 or -1, got 2"):
        JudgedSolution("x", "MMMU", [0.5], [2])
    with pytest.raises(ValueError, match="x: 1 scores for 2 labels"):
        JudgedSolution("x", "MMMU", [0.5], [1, 1])
    with pytest.raises(ValueError, match="no solutions"):
        step_report([], 0.5)
