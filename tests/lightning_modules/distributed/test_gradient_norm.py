import pytest
import torch

from lightning_modules.distributed.gradient_norm import squared_norm_of_rank


def with_gradient(values, dtype=torch.float32):
    parameter = torch.nn.Parameter(torch.zeros(len(values), dtype=dtype))
    parameter.grad = torch.tensor(values, dtype=dtype)
    return parameter


def test_by_hand():
    parameters = [with_gradient([3.0, 4.0]), torch.nn.Parameter(torch.zeros(2)), with_gradient([12.0])]
    assert squared_norm_of_rank(parameters, 1, torch.device("cpu")).item() == 169
    # Every rank has all of it, so that the parts of four ranks add up to it.
    assert squared_norm_of_rank(parameters, 4, torch.device("cpu")).item() == 169 / 4
    assert squared_norm_of_rank([], 1, torch.device("cpu")).item() == 0


def test_bfloat16_is_not_summed_in_bfloat16():
    values = torch.rand(10_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = squared_norm_of_rank([with_gradient(values.tolist(), torch.bfloat16)], 1, torch.device("cpu"))
    assert found.item() == pytest.approx(values.double().square().sum().item(), rel=1e-5)
