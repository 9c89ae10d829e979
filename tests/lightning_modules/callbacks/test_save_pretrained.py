import errno
import os
import tempfile

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.callbacks.save_pretrained import SavePretrained


class Exported(LightningModule):
    """Writes its weight as a text file; may fail half way."""

    def __init__(self, fails=False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.fails = fails

    def training_step(self, batch, batch_idx):
        return -self.weight

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=1.0)

    def save_pretrained(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "weight.txt").write_text(str(self.weight.item()))
        if self.fails:
            raise OSError("no space left on device")


def fit(module, folder, **options):
    settings = {"max_steps": 3, "accelerator": "cpu", "logger": False, "enable_checkpointing": False, **options}
    trainer = Trainer(
        callbacks=[SavePretrained(str(folder))], enable_progress_bar=False, enable_model_summary=False, **settings
    )
    trainer.fit(module, DataLoader(torch.zeros(4)))


def test_the_folder_holds_the_last_weights(tmp_path):
    fit(Exported(), tmp_path / "runs" / "export")
    assert (tmp_path / "runs" / "export" / "weight.txt").read_text() == "3.0"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["export"]


def test_an_older_folder_is_replaced_whole(tmp_path, caplog):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "stale.txt").write_text("old")
    (folder / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(folder)
    fit(Exported(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "weight.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "link"]
    assert "export: holds a model, which the one of this run replaces" in caplog.text.replace("link:", "export:")


def test_what_is_no_model_of_a_run_is_never_replaced(tmp_path):
    """Such as the folder that the checkpoints are in, and the model that the training begins with."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="run holds no exported model and is not replaced"):
        fit(Exported(), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints").is_dir()
    base = tmp_path / "base"
    fit(Exported(), base)
    module = Exported()
    module.save_hyperparameters({"model_name_or_path": str(base)})
    with pytest.raises(FileExistsError, match="base: is the model that the training begins with"):
        fit(module, base)
    assert module.weight.item() == 0.0


def test_a_failure_leaves_the_older_folder(tmp_path):
    folder = tmp_path / "export"
    fit(Exported(), folder)
    with pytest.raises(OSError, match="no space left"):
        fit(Exported(fails=True), folder, max_steps=2)
    assert (folder / "weight.txt").read_text() == "3.0"


def test_a_trial_run_writes_nothing(tmp_path):
    fit(Exported(), tmp_path / "export", fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/model", "link"])
def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(name, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    module = Exported()
    with pytest.raises(OSError, match=str(tmp_path / name)):
        fit(module, tmp_path / name)
    assert module.weight.item() == 0.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


class DiskIsFull(Exported):
    """Fails in the folders that are named."""

    def __init__(self, *full):
        super().__init__()
        self.full = full

    def save_pretrained(self, folder):
        if any(str(folder).startswith(str(full)) for full in self.full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().save_pretrained(folder)


def test_the_model_is_kept_beside_the_logs(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*/data/model'") as error:
        fit(DiskIsFull(tmp_path / "data"), tmp_path / "data" / "model", default_root_dir=tmp_path / "logs")
    place = tmp_path / "logs" / "emergency_model"
    assert (place / "weight.txt").read_text() == "3.0"
    assert error.value.__notes__ == [f"the trained model is in {place}; move it to {tmp_path}/data/model"]
    assert list((tmp_path / "data").iterdir()) == []


def test_the_disk_of_the_logs_may_be_full_too(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(OSError, match="No space left") as error:
        fit(DiskIsFull(tmp_path / "data"), tmp_path / "data" / "model", default_root_dir=tmp_path / "data")
    (place,) = (tmp_path / "temporary").iterdir()
    assert (place / "weight.txt").read_text() == "3.0"
    either, kept = error.value.__notes__
    assert f"could not be written to {tmp_path}/data/emergency_model either" in either
    assert kept == f"the trained model is in {place}; move it to {tmp_path}/data/model"
