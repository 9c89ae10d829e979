"""Training speed of the whole 8B on one GPU: tokens/s, MFU, and peak memory.

    python -m tools.benchmarks.training_8b

The model has the shape of InternVL2.5-8B and random weights, made on the device. It is trained in bfloat16 with
activation checkpointing and bitsandbytes' AdamW with states of 8 bits, on packed rows of at most 8,192 tokens, as
:class:`lightning_modules.process_reward.ProcessRewardModel` trains: the step head on hidden states, the vision tower
included. Conversations have the lengths, steps and pictures of :mod:`tools.benchmarks.training_workload`. Batches are
on the device before the clock starts. The goal is an MFU of 0.45 on an H100.

MFU is that of :class:`lightning_modules.callbacks.throughput.Throughput`: what is computed a second time because of
checkpointing does not count, nor does the attention between conversations of a row. On a CPU, ``--size small`` shows
that the program works; its peak is not known, so that there is no MFU unless ``--peak-flops`` is given.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from bitsandbytes.optim.adamw import AdamW8bit

from datamodules.batching.collate import StepBatch
from datamodules.storage.files import atomic_write_text
from lightning_modules.model.backbone import BackboneOptions, prepare_backbone
from lightning_modules.model.flops import count_operations, peak_operations
from lightning_modules.model.step_head import language_model_head
from tools.benchmarks.models import make_model
from tools.benchmarks.training import Packed, optimizer_step
from tools.benchmarks.training_workload import SIZES, make_rows, padded_batch

GOAL = 0.45


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        device: Its name.
        parameters: Number of parameters.
        trained_parameters: Number of trained ones.
        seconds_per_step: Median time of an optimizer step.
        tokens_per_second: Median over the steps; there is no padding.
        filled: Mean share of a row's tokens that is used.
        operations_per_second: Useful operations/s.
        mfu: Model FLOPs utilisation; None if the peak of the device is not known.
        peak_gib: Peak memory of the device; on a CPU of the process.
    """

    device: str
    parameters: int
    trained_parameters: int
    seconds_per_step: float
    tokens_per_second: float
    filled: float
    operations_per_second: float
    mfu: float | None
    peak_gib: float


def measure(arguments: argparse.Namespace) -> Result:
    """Train for some steps and time those after the first ones."""
    size, device, dtype = SIZES[arguments.size], arguments.device, getattr(torch, arguments.dtype)
    model = make_model(size, device, dtype).train()
    if arguments.attention:
        model.set_attn_implementation(arguments.attention)
    language_model_head(model).requires_grad_(False)
    options = BackboneOptions(gradient_checkpointing=not arguments.keep_activations, compile=arguments.compile)
    prepare_backbone(model, options)
    packed = Packed(model, size.packed_tokens)
    trained = packed.parameters()
    # The learning rate changes nothing about the speed, and random weights would go astray.
    optimizer = AdamW8bit(trained, lr=1e-8)
    steps = arguments.warmup + arguments.steps
    make = partial(padded_batch, size, device=device, dtype=dtype)
    batches: list[StepBatch] = []
    number = 0
    while len(batches) < steps * arguments.rows:
        rows = make_rows(size, 8 * arguments.rows * steps, seed=number)
        batches += packed.batches(make, [row for row in rows if len(row.ids) <= size.packed_tokens], 0)
        number += 1
    count = count_operations(model)
    seconds, tokens, operations = [], [], []
    for step in range(steps):
        some = batches[step * arguments.rows : (step + 1) * arguments.rows]
        if step == arguments.warmup and device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        _wait(device)
        began = time.perf_counter()
        optimizer_step(packed, optimizer, some)
        _wait(device)
        seconds.append(time.perf_counter() - began)
        tokens.append(sum(int(batch.lengths.sum()) for batch in some))
        operations.append(sum(float(count.of(batch.inputs, batch.lengths)) for batch in some))
    timed = slice(arguments.warmup, None)
    rate = sum(operations[timed]) / sum(seconds[timed])
    name = torch.cuda.get_device_name() if device == "cuda" else f"this {device}"
    peak = arguments.peak_flops or (peak_operations(name, dtype) if device == "cuda" else None)
    if device == "cuda":
        held = torch.cuda.max_memory_allocated() / 2**30
    else:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Result(
        device=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_parameters=sum(parameter.numel() for parameter in trained),
        seconds_per_step=statistics.median(seconds[timed]),
        tokens_per_second=statistics.median(t / s for t, s in zip(tokens[timed], seconds[timed], strict=True)),
        filled=sum(tokens[timed]) / (len(tokens[timed]) * arguments.rows * size.packed_tokens),
        operations_per_second=rate,
        mfu=None if peak is None else rate / peak,
        peak_gib=held,
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def report(result: Result, arguments: argparse.Namespace) -> str:
    """The figures as text."""
    size = SIZES[arguments.size]
    mfu = "not known, give --peak-flops" if result.mfu is None else f"{result.mfu:.3f} (the goal on an H100: {GOAL})"
    return "\n".join(
        [
            f"{arguments.size}: {result.parameters / 1e9:.3f}G parameters, "
            f"{result.trained_parameters / 1e9:.3f}G trained, "
            f"{arguments.dtype}, AdamW with 8-bit states, "
            f"{'no' if arguments.keep_activations else 'with'} activation checkpointing"
            f"{', compiled layers' if arguments.compile else ''}, on {result.device}",
            f"rows of {size.packed_tokens} tokens, {100 * result.filled:.0f} % full, {arguments.rows} a step; "
            f"{arguments.steps} steps after {arguments.warmup}",
            f"seconds a step: {result.seconds_per_step:.3f}",
            f"tokens/s: {result.tokens_per_second:.0f}",
            f"10^12 useful operations/s: {result.operations_per_second / 1e12:.3f}",
            f"MFU: {mfu}",
            f"peak memory: {result.peak_gib:.2f} GiB of the {'device' if arguments.device == 'cuda' else 'process'}",
        ]
    )


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="8b")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if has_gpu else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--rows", type=int, default=1, help="packed rows of an optimizer step")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--warmup", type=int, default=3, help="steps before those")
    parser.add_argument("--attention", help="such as flash_attention_2; sdpa by default")
    parser.add_argument("--compile", action="store_true", help="torch.compile of every decoder layer")
    parser.add_argument("--keep-activations", action="store_true", help="no activation checkpointing")
    parser.add_argument("--peak-flops", type=float, help="of the device, where it is not known")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(words)
    result = measure(arguments)
    print(report(result, arguments))
    if arguments.output:
        figures = asdict(result) | {"arguments": {name: str(value) for name, value in vars(arguments).items()}}
        atomic_write_text(arguments.output, json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
