"""A module that answers prompts by their names, and data of them, so that an output says who has made it."""

import json

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from datamodules.batching.shards import Shard
from lightning_modules.callbacks.prediction_writer import PredictionWriter

NAMES = [f"prompt {number}" for number in range(7)]


class Names(LightningDataModule):
    """Serves prompt ids, without those that are done."""

    def __init__(self, names=NAMES, shard=Shard()):  # noqa: B008 (it cannot change)
        super().__init__()
        self.names = list(names)
        self.shard = shard
        self.completed_ids = set()

    @property
    def prompt_ids(self):
        return self.names

    def predict_dataloader(self):
        share = self.shard.of(self.names)
        return DataLoader([name for name in share if name not in self.completed_ids], batch_size=2)


class Killed(Exception):
    pass


class Predictor(LightningModule):
    """Two rows a prompt; keeps what it was asked, and is killed before batch ``killed_at``."""

    def __init__(self, run="first", killed_at=None, forgets=()):
        super().__init__()
        self.run, self.killed_at, self.forgets = run, killed_at, forgets
        self.asked = []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def predict_step(self, batch, batch_idx):
        if batch_idx == self.killed_at:
            raise Killed
        self.asked += batch
        return [
            (name, [{"name": name, "row": row, "run": self.run} for row in range(2)])
            for name in batch
            if name not in self.forgets
        ]


def predict(output, module, data=None, overwrite=False, **options):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[PredictionWriter(str(output), overwrite)],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.predict(module, datamodule=data or Names(), return_predictions=False)


def read(output):
    return [json.loads(line) for line in output.read_text().splitlines()]


def journals(output):
    return sorted(path for path in output.parent.iterdir() if "journal" in path.name)


def expected(run_of):
    return [{"name": name, "row": row, "run": run_of(name)} for name in NAMES for row in range(2)]


def shard(index, count=3):
    return Names(shard=Shard(index, count))


class Contents(Names):
    """Prompts that have a content beside their name."""

    def __init__(self, contents, **options):
        super().__init__(contents, **options)
        self.prompt_digests = dict(contents)


CONTENTS = dict.fromkeys(NAMES, "content")


def with_settings(run, **settings):
    module = Predictor(run)
    module.prediction_settings = settings
    return module


def everything(folder):
    """What a user has in a folder: names and contents of all files but locks."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}
