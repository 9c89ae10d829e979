import re
import time

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_modules.callbacks.progress import RunProgress


class Sleeper(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        time.sleep(0.02)
        self.log("train/loss", 0.25, prog_bar=True)
        return self.weight**2

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        time.sleep(0.05)

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(folder, *callbacks, **options):
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"num_sanity_val_steps": 0} | options,
    )


def loader(size):
    return DataLoader(torch.zeros(size, 1))


def seconds_of(text):
    hours, minutes, seconds = map(int, text.split(":"))
    return 3600 * hours + 60 * minutes + seconds


def test_lines_in_a_log(tmp_path, capsys):
    trainer = make_trainer(
        tmp_path, RunProgress(0.0, as_lines=True), max_epochs=2, accumulate_grad_batches=2, num_sanity_val_steps=2
    )
    trainer.fit(Sleeper(), loader(6), loader(3))
    out = capsys.readouterr().out
    assert "\r" not in out
    lines = [line for line in out.splitlines() if "s a step" in line]
    pattern = r"[\d-]{10} [\d:]{8} \| epoch (\d), step (\d) of 6 \(.*%\) \| (\S+) s a step \| (\S+) to the end \| "
    pattern += "train/loss 0.25"
    found = [re.fullmatch(pattern, line).groups() for line in lines]
    assert [(epoch, step) for epoch, step, *_ in found] == [(str(n // 3), str(n + 1)) for n in range(6)]
    # Two batches of 20 ms.
    assert all(float(seconds) >= 0.04 for *_, seconds, _ in found)
    assert out.count("sanity_check, batch 2 of 2 | ") == 1
    assert out.count("validate, batch 3 of 3 | ") == 2
    assert out.splitlines()[-1].endswith("| step 6 of 6 (100.0 %) | training has ended")


def test_lines_are_sparse(tmp_path, capsys):
    trainer = make_trainer(tmp_path, RunProgress(3600.0, as_lines=True), max_epochs=1)
    trainer.fit(Sleeper(), loader(5), loader(2))
    assert len(capsys.readouterr().out.splitlines()) == 2  # the first step and the end


class Stop(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *arguments):
        trainer.should_stop = trainer.global_step >= self.step


def test_evaluations_count_to_the_end_of_the_run_and_not_to_a_step(tmp_path, capsys):
    """Steps of 20 ms and an evaluation of a second after the second, so that 37 steps take 37 / 3 seconds or more."""
    trainer = make_trainer(tmp_path, RunProgress(0.0, as_lines=True), Stop(3), max_epochs=20)
    trainer.fit(Sleeper(), loader(2), loader(20))
    lines = [line for line in capsys.readouterr().out.splitlines() if "s a step" in line]
    found = re.search(r"step (\d+) of 40 .* \| (\S+) s a step \| (\S+) to the end", lines[-1]).groups()
    assert found[0] == "3"
    assert seconds_of(found[2]) >= 12
    assert float(found[1]) < seconds_of(found[2]) / 37 * 3 - 0.9


def test_refresh_rate_of_nothing_shows_nothing(tmp_path, capsys):
    make_trainer(tmp_path, RunProgress(0.0, refresh_rate=0, as_lines=True), max_epochs=1).fit(Sleeper(), loader(2))
    assert "step" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_lines_of_other_commands(command, tmp_path, capsys):
    trainer = make_trainer(tmp_path, RunProgress(0.0, as_lines=True))
    options = {"return_predictions": False} if command == "predict" else {"verbose": False}
    getattr(trainer, command)(Sleeper(), [loader(2), loader(3)], **options)
    lines = [line for line in capsys.readouterr().out.splitlines() if "s a batch" in line]
    found = [re.search(rf"\| {command}, batch (\d) of 5 \| ([\d.]+) s a batch", line).groups() for line in lines]
    assert [batch for batch, _ in found] == ["1", "2", "3", "4", "5"]
    assert all(float(seconds) >= 0.05 for _, seconds in found)
    assert lines[-1].endswith("0:00:00 to its end")


def test_a_run_without_an_end(tmp_path, capsys):
    trainer = make_trainer(tmp_path, RunProgress(0.0, as_lines=True), Stop(3), max_epochs=-1, min_epochs=None)
    trainer.fit(Sleeper(), loader(2))
    out = capsys.readouterr().out
    assert "step 1 | " in out
    assert "an unknown time to the end" in out


def test_settings():
    with pytest.raises(ValueError, match="seconds_between_lines must be at least 0, got -1"):
        RunProgress(-1)
