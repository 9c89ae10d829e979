import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from lightning_modules.metrics.step_f1 import StepF1

JUDGEMENTS = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=40)


def scores_and_labels(pairs):
    return torch.tensor([score for score, _ in pairs]), torch.tensor([label for _, label in pairs])


def test_worked_example():
    metric = StepF1(threshold=0.5)
    # Judged correct: 0, 1, 3. True correct: 0, 3 right; 1 wrong. Judged wrong: 2 missed, 4 found.
    metric.update(torch.tensor([0.9, 0.8, 0.2, 0.5, 0.1]), torch.tensor([True, False, True, True, False]))
    result = {name: value.item() for name, value in metric.compute().items()}
    assert result == pytest.approx(
        {
            "correct_f1": 2 * 2 / (2 * 2 + 1 + 1),
            "wrong_f1": 2 * 1 / (2 * 1 + 1 + 1),
            "macro_f1": (2 / 3 + 1 / 2) / 2,
            "accuracy": 3 / 5,
            "correct_steps": 3,
            "wrong_steps": 2,
        }
    )


@given(JUDGEMENTS, st.floats(0, 1, width=32))
def test_against_scikit_learn(pairs, threshold):
    scores, labels = scores_and_labels(pairs)
    metric = StepF1(threshold)
    metric.update(scores, labels)
    result = metric.compute()
    judged = (scores >= threshold).numpy()
    truth = labels.numpy()
    wrong, correct = f1_score(truth, judged, labels=[False, True], average=None, zero_division=0)
    assert result["correct_f1"].item() == pytest.approx(correct, abs=1e-6)
    assert result["wrong_f1"].item() == pytest.approx(wrong, abs=1e-6)
    assert result["macro_f1"].item() == pytest.approx((correct + wrong) / 2, abs=1e-6)
    assert result["accuracy"].item() == pytest.approx(accuracy_score(truth, judged), abs=1e-6)


@given(JUDGEMENTS, JUDGEMENTS)
def test_parts_add_up_to_the_whole(first, second):
    whole, parts = StepF1(), StepF1()
    whole.update(*scores_and_labels(first + second))
    for part in (first, second):
        parts.update(*scores_and_labels(part))
    assert whole.compute() == parts.compute()


def test_nothing_counted_gives_zeros_and_no_nan():
    with pytest.warns(UserWarning, match="before the ``update``"):
        result = StepF1().compute()
    assert all(value.item() == 0 for value in result.values())


def test_bad_input_is_refused():
    metric = StepF1()
    with pytest.raises(ValueError, match="score 1 of 2 is NaN"):
        metric.update(torch.tensor([0.5, float("nan")]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"\(2,\), \(3,\)"):
        metric.update(torch.zeros(2), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"bool labels, got torch.int64"):
        metric.update(torch.zeros(2), torch.tensor([1, -1]))
    with pytest.raises(ValueError, match="got 85"):
        StepF1(threshold=85)
