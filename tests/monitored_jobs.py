"""Runs of the `visualprm` command in the ranks of a distributed run, that test_monitoring.py looks at afterwards."""

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import psutil
import torch
from lightning.pytorch import Callback
from torch.distributed.tensor import DTensor

from datamodules.batching.collate import StepCollator
from lightning_modules import cli
from lightning_modules.configuration.command import VisualPRMCLI
from lightning_modules.training.non_finite import NonFiniteError

BATCH, ACCUMULATED, STEPS = 2, 2, 3
SLOW = 0.1
"""Seconds that rank 1 waits for each batch in `train`."""

COMMON = [
    "fit",
    "--seed_everything=0",
    "--model=lightning_modules.process_reward.ProcessRewardModel",
    "--data=datamodules.visual_prm_400k.VisualPRM400KDataModule",
    f"--data.batch_size={BATCH}",
    "--trainer.accelerator=cpu",
    "--trainer.devices=2",
    f"--trainer.accumulate_grad_batches={ACCUMULATED}",
    f"--trainer.max_steps={STEPS}",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.gradient_clip_val=0.001",
    "--trainer.logger=TensorBoardLogger",
    "--trainer.logger.name=logs",
    "--trainer.logger.version=all",
    "--progress.seconds_between_lines=0",
]


FULLY_SHARDED = "--config=experiments/strategies/fsdp2.yaml"
STRATEGIES = {
    "ddp": ["--trainer.strategy=ddp"],
    "fsdp2": [FULLY_SHARDED],
    "hybrid": [FULLY_SHARDED, "--trainer.strategy.init_args.sharding.replicas=2"],
}
POISONED = ["ddp", "fsdp2"]


class Witness(Callback):
    """Writes down what the callbacks under test should find, a file a rank.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / f"witness{os.environ['RANK']}.jsonl"

    def write(self, **row) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.write(
            kind="batch",
            batch=batch_idx,
            sample_ids=batch.sample_ids,
            lengths=batch.lengths.tolist(),
            tiles=len(batch.inputs["pixel_values"]),
        )

    def on_before_backward(self, trainer, pl_module, loss):
        self.write(kind="loss", loss=repr(loss.item()))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        whole = [
            (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).double().flatten()
            for parameter in pl_module.parameters()
            if (gradient := parameter.grad) is not None
        ]
        sharded = any(isinstance(parameter, DTensor) for parameter in pl_module.parameters())
        self.write(kind="step", gradient_norm=torch.cat(whole).norm().item(), sharded=sharded)

    def on_train_batch_end(self, trainer, *arguments):
        self.write(kind="memory", bytes=psutil.Process().memory_info().rss, step=trainer.global_step)


class PoisonedPicture(Callback):
    """Makes the picture of a batch NaN on rank 1, and keeps the weights of before that step."""

    def __init__(self, batch_idx: int) -> None:
        self.batch_idx = batch_idx

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch_idx:
            self.weights = {name: value.detach().clone() for name, value in pl_module.named_parameters()}
            if trainer.global_rank == 1:
                batch.inputs["pixel_values"].fill_(float("nan"))


def local(value):
    return value.to_local() if isinstance(value, DTensor) else value


class BrokenRank(Callback):
    """Rank 1 fails alone."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1 and trainer.global_rank == 1:
            raise ValueError("this rank's row\nis broken")


def arguments(folder, checkpoint, annotations, *more):
    return [
        *COMMON,
        f"--model.model_name_or_path={checkpoint}",
        f"--data.train_annotations=[{annotations}]",
        f"--data.cache_dir={Path(folder).parent / 'cache'}",
        f"--trainer.default_root_dir={folder}",
        f"--trainer.logger.save_dir={folder}",
        "--trainer.callbacks+=lightning_modules.callbacks.throughput.Throughput",
        "--trainer.callbacks.peak_flops=1e12",
        *more,
    ]


def say(text):
    sys.stdout.write(f"== {text}\n")
    sys.stdout.flush()


def train(folder, checkpoint, annotations, strategies):
    """A run of each strategy that ends well."""
    folder, rank = Path(folder), int(os.environ["RANK"])
    ballast = torch.ones(rank * 2**27)  # 512 MiB on rank 1
    for strategy in strategies:
        place = folder / strategy
        place.mkdir(exist_ok=True)
        say(strategy)
        with (
            more_callbacks(Witness(place)),
            patch.object(sys, "argv", ["visualprm"]),
            slow_collation(SLOW if rank == 1 else 0.0),
        ):
            cli.run(arguments(place, checkpoint, annotations, *STRATEGIES[strategy]))
    assert len(ballast) == rank * 2**27


def train_and_fail(folder, checkpoint, annotations):
    """Runs that end well, runs that meet a NaN on rank 1, and last one where rank 1 fails alone."""
    train(folder, checkpoint, annotations, POISONED)
    folder, rank = Path(folder), int(os.environ["RANK"])
    for strategy in POISONED:
        place = folder / f"{strategy}_poisoned"
        place.mkdir(exist_ok=True)
        poison = PoisonedPicture(ACCUMULATED)
        say(f"{strategy}_poisoned")
        with more_callbacks(Witness(place), poison) as made, patch.object(sys, "argv", ["visualprm"]):
            try:
                cli.run(arguments(place, checkpoint, annotations, *STRATEGIES[strategy]))
            except NonFiniteError as error:
                (place / f"error{rank}.txt").write_text("\n".join([str(error), *error.__notes__]))
        (module,) = made
        unchanged = {
            name: torch.equal(local(value), local(poison.weights[name])) for name, value in module.named_parameters()
        }
        (place / f"unchanged{rank}.json").write_text(json.dumps(unchanged))
    say("alone")
    command = ["visualprm", *arguments(folder / "alone", checkpoint, annotations, *STRATEGIES["ddp"])]
    with more_callbacks(BrokenRank()), patch.object(sys, "argv", command):
        cli.main()


@contextmanager
def more_callbacks(*callbacks):
    """Adds ready-made callbacks, of which a test keeps hold, to the command; gives the list of modules it makes."""
    modules, create = [], VisualPRMCLI._instantiate_trainer

    def with_callbacks(command, config, given):
        modules.append(command.model)
        return create(command, config, [*given, *callbacks])

    with patch.object(VisualPRMCLI, "_instantiate_trainer", with_callbacks):
        yield modules


def slow_collation(seconds):
    collate = StepCollator.__call__

    def slowly(collator, rows):
        time.sleep(seconds)
        return collate(collator, rows)

    return patch.object(StepCollator, "__call__", slowly)
