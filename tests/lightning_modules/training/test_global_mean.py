"""Steps follow the gradient of the mean over all labels of a window; across ranks: tests/distributed."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from lightning_modules.training.global_mean import GlobalMeanModule

BATCHES = [[1.0, 2.0, 6.0], [5.0], [], [4.0, 8.0], [3.0]]
"""Labels: windows of two batches have 4, 2 and 1 of them; squares of their distance to a weight are the losses."""


class Distances(GlobalMeanModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        total = (self.weight - batch).square().sum()
        return self.sum_of_labels(total, torch.tensor(len(batch)), loss=total, largest=batch.sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Steps(Callback):
    def __init__(self):
        self.gradients, self.logged = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append(pl_module.weight.grad.item())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if len(self.gradients) > len(self.logged):
            self.logged.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def fit(batches, accumulate, **options):
    steps = Steps()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        callbacks=[steps],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    model = Distances()
    loader = DataLoader(batches, batch_size=None, collate_fn=torch.tensor)
    trainer.fit(model, loader)
    return model, steps


def by_hand(windows, most=None):
    """Weight, gradients and losses of plain gradient descent on the mean of each window."""
    weight, gradients, losses = 0.0, [], []
    for labels in windows:
        count = len(labels) or 1
        losses.append(sum((weight - label) ** 2 for label in labels) / count)
        gradients.append(sum(2 * (weight - label) for label in labels) / count)
        step = gradients[-1]
        if most is not None and abs(step) > most:
            step *= most / abs(step)
        weight -= 0.1 * step
    return weight, gradients, losses


@pytest.mark.parametrize("most", [None, 1.0])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_windows_are_means_over_their_labels(accumulate, most):
    windows = [
        [label for batch in BATCHES[begin : begin + accumulate] for label in batch]
        for begin in range(0, len(BATCHES), accumulate)
    ]
    weight, gradients, losses = by_hand(windows, most)
    model, steps = fit(BATCHES, accumulate, gradient_clip_val=most)
    assert model.weight.item() == pytest.approx(weight, rel=1e-5)
    # Whoever looks before the step sees the mean's gradient, not yet clipped.
    assert steps.gradients == pytest.approx(gradients, rel=1e-5)
    assert [logged["train/loss"] for logged in steps.logged] == pytest.approx(losses, rel=1e-5)
    sums = [sum(window) / (len(window) or 1) for window in windows]
    assert [logged["train/largest"] for logged in steps.logged] == pytest.approx(sums, rel=1e-5)


def test_what_an_interrupted_run_left_is_forgotten():
    model = Distances()
    model.training_step(torch.tensor([100.0]), 0)
    expected, _, _ = by_hand([[1.0, 3.0]])
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
    trainer.fit(model, DataLoader([[1.0, 3.0]], batch_size=None, collate_fn=torch.tensor))
    assert model.weight.item() == pytest.approx(expected)


def test_an_epoch_without_a_label_is_an_error():
    with pytest.raises(ValueError, match=r"^epoch 0 had no label, so its loss was 0 at every step"):
        fit([[], [], []], 2)
    fit([[], [], [1.0]], 1)
    fit([[1.0], [], []], 2)
