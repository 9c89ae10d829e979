import socket
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_modules.callbacks.failure_log import FailureLog, failures_reported, run_folder


class Batch(list):
    sample_ids = ("a", "b")


class Broken(LightningModule):
    """Fails in a hook, for its second batch."""

    def __init__(self, hook):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.hook = hook

    def _step(self, hook, batch_idx):
        if self.hook == hook and batch_idx == 1:
            raise KeyError("a thing\nof two lines")
        return self.weight**2

    def training_step(self, batch, batch_idx):
        return self._step("fit", batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self._step(f"validation{dataloader_idx}", batch_idx)

    def predict_step(self, batch, batch_idx):
        self._step("predict", batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(fails=False):
    def collate(rows):
        if fails and rows[0] == 1:
            raise OSError("no such picture")
        return Batch(rows)

    return DataLoader([0, 1], collate_fn=collate)


def make_trainer(folder, **options):
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[FailureLog()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        max_epochs=2,
        **options,
    )


def line_of(capsys):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("FAILED")]
    return line


@pytest.mark.parametrize(
    ("hook", "place"),
    [
        ("fit", "global step 1, epoch 0, train batch 1 (a, b)"),
        ("validation1", "global step 2, epoch 0, validate batch 1 of dataloader 1 (a, b)"),
        ("predict", "global step 0, epoch 0, predict batch 1 of dataloader 0 (a, b)"),
    ],
)
def test_the_line(hook, place, tmp_path, capsys):
    trainer, module = make_trainer(tmp_path), Broken(hook)
    command = trainer.predict if hook == "predict" else trainer.fit
    loaders = [loader()] if hook == "predict" else [loader(), [loader(), loader()]]
    with pytest.raises(KeyError) as error:
        command(module, *loaders)
    line = line_of(capsys)
    assert f"rank 0 of 1 on {socket.gethostname()}" in line
    assert line.endswith(f", {place}: KeyError: 'a thing\\nof two lines'")
    assert error.value.__notes__[0].endswith(place)
    assert error.value.__notes__[1] == f"traceback: {tmp_path}/failures/rank0.log"
    first, *trace = (tmp_path / "failures" / "rank0.log").read_text().splitlines()
    assert first == line
    assert trace[0] == "Traceback (most recent call last):"
    assert "KeyError: 'a thing\\nof two lines'" in trace


def test_between_batches_and_again(tmp_path, capsys):
    for _ in range(2):
        with pytest.raises(OSError, match="picture"):
            make_trainer(tmp_path).fit(Broken(""), loader(fails=True))
        assert "epoch 0, after train batch 0: OSError: no such picture" in line_of(capsys)
    lines = (tmp_path / "failures" / "rank0.log").read_text().splitlines()
    assert sum(line.startswith("FAILED") for line in lines) == 2


def test_a_disk_that_is_full_does_not_hide_the_error(tmp_path, capsys):
    (tmp_path / "failures").write_text("a file where the folder should be")
    with pytest.raises(KeyError):
        make_trainer(tmp_path).fit(Broken("fit"), loader())
    assert "failures/rank0.log could not be written: " in capsys.readouterr().err


def test_a_trial_run_leaves_no_file(tmp_path, capsys):
    with pytest.raises(OSError, match="picture"):
        make_trainer(tmp_path, fast_dev_run=2).fit(Broken(""), loader(fails=True))
    assert line_of(capsys)
    assert not (tmp_path / "failures").exists()


def test_failures_outside_of_a_trainer(tmp_path, capsys):
    with pytest.raises(ZeroDivisionError), failures_reported("command"):
        _ = 1 / 0
    assert line_of(capsys).endswith(", outside of the trainer: ZeroDivisionError: division by zero")
    with pytest.raises(KeyError), failures_reported("command"):
        make_trainer(tmp_path).fit(Broken("fit"), loader())
    assert "train batch 1" in line_of(capsys), "and not twice"
    with pytest.raises(SystemExit), failures_reported("command"):
        sys.exit(2)
    assert "FAILED" not in capsys.readouterr().err


def test_a_mistake_is_said_once(tmp_path, capsys):
    with pytest.raises(SystemExit) as end, failures_reported("command"):
        make_trainer(tmp_path).fit(Broken(""), loader(fails=True))
    log = tmp_path / "failures" / "rank0.log"
    said = [line for line in capsys.readouterr().err.splitlines() if "picture" in line or "traceback" in line]
    assert said == ["command: error: no such picture", f"  traceback: {log} (here with VISUALPRM_DEBUG=1)"]
    assert end.value.code == 1
    assert "train batch 0: OSError: no such picture" in log.read_text()


@pytest.mark.parametrize(
    ("trainer", "folder"),
    [
        ({}, None),
        ({"default_root_dir": "runs"}, "runs"),
        ({"default_root_dir": "runs", "logger": True}, "runs"),
        ({"logger": {"init_args": {"save_dir": "a", "name": "b", "version": "c"}}}, "a/b/c"),
        ({"default_root_dir": "runs", "logger": {"init_args": {"save_dir": "a", "version": 3}}}, "runs"),
    ],
)
def test_the_folder_of_a_run_that_has_no_trainer_yet(trainer, folder):
    assert run_folder(trainer) == (folder and Path(folder))
