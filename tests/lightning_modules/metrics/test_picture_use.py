import random

import pytest
from sklearn.metrics import f1_score, roc_auc_score

from lightning_modules.metrics.picture_use import SHOWN, best_of_n_use, picture_use_table, step_judgement_uses


def test_best_of_n_by_hand():
    correct = [[True, False], [False, True], [True, True], [False, False]]
    scores = {
        "right": [[0.9, 0.1], [0.1, 0.9], [0.5, 0.4], [0.5, 0.6]],  # right on the first three
        "other": [[0.9, 0.1], [0.9, 0.1], [0.5, 0.4], [0.5, 0.6]],  # wrong on the second
        "none": [[0.1, 0.9], [0.9, 0.1], [0.5, 0.4], [0.5, 0.6]],
    }
    use = best_of_n_use("MMMU", scores, correct, seed=0, draws=200)
    assert dict(use.values) == {"right": 0.75, "other": 0.5, "none": 0.25}
    assert use.chance == (0.5 + 0.5 + 1 + 0) / 4
    assert use.difference == 0.25
    assert use.share == 1.0  # with other pictures it is at chance
    assert use.interval[0] == 0
    assert use.interval[1] > 0.25
    assert "| MMMU: Best-of-N |   50.0 |  75.0 |  50.0 | 25.0 |" in picture_use_table([use]).to_markdown()


def test_a_tie_goes_to_the_earlier_candidate():
    use = best_of_n_use("x", {kind: [[0.5, 0.5]] for kind in SHOWN}, [[True, False]], 0, 10)
    assert set(use.values.values()) == {1.0}
    assert (use.difference, use.share) == (0.0, 0.0)


def test_nothing_above_chance_has_no_share():
    use = best_of_n_use("x", {kind: [[0.1, 0.9]] for kind in SHOWN}, [[True, False]], 0, 10)
    assert use.share is None


def test_step_judgement_against_scikit_learn():
    rng = random.Random(0)
    correct = [[rng.random() < 0.6 for _ in range(rng.randint(1, 5))] for _ in range(40)]
    scores = {
        kind: [[round(rng.random() * 0.7 + 0.3 * label * weight, 2) for label in each] for each in correct]
        for kind, weight in zip(SHOWN, (1, 0.5, 0), strict=True)
    }
    auroc, f1 = step_judgement_uses("bench", scores, correct, 0.5, seed=0, draws=300)
    labels = [label for each in correct for label in each]
    for kind in SHOWN:
        flat = [score for each in scores[kind] for score in each]
        assert auroc.values[kind] == pytest.approx(roc_auc_score(labels, flat))
        assert f1.values[kind] == pytest.approx(f1_score(labels, [score >= 0.5 for score in flat], average="macro"))
    for use in (auroc, f1):
        assert use.interval[0] < use.difference < use.interval[1]
        assert use.items == 40
    assert auroc.share == pytest.approx(auroc.difference / (auroc.values["right"] - 0.5))
    assert f1.share is None
