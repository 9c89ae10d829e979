import re
import time

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_modules.callbacks.progress import RunProgress, evaluations_left


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
        num_sanity_val_steps=0,
        **options,
    )


def loader(size):
    return DataLoader(torch.zeros(size, 1))


def seconds_of(text):
    hours, minutes, seconds = map(int, text.split(":"))
    return 3600 * hours + 60 * minutes + seconds


def test_lines_in_a_log(tmp_path, capsys):
    trainer = make_trainer(tmp_path, RunProgress(0.0), max_epochs=2, accumulate_grad_batches=2)
    trainer.fit(Sleeper(), loader(6), loader(3))
    out = capsys.readouterr().out
    assert "\r" not in out
    lines = [line for line in out.splitlines() if "s a step" in line]
    pattern = r"[\d-]{10} [\d:]{8} \| epoch (\d), step (\d) of 6 \(.*%\) \| (\S+) s a step \| (\S+) to the end \| "
    pattern += "train/loss 0.25"
    found = [re.fullmatch(pattern, line).groups() for line in lines]
    assert [(epoch, step) for epoch, step, *_ in found] == [(str(n // 3), str(n + 1)) for n in range(6)]
    # Two batches of 20 ms; the 150 ms of an evaluation, between the third step and the fourth, are left out.
    assert all(float(seconds) >= 0.04 for *_, seconds, _ in found)
    assert "validation, batch 3 of 3 | " in out
    assert out.splitlines()[-1].endswith("| step 6 of 6 (100.0 %) | training has ended")


def test_lines_are_sparse(tmp_path, capsys):
    trainer = make_trainer(tmp_path, RunProgress(3600.0), max_epochs=1)
    trainer.fit(Sleeper(), loader(5), loader(2))
    assert len(capsys.readouterr().out.splitlines()) == 2  # the first step and the end


def test_time_to_the_end_counts_evaluations(tmp_path):
    """Steps of 20 ms, and evaluations of 1.5 s, one of which is left after the first of two epochs."""
    found = []

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            found.append(progress.get_metrics(trainer, pl_module))

    progress = RunProgress(as_lines=False, refresh_rate=1)
    trainer = make_trainer(tmp_path, Look(), progress, max_epochs=2)
    trainer.fit(Sleeper(), loader(4), loader(30))
    assert "step" not in found[0], "no step is timed yet"
    assert seconds_of(found[3]["end"]) <= 1, "nothing is known of evaluations"
    after = [seconds_of(each["end"]) for each in found[5:7]]
    assert all(1 <= seconds for seconds in after)
    assert all(0.02 <= float(each["step"].removesuffix("s")) for each in found[1:])
    assert found[-1]["train/loss"] == 0.25


def test_a_bar_in_a_terminal(tmp_path, capsys):
    trainer = make_trainer(tmp_path, RunProgress(as_lines=False), max_epochs=1)
    trainer.fit(Sleeper(), loader(3))
    shown = capsys.readouterr().out
    assert re.search(r"Epoch 0: 100%\|.*3/3 .*step=[\d.]+s, end=0:00:0\d, train/loss=0.25", shown)
    assert "s a step" not in shown


@pytest.mark.parametrize(("command", "shown"), [("validate", "validation"), ("test", "test"), ("predict", "predict")])
def test_lines_of_other_commands(command, shown, tmp_path, capsys):
    trainer = make_trainer(tmp_path, RunProgress(0.0))
    options = {"return_predictions": False} if command == "predict" else {"verbose": False}
    getattr(trainer, command)(Sleeper(), [loader(2), loader(3)], **options)
    lines = [line for line in capsys.readouterr().out.splitlines() if "s a batch" in line]
    found = [re.search(rf"\| {shown}, batch (\d) of 5 \| ([\d.]+) s a batch", line).groups() for line in lines]
    assert [batch for batch, _ in found] == ["1", "2", "3", "4", "5"]
    assert all(float(seconds) >= 0.05 for _, seconds in found)
    assert lines[-1].endswith("0:00:00 to its end")


def test_the_limit_on_time(tmp_path, capsys):
    trainer = make_trainer(tmp_path, RunProgress(0.0), max_epochs=10**6, max_time="00:00:00:01")
    trainer.fit(Sleeper(), loader(10))
    lines = [line for line in capsys.readouterr().out.splitlines() if "to the end" in line]
    assert all(seconds_of(re.search(r"(\S+) to the end", line)[1]) <= 1 for line in lines)


def test_a_run_without_an_end(tmp_path, capsys):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *arguments):
            trainer.should_stop = trainer.global_step >= 3

    trainer = make_trainer(tmp_path, RunProgress(0.0), Stop(), max_epochs=-1, min_epochs=None)
    trainer.fit(Sleeper(), loader(2))
    out = capsys.readouterr().out
    assert "step 1 | " in out
    assert "an unknown time to the end" in out


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": 2, "val_check_interval": 0.5},
        {"max_epochs": 4, "check_val_every_n_epoch": 2},
        {"max_steps": 7, "val_check_interval": 4, "check_val_every_n_epoch": None},
        {"max_epochs": 2, "accumulate_grad_batches": 3},
        {"max_epochs": 2, "limit_val_batches": 0},
    ],
)
def test_evaluations_left_are_those_that_come(options, tmp_path):
    """Compared, after every step, with what the run then does."""
    predicted, evaluations = [], []

    class Count(Callback):
        def on_train_batch_end(self, trainer, *arguments):
            predicted.append((len(evaluations), evaluations_left(trainer)))

        def on_validation_end(self, *arguments):
            evaluations.append(None)

    trainer = make_trainer(tmp_path, Count(), RunProgress(3600.0), **options)
    trainer.fit(Sleeper(), loader(6), loader(1))
    # At the last batch before an evaluation the hook comes first, so that the prediction may be one too low.
    assert all(len(evaluations) - done - left in (0, 1) for done, left in predicted)
    assert predicted[0][1] == len(evaluations)


def test_settings():
    with pytest.raises(ValueError, match="seconds_between_lines must be at least 0, got -1"):
        RunProgress(-1)
