import math
import random

import pytest
import torch

from lightning_modules.distributed.gathering import SampleMeans
from lightning_modules.training.non_finite import NonFiniteError

ROWS = [("a", 2.0, 1.0), ("b", 3.0, 0.1), ("c", 0.0, 0.0), ("d", 1.0, 1e-9), ("e", 7.0, 1e9)]


def means_of(rows):
    means = SampleMeans()
    for begin in range(0, len(rows), 2):
        names, weights, losses = zip(*rows[begin : begin + 2], strict=True)
        means.update(names, torch.tensor(weights), loss=torch.tensor(losses, dtype=torch.double))
    return means.compute()


def test_means_over_labels_not_over_batches():
    assert means_of(ROWS[:3]) == {"loss": pytest.approx(1.1 / 5)}


def test_copies_and_order_change_nothing():
    expected = means_of(ROWS)
    assert expected["loss"] == math.fsum(row[2] for row in ROWS) / 13
    rng = random.Random(0)
    for _ in range(20):
        shuffled = rng.sample(ROWS, len(ROWS))
        assert means_of([*shuffled, *shuffled[:2]]) == expected


def test_nothing_and_nothing_twice():
    means = SampleMeans()
    assert means.compute() == {}
    means.update(["a"], torch.zeros(1), loss=torch.zeros(1))
    assert means.compute() == {"loss": 0.0}
    assert means.compute() == {}


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_its_sample(loss):
    with pytest.raises(
        NonFiniteError, match="the loss of 1 of 6 samples of this evaluation is not finite: rows:9;"
    ) as e:
        means_of([*ROWS, ("rows:9", 1.0, loss)])
    assert str(e.value.losses["rows:9"]) == str(loss)
