import math

import pytest
import torch

from lightning_modules.training.source_weights import SourceWeights, agreement


def test_agreement_by_hand():
    assert agreement(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 3.0])) == pytest.approx(math.sqrt(0.5))
    assert agreement(torch.tensor([1.0, 2.0]), torch.tensor([-2.0, -4.0])) == pytest.approx(-1)
    assert agreement(torch.zeros(2), torch.tensor([1.0, 2.0])) == 0


def test_weights_by_hand():
    found = SourceWeights(0.5, (0.1, 4.0))
    assert found.of(["a", "b"]).tolist() == [1.0, 1.0]
    found.update({"a": 1.0, "b": -1.0})
    high, low = math.exp(0.5), math.exp(-0.5)
    mean = (high + low) / 2
    assert found.weights == pytest.approx({"a": high / mean, "b": low / mean})
    assert found.of(["b", "a", "c"]).tolist() == pytest.approx([low / mean, high / mean, 1.0])
    # A new source begins at 1, and the mean stays 1.
    found.update({"c": 0.0})
    assert sum(found.weights.values()) == pytest.approx(3)
    assert found.weights["c"] == pytest.approx(1)


def test_bounds():
    found = SourceWeights(1.0, (0.25, 1.5))
    for _ in range(20):
        found.update({"a": 1.0, "b": -1.0})
    assert found.weights == {"a": 1.5, "b": 0.25}


def test_a_noisy_source_loses_weight():
    """Two sources of a linear model: one teaches what is validated on, the other the opposite."""
    torch.manual_seed(0)
    truth, head = torch.tensor([1.0, -1.0]), torch.zeros(2, requires_grad=True)
    found = SourceWeights(0.3, (0.1, 4.0))

    def loss(flip, count=64):
        inputs = torch.randn(count, 2)
        labels = ((inputs @ truth) > 0).float()
        return torch.nn.functional.binary_cross_entropy_with_logits(inputs @ head, 1 - labels if flip else labels)

    for _ in range(10):
        gradients = {name: torch.autograd.grad(loss(name == "noisy"), head)[0] for name in ("clean", "noisy")}
        target = torch.autograd.grad(loss(False), head)[0]
        found.update({name: agreement(gradient, target) for name, gradient in gradients.items()})
        total = sum(float(weight) * loss(name == "noisy") for name, weight in found.weights.items())
        head.data -= 0.5 * torch.autograd.grad(total, head)[0]
    assert found.weights["clean"] > 1.5
    assert found.weights["noisy"] < 0.5
    assert head[0] > 0 > head[1]
