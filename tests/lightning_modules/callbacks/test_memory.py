import psutil
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_modules.callbacks.memory import GIB, MemoryMonitor


class Hoarder(LightningModule):
    """Takes 64 MiB more in every step, and for a moment 256 MiB in the first."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.hoard = []

    def training_step(self, batch, batch_idx):
        self.hoard.append(torch.ones(2**24, device=self.device))
        if batch_idx == 0:
            torch.ones(2**26, device=self.device)
        return self.weight**2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def logged(folder, accelerator):
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[MemoryMonitor()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=2,
        accumulate_grad_batches=2,
        max_epochs=1,
    )
    module = Hoarder()
    trainer.fit(module, DataLoader(torch.zeros(10, 1)))
    header, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [dict(zip(header, map(float, line), strict=True)) for line in lines], module


def test_resident_memory_grows_with_what_is_kept(tmp_path):
    rows, module = logged(tmp_path, "cpu")
    assert [row["step"] for row in rows] == [2, 4, 5]
    found = [row["memory/resident_gib_max"] for row in rows]
    assert found == [row["memory/resident_gib_mean"] for row in rows]
    assert found[1] - found[0] == pytest.approx(4 / 16, abs=0.03)
    assert found[-1] == pytest.approx(psutil.Process().memory_info().rss / GIB, abs=0.1)
    assert len(module.hoard) == 10
    assert not any("allocated" in name for name in rows[0])


@pytest.mark.gpu
def test_peaks_of_the_device_are_those_of_their_window(tmp_path):
    rows, _ = logged(tmp_path, "gpu")
    allocated = [row["memory/allocated_gib_max"] for row in rows]
    assert allocated[0] == pytest.approx(5 / 16, abs=0.02)  # with the 256 MiB of a moment
    assert allocated[1] == pytest.approx(8 / 16, abs=0.02)
    assert all(row["memory/reserved_gib_max"] >= row["memory/allocated_gib_max"] for row in rows)
    assert all(row["memory/allocation_retries"] == 0 for row in rows)
