import pytest
import torch
from small_models import make_model, make_prompt

from lightning_modules.model.positions import positions_of, prompt_positions


def test_plain_positions_on_either_side_of_padding():
    model = make_model("qwen2")
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1]])
    positions, following = prompt_positions(model, {"input_ids": mask, "attention_mask": mask})
    assert (positions * mask).tolist() == [[0, 1, 2], [0, 1, 0], [0, 0, 1]]
    assert following.tolist() == [3, 2, 2]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("padding", [0, 3])
def test_three_numbers_by_hand(name, padding):
    """A begin token, a picture of 2 rows and 4 columns of tokens, an end token and two words."""
    model = make_model(name)
    inputs = make_prompt(name, model, [1], [20, 21])
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[key] = torch.nn.functional.pad(inputs[key], (padding, 0))
    positions, following = prompt_positions(model, inputs)
    time, height, width = positions[:, 0, padding:].tolist()
    assert time == [0, *[1] * 8, 5, 6, 7]
    assert height == [0, 1, 1, 1, 1, 2, 2, 2, 2, 5, 6, 7]
    assert width == [0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7]
    assert following.tolist() == [8]


def test_text_of_a_model_with_three_numbers():
    model = make_model("qwen3_vl")
    positions, following = prompt_positions(model, make_prompt("qwen3_vl", model, [], [20, 21]))
    assert positions.tolist() == [[0, 1]]
    assert following.tolist() == [2]


def test_padding_on_either_side():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    assert positions_of(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2], [0, 1, 2, 3, 4]]
