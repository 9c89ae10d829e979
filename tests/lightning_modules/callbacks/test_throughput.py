import time
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader
from transformers import AutoModelForImageTextToText

from datamodules.batching.conversation_batch import ConversationBatch
from datamodules.batching.order import LazyLoader
from lightning_modules.callbacks import throughput
from lightning_modules.callbacks.throughput import Throughput
from lightning_modules.distributed.fully_sharded import FullyShardedStrategy
from lightning_modules.distributed.sharding import ShardingOptions


@dataclass
class Batch(ConversationBatch):
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


def logged_rates(tmp_path, loader=DataLoader, **options):
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
    data = loader(lengths, batch_size=2, collate_fn=collate)
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


def test_one_device_is_all_of_them(tmp_path):
    rows, _ = logged_rates(tmp_path, max_epochs=1, log_every_n_steps=5, limit_val_batches=0)
    for row in rows:
        for name in ("samples", "tokens"):
            rate = row[f"throughput/{name}_per_second"]
            assert row[f"throughput/{name}_per_second_per_device"] == rate
        assert "throughput/data_wait_share" not in row
        assert "throughput/mfu" not in row


def slowly(lengths):
    time.sleep(0.03)
    return collate(lengths)


def test_share_of_waiting_for_data(tmp_path):
    """Batches that take three times as long to make as to train on, in the same process."""

    class SlowLoader(LazyLoader):
        def __init__(self, data, batch_size, collate_fn):
            super().__init__(data, batch_size, collate_fn=slowly)

    rows, _ = logged_rates(tmp_path, SlowLoader, max_epochs=1, log_every_n_steps=5, limit_val_batches=0)
    waited = rows[0]["throughput/data_wait_share"] / rows[0]["throughput/samples_per_second"] * 10
    assert 5 * 0.03 <= waited
    assert rows[0]["throughput/data_wait_share"] < 1


@dataclass
class Conversations(ConversationBatch):
    sample_ids: list[str]


class Reader(LightningModule):
    """Trains the whole backbone, reads pictures from its second batch on, and predicts three tokens of each batch."""

    def __init__(self, checkpoint):
        super().__init__()
        self.backbone = AutoModelForImageTextToText.from_pretrained(checkpoint)

    def training_step(self, batch, batch_idx):
        states = self.backbone.model(**batch.inputs, use_cache=False).last_hidden_state
        return self.backbone.lm_head(states[0, :3]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def conversations(index):
    """Two of 12 and 9 tokens, whose first have a tile of four tokens unless it is the first batch."""
    ids = torch.full((2, 12), 30)
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(12) < torch.tensor([[12], [9]])).long()}
    if index[0]:
        ids[0, :4] = 4
        inputs["pixel_values"] = torch.zeros(1, 3, 32, 32)
    return Conversations(inputs, ["a", "b"])


def fit_reader(tmp_path, checkpoint, callback):
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path, name="", version=""),
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_epochs=1,
        log_every_n_steps=1,
    )
    model = Reader(checkpoint)
    trainer.fit(model, DataLoader(range(3), batch_size=1, collate_fn=conversations))
    header, *lines = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    return model, [dict(zip(header, map(float, line), strict=True)) for line in lines]


def test_mfu(tmp_path, tiny_checkpoint):
    """See tests/lightning_modules/model/test_flops.py for these numbers."""
    model, rows = fit_reader(tmp_path, tiny_checkpoint, Throughput(peak_flops=1e12))
    assert model.backbone.config.image_token_id == 4
    text = 6 * 2 * (4 * 32 * 32 + 3 * 32 * 96) * 21 + 768 * (78 + 45) + 3 * 6 * model.backbone.lm_head.weight.numel()
    vision = 6 * (17 * (4 * 16 * 16 + 2 * 16 * 32) + 4 * (64 * 32 + 32 * 32)) + 4 * 17 * 3072 + 3 * 4 * 16 * 17**2
    for row, operations in zip(rows, (text, text + vision, text + vision), strict=True):
        rate = operations * row["throughput/samples_per_second"] / 2
        assert row["throughput/operations_per_second_per_device"] == pytest.approx(rate, rel=1e-5)
        assert row["throughput/mfu"] == pytest.approx(rate / 1e12, rel=1e-5)
    assert not model.backbone.lm_head._forward_hooks


def test_no_mfu_without_a_peak(tmp_path, tiny_checkpoint, caplog):
    with caplog.at_level("INFO", logger=throughput.__name__):
        _, rows = fit_reader(tmp_path, tiny_checkpoint, Throughput())
    assert not any("throughput/mfu" in row for row in rows)
    assert [record.message for record in caplog.records if "mfu" in record.message] == [
        "throughput/mfu is not logged: the peak rate of this cpu in float32 is not known; give Throughput peak_flops"
    ]
    with pytest.raises(ValueError, match="peak_flops must be above 0, got 0"):
        Throughput(0)


@pytest.mark.parametrize(
    ("precision", "options", "expected"),
    [
        ("bf16-mixed", None, torch.bfloat16),
        ("16-mixed", None, torch.float16),
        ("32-true", None, torch.float32),
        ("bf16-mixed", {}, torch.bfloat16),
        ("32-true", {}, torch.float32),
        ("32-true", {"param_dtype": "bfloat16"}, torch.bfloat16),
    ],
)
def test_the_type_that_matrices_are_multiplied_in(precision, options, expected, tiny_checkpoint):
    """Weights are float32; options are those of sharding."""
    strategy = FullyShardedStrategy(ShardingOptions(**options)) if options is not None else SingleDeviceStrategy()
    trainer = SimpleNamespace(precision=precision, strategy=strategy)
    backbone = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    assert throughput._computed_dtype(trainer, backbone) == expected
