import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_modules.callbacks.learning_curve import LearningCurve


class Counting(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.validated_after = []

    def training_step(self, batch, batch_idx):
        return self.weight * batch.sum()

    def validation_step(self, batch, batch_idx):
        self.validated_after.append(self.trainer.fit_loop.total_batch_idx + 1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def validated_after(batches, *callbacks: Callback, **options):
    module = Counting()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, DataLoader(torch.zeros(batches, 1)), DataLoader(torch.zeros(1, 1)))
    return module.validated_after


@pytest.mark.parametrize(
    ("batches", "validations", "expected"),
    [(9, 3, [3, 6, 9]), (10, 3, [4, 7, 10]), (11, 3, [4, 8, 11]), (2, 3, [1, 2]), (5, 1, [5]), (7, 7, [*range(1, 8)])],
)
def test_the_last_validation_is_at_the_end_of_the_epoch(batches, validations, expected):
    both_epochs = expected + [batches + number for number in expected]
    assert validated_after(batches, LearningCurve(validations), max_epochs=2) == both_epochs


def test_every_second_epoch(tmp_path):
    found = validated_after(4, LearningCurve(2), max_epochs=4, check_val_every_n_epoch=2)
    assert found == [6, 8, 14, 16]


def test_a_limit_of_batches_is_the_epoch():
    assert validated_after(20, LearningCurve(2), max_epochs=1, limit_train_batches=5) == [3, 5]


def test_lightnings_own_interval_misses_the_end():
    """Why there is this callback."""
    assert validated_after(10, max_epochs=1, val_check_interval=0.33) == [3, 6, 9]


def test_none_is_refused():
    with pytest.raises(ValueError, match="validations_per_epoch must be at least 1, got 0"):
        LearningCurve(0)
