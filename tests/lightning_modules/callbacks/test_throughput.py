import time
from dataclasses import dataclass

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_modules.callbacks.throughput import Throughput


@dataclass
class Batch:
    inputs: dict[str, torch.Tensor]
    sample_ids: list[str]


def collate(lengths):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Batch({"attention_mask": mask.long()}, [str(length) for length in lengths])


class Sleeper(LightningModule):
    """Takes 10 ms a training step and 100 ms a validation step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        time.sleep(0.01)
        return self.weight**2

    def validation_step(self, batch, batch_idx):
        time.sleep(0.1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def logged_rates(tmp_path, **options):
    lengths = [3, 5, 2, 4, 6, 1, 7, 2, 3, 3]
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path, name="", version=""),
        callbacks=[Throughput()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )
    data = DataLoader(lengths, batch_size=2, collate_fn=collate)
    started = time.perf_counter()
    trainer.fit(Sleeper(), data, DataLoader(lengths[:2], batch_size=1, collate_fn=collate))
    seconds = time.perf_counter() - started
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    header = lines[0].split(",")
    return [dict(zip(header, map(float, line.split(",")), strict=True)) for line in lines[1:]], seconds


def test_rates_leave_padding_and_validation_out(tmp_path):
    rows, seconds = logged_rates(tmp_path, max_epochs=1, log_every_n_steps=2, val_check_interval=1)
    assert [row["step"] for row in rows] == [2, 4, 5]
    # Batches of two; windows of two batches, and what is left.
    for row, samples, tokens in zip(rows, (4, 4, 2), (3 + 5 + 2 + 4, 6 + 1 + 7 + 2, 3 + 3), strict=True):
        ratio = row["throughput/tokens_per_second"] / row["throughput/samples_per_second"]
        assert ratio == pytest.approx(tokens / samples)
    training_seconds = sum(
        samples / row["throughput/samples_per_second"] for row, samples in zip(rows, (4, 4, 2), strict=True)
    )
    assert training_seconds >= 5 * 0.01
    assert training_seconds < seconds - 5 * 2 * 0.1


def test_windows_go_on_across_epochs(tmp_path):
    rows, _ = logged_rates(tmp_path, max_epochs=2, log_every_n_steps=4, limit_val_batches=0)
    assert [row["step"] for row in rows] == [4, 8, 10]
