import os
import signal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from lightning_modules.callbacks.interrupt import Interrupt
from lightning_modules.callbacks.run_checkpoints import RunCheckpoints


class Counting(LightningModule):
    """Presses Ctrl-C in the middle of its third training step, as often as it is told."""

    def __init__(self, presses):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.presses = presses
        self.begun = 0

    def training_step(self, batch, batch_idx):
        self.begun += 1
        if self.begun == 3:
            for _ in range(self.presses):
                os.kill(os.getpid(), signal.SIGINT)
        return -self.weight

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=1.0)


class Seen(Callback):
    def on_exception(self, trainer, pl_module, exception):
        self.exception = type(exception)


@pytest.fixture(autouse=True)
def ctrl_c():
    """Ctrl-C as in a terminal, whatever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def trainer_of(folder, *callbacks, **options):
    return Trainer(
        accelerator="cpu",
        logger=False,
        max_steps=8,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Interrupt(), RunCheckpoints(str(folder), every_n_steps=100), *callbacks],
        **options,
    )


def test_it_saves_after_the_batch(tmp_path, capsys):
    module = Counting(presses=1)
    with pytest.raises(SIGTERMException):
        trainer_of(tmp_path).fit(module, DataLoader(torch.zeros(8)))
    assert os.readlink(tmp_path / "latest") == "step_00000003"
    assert "saving after this batch" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = trainer_of(tmp_path)
    again.fit(Counting(presses=0), DataLoader(torch.zeros(8)), ckpt_path=str(tmp_path / "latest"))
    assert again.global_step == 8


def test_twice_ends_the_run_at_once(tmp_path):
    seen = Seen()
    with pytest.raises(SystemExit):
        trainer_of(tmp_path, seen).fit(Counting(presses=2), DataLoader(torch.zeros(8)))
    assert seen.exception is KeyboardInterrupt
    assert not (tmp_path / "latest").exists()


def test_a_job_that_ignores_it_goes_on(tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = trainer_of(tmp_path)
    trainer.fit(Counting(presses=1), DataLoader(torch.zeros(8)))
    assert trainer.global_step == 8
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_afterwards_it_is_as_before(tmp_path):
    trainer_of(tmp_path).fit(Counting(presses=0), DataLoader(torch.zeros(8)))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
