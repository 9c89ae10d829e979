import torch

from datamodules.conversation.labels import (
    IGNORE_INDEX,
    advantage_labels,
    soft_targets,
    until_first_error,
    value_labels,
)

NAN = float("nan")


def test_value_labels():
    mc = torch.tensor([[1.0, 0.25, 0.0, NAN], [0.0, 0.5, NAN, NAN]])
    assert value_labels(mc, 0.0).tolist() == [[0, 0, 1, IGNORE_INDEX], [1, 0, IGNORE_INDEX, IGNORE_INDEX]]
    assert value_labels(mc, 0.25).tolist() == [[0, 1, 1, IGNORE_INDEX], [1, 0, IGNORE_INDEX, IGNORE_INDEX]]
    assert value_labels(mc, 0.0).dtype == torch.long


def test_a_score_equal_to_the_threshold_is_wrong_in_float32_too():
    assert value_labels(torch.tensor([0.3, 0.1, 0.7]), 0.3).tolist() == [1, 1, 0]


def test_advantage_labels():
    mc = torch.tensor([[0.5, 0.75, 0.75, 0.0], [0.5, NAN, 0.5, 1.0]])
    ignored = IGNORE_INDEX
    assert advantage_labels(mc).tolist() == [[ignored, 0, 1, 2], [ignored, ignored, ignored, 0]]
    accuracy = torch.tensor([0.25, 0.5])
    assert advantage_labels(mc, accuracy).tolist() == [[0, 0, 1, 2], [1, ignored, ignored, 0]]
    assert advantage_labels(mc[0], torch.tensor(1.0)).tolist() == [2, 0, 1, 2]


def test_soft_targets():
    targets = soft_targets(torch.tensor([0.25, NAN]))
    assert targets[0].tolist() == [0.25, 0.75]
    assert targets[1].isnan().all()


def test_steps_until_the_first_error():
    mc = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.5, 1.0, NAN, 0.25], [0.0, NAN, 1.0, 0.0]])
    assert until_first_error(mc, 0.0).tolist() == [
        [True, True, False, False],
        [True, True, True, True],
        [True, False, False, False],
    ]
    assert until_first_error(mc, 0.5).tolist() == [
        [True, False, False, False],
        [True, False, False, False],
        [True, False, False, False],
    ]
