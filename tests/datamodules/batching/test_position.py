"""Runs that go on inside of an epoch with other batches, data or seeds."""

from collections import Counter

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.interfaces import PolicyFacts
from datamodules.prompts_datamodule import PromptDataModule
from lightning_modules.callbacks.resumable_training import ResumableTraining


class Seen(LightningModule):
    """Keeps the samples of its batches."""

    def __init__(self, exact=True):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []
        self.exact = exact

    def configure_callbacks(self):
        return [ResumableTraining()] if self.exact else []

    def training_step(self, batch, batch_idx):
        self.seen.append(list(batch.sample_ids))
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.fixture
def fit(tiny_processor, tiny_world, tmp_path):
    """Fits on 64 demonstrations, and keeps a checkpoint of every step."""

    def run(resume=None, *, exact=True, trainer=None, **options):
        path = str(tiny_world / "demonstrations" / "annotations.jsonl")
        data = PromptDataModule(**{"instruction": "", "demonstrations": path, "batch_size": 8, **options})
        data.connect(PolicyFacts(tiny_processor))
        module = Seen(exact)
        Trainer(
            **{
                "accelerator": "cpu",
                "max_epochs": 2,
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "callbacks": [ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)],
                **(trainer or {}),
            }
        ).fit(module, datamodule=data, ckpt_path=resume and tmp_path / f"step={resume}.ckpt", weights_only=True)
        return module.seen

    return run


def rows(batches):
    return [name for batch in batches for name in batch]


def test_with_batches_of_another_size(fit):
    """After three batches of eight the rest of the epoch comes in batches of four, in the order it would have come."""
    whole = fit()
    assert len(whole) == 16
    found = fit(3, batch_size=4, trainer={"max_epochs": 1})
    assert {len(batch) for batch in found} == {4}
    assert rows(found) == rows(whole[3:8])
    # And back, from the second run's sixth step: after 3 x 8 and 3 x 4 rows, 28 are left.
    again = fit("6-v1", trainer={"max_epochs": 1})
    assert [len(batch) for batch in again] == [8, 8, 8]
    assert rows(again) == rows(whole)[36:60]


def test_the_next_epoch_is_whole(fit):
    whole = fit()
    found = fit(3, batch_size=4)
    seen = Counter(rows(found)[40:])
    assert len(seen) == 64
    assert set(seen.values()) == {1}
    assert set(rows(whole[8:])) == set(seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, r"stands inside of an epoch of .*'seed': 0.*this run has .*'seed': 1.*batch_size may change"),
        ({"instruction": "Be brief ."}, r"stands inside of an epoch of .*resume with the same data and settings"),
        ({"batch_size": 4, "exact": False}, r"such a change needs the callback ResumableTraining"),
    ],
)
def test_what_is_refused(fit, options, message):
    fit(trainer={"max_steps": 3})
    with pytest.raises(ValueError, match=message):
        fit(2, **options)


def test_at_the_end_of_an_epoch_all_may_change(fit):
    fit(trainer={"max_steps": 8})
    found = fit(8, seed=1, batch_size=16)
    assert len(found) == 4
    assert len(set(rows(found))) == 64


def test_steps_of_several_batches_are_taken_back_together(fit, tmp_path):
    """A checkpoint after the first batch of a step of two stands before that batch: its gradient is not saved."""
    whole = fit(trainer={"accumulate_grad_batches": 2})

    class Late(ModelCheckpoint):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if len(pl_module.seen) == 5:
                trainer.save_checkpoint(tmp_path / "step=late.ckpt")
                trainer.should_stop = True

    fit(trainer={"accumulate_grad_batches": 2, "callbacks": [Late(tmp_path / "other")]})
    checkpoint = torch.load(tmp_path / "step=late.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert fit("late", trainer={"accumulate_grad_batches": 2}) == whole[4:]
