"""Norms of plain gradients; of sharded ones in tests/distributed/test_equivalence.py."""

import pytest
import torch

from lightning_modules.distributed.gradients import clip_gradient_norm, gradient_norm, multiply_gradients


def parameters(*gradients):
    found = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(found, gradients, strict=True):
        parameter.grad = gradient.clone()
    return [*found, torch.nn.Parameter(torch.ones(3))]  # one without gradient


def test_norm_and_clipping():
    two = parameters(torch.tensor([3.0, 0.0]), torch.tensor([[4.0]]))
    assert gradient_norm(two).item() == pytest.approx(5.0)
    assert clip_gradient_norm(two, 10.0).item() == pytest.approx(5.0)
    assert two[0].grad.tolist() == [3.0, 0.0]
    assert clip_gradient_norm(two, 1.0).item() == pytest.approx(5.0)
    assert two[0].grad.tolist() == pytest.approx([0.6, 0.0])
    assert two[1].grad.tolist() == [pytest.approx([0.8])]
    assert two[2].grad is None


def test_two_dtypes():
    mixed = parameters(torch.tensor([3.0]), torch.tensor([4.0], dtype=torch.bfloat16))
    assert gradient_norm(mixed).item() == pytest.approx(5.0)
    multiply_gradients(mixed, torch.tensor(0.5))
    assert [parameter.grad.item() for parameter in mixed[:2]] == [1.5, 2.0]


def test_bfloat16_is_not_summed_in_bfloat16():
    values = torch.rand(10_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = gradient_norm(parameters(values)).item()
    assert found == pytest.approx(values.double().norm().item(), rel=2**-8)  # rounded to bfloat16 once


def test_no_gradient():
    assert gradient_norm(parameters()).item() == 0.0
