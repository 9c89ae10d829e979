"""Training speed: padded batches with the loss of the whole vocabulary, and packed ones with the step head.

Both train one model on the same rows, equally many per optimizer step, in turn. Medians of the rounds are printed::

    OMP_NUM_THREADS=1 python -m tools.benchmarks.training --size small

- ``padded``: random batches, padded to the longest; logits of the whole vocabulary at every token, in float32, and the
  cross-entropy of the tokens that are judged, as in supervised fine-tuning;
- ``packed``: conversations packed by :class:`datamodules.batching.packed_order.PackedSampler`, and the step head, as
  :class:`lightning_modules.process_reward.ProcessRewardModel` is trained.

The model has random weights, in the proportions of VisualPRM-8B, and conversations have the lengths of VisualPRM400K
(see :mod:`tools.benchmarks.training_workload`). The learning rate is 0, so that all rounds compute the same. In float32
the status is 1 if the loss of any step over the class tokens differs by more than 1e-5 between the two.

Memory is that of the tensors that a step makes: activations and gradients, without weights and optimizer states. That
of the head alone is taken at the 8B's vocabulary of 92,553: logits and what the loss makes of them, the gradient of the
head's weights, but not that of the hidden states, which both give back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from datamodules.batching.collate import StepBatch
from datamodules.batching.packed_order import PackedSampler
from datamodules.batching.packing import pack
from datamodules.storage.files import atomic_write_text
from lightning_modules.model.flops import count_operations
from lightning_modules.model.packed_forward import hidden_states, step_logits
from lightning_modules.model.step_head import StepHead
from tools.benchmarks.head_memory import VOCABULARY_8B, by_formula, measured, peak_bytes
from tools.benchmarks.models import CLASS_IDS, Size, make_model
from tools.benchmarks.training_workload import SIZES, Row, make_rows, padded_batch

TOLERANCE = 1e-5
IGNORED = -100


def labels_of(batch: StepBatch) -> Tensor:
    """(B, S) index of the class, ignored at padding."""
    return (batch.mc == 0).long().masked_fill(batch.mc.isnan(), IGNORED)


def vocabulary_loss(logits: Tensor, batch: StepBatch) -> Tensor:
    """Sum of the cross-entropies of the judged tokens, from logits (B, L, V)."""
    labels = labels_of(batch)
    targets = torch.full(logits.shape[:2], IGNORED, device=logits.device)
    row, step = (labels != IGNORED).nonzero(as_tuple=True)
    targets[row, batch.step_positions[row, step]] = torch.tensor(CLASS_IDS, device=logits.device)[labels[row, step]]
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def class_losses(logits: Tensor, batch: StepBatch) -> Tensor:
    """Loss of every judged step over the class tokens, from logits (B, S, K)."""
    labels = labels_of(batch)
    return cross_entropy(logits.mT.float(), labels, ignore_index=IGNORED, reduction="none")[labels != IGNORED]


class Padded:
    """One optimizer step on padded batches with the loss of the whole vocabulary."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def batches(self, make: Callable[[Sequence[Row]], StepBatch], rows: list[Row], batch_size: int) -> list[StepBatch]:
        """The rows of an optimizer step, as they come."""
        return [make(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size)]

    def loss(self, batch: StepBatch) -> Tensor:
        """Summed over the steps of a batch."""
        return vocabulary_loss(self.model(**batch.inputs, use_cache=False).logits, batch)

    def class_losses(self, batch: StepBatch) -> Tensor:
        """From the same logits."""
        logits = self.model(**batch.inputs, use_cache=False).logits[..., list(CLASS_IDS)]
        index = batch.step_positions.clamp_min(0)[..., None].expand(-1, -1, len(CLASS_IDS))
        return class_losses(logits.gather(1, index), batch)

    def parameters(self) -> list[nn.Parameter]:
        """That are trained."""
        return list(self.model.parameters())


class Packed:
    """One optimizer step on packed batches with the step head."""

    def __init__(self, model: PreTrainedModel, max_tokens: int) -> None:
        self.model, self.max_tokens = model, max_tokens
        self.head = StepHead(model, CLASS_IDS).to(model.device)

    def batches(self, make: Callable[[Sequence[Row]], StepBatch], rows: list[Row], batch_size: int) -> list[StepBatch]:
        """The rows of an optimizer step, packed."""
        sampler = PackedSampler(np.array([len(row.ids) for row in rows]), self.max_tokens)
        return [_packed([rows[index] for index in batch], make) for batch in sampler]

    def loss(self, batch: StepBatch) -> Tensor:
        """Summed over the steps of a batch."""
        return self.class_losses(batch).sum()

    def class_losses(self, batch: StepBatch) -> Tensor:
        """Of every step."""
        return class_losses(step_logits(self.head, hidden_states(self.model, batch), batch), batch)

    def parameters(self) -> list[nn.Parameter]:
        """That are trained."""
        head = self.model.get_output_embeddings().weight
        return [*self.head.parameters(), *(p for p in self.model.parameters() if p is not head)]


def _packed(rows: Sequence[Row], make: Callable[[Sequence[Row]], StepBatch]) -> StepBatch:
    batch = make(rows)
    device = batch.step_positions.device
    batch.inputs = {name: value.cpu() for name, value in batch.inputs.items()}
    batch.step_positions = batch.step_positions.cpu()
    packed = pack(batch)
    packed.inputs = {name: value.to(device) for name, value in packed.inputs.items()}
    packed.step_positions = packed.step_positions.to(device)
    return packed


def optimizer_step(way: Padded | Packed, optimizer: torch.optim.Optimizer, batches: Sequence[StepBatch]) -> None:
    """Forward, backward, and an update."""
    steps = sum(int((~batch.mc.isnan()).sum()) for batch in batches)
    optimizer.zero_grad()
    for batch in batches:
        (way.loss(batch) / steps).backward()
    optimizer.step()


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        samples_per_second: Samples/s by variant, median of the rounds.
        tokens_per_second: Tokens/s without padding by variant, median of the rounds.
        operations_per_second: Useful operations/s (see :mod:`lightning_modules.model.flops`) by variant, median of the
            rounds.
        ratio: Time of ``padded`` / time of ``packed``, median of the rounds.
        ratios: Lowest and highest ratio of the rounds.
        padding: Share of padding in the tokens of padded batches.
        filled: Mean share of ``max_tokens`` in packed batches.
        peak_mib: Peak memory of activations and gradients in one optimizer step, by variant.
        largest_difference: Largest difference of a step's loss over the class tokens between the variants.
        loss_spread: Standard deviation of those losses; shows that equal losses are not trivial.
    """

    samples_per_second: dict[str, float]
    tokens_per_second: dict[str, float]
    operations_per_second: dict[str, float]
    ratio: float
    ratios: tuple[float, float]
    padding: float
    filled: float
    peak_mib: dict[str, float]
    largest_difference: float
    loss_spread: float


def measure(size: Size, arguments: argparse.Namespace) -> Result:
    """Interleaved rounds, each of one optimizer step of both variants on rows of its own."""
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    model = make_model(size, device, dtype).train()
    ways: dict[str, Padded | Packed] = {"padded": Padded(model), "packed": Packed(model, size.packed_tokens)}
    optimizers = {name: torch.optim.AdamW(way.parameters(), lr=0.0, weight_decay=0.0) for name, way in ways.items()}
    make = partial(padded_batch, size, device=device, dtype=dtype)
    rows = make_rows(size, arguments.samples * (arguments.rounds + 1))
    rows = [row for row in rows if len(row.ids) <= size.packed_tokens]
    groups = [rows[at : at + arguments.samples] for at in range(0, len(rows), arguments.samples)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    padding, filled, differences, losses = [], [], [0.0], []
    count, operations = count_operations(model), list[float]()
    peaks: dict[str, float] = {}
    for number, group in enumerate(groups[: arguments.rounds + 1]):
        made = {name: way.batches(make, group, arguments.batch_size) for name, way in ways.items()}
        if number == 0:  # also warms up
            for name, way in ways.items():
                peaks[name] = peak_bytes(device, partial(optimizer_step, way, optimizers[name], made[name])) / 2**20
        with torch.no_grad():
            of_ways = [torch.cat([way.class_losses(batch) for batch in made[name]]) for name, way in ways.items()]
        # Packing changes the order of conversations.
        one, two = (found.sort().values for found in of_ways)
        differences.append((one - two).abs().max().item())
        losses.append(one)
        if number == 0:
            continue
        operations.append(sum(float(count.of(batch.inputs, batch.lengths)) for batch in made["packed"]))
        padding += [1 - float(b.lengths.sum()) / b.inputs["input_ids"].numel() for b in made["padded"]]
        filled += [float(b.lengths.sum()) / size.packed_tokens for b in made["packed"]]
        for name in sorted(ways, reverse=bool(number % 2)):
            seconds[name].append(_timed(arguments.clock, device, ways[name], optimizers[name], made[name]))
    tokens = [sum(len(row.ids) for row in group) for group in groups[1:]]
    ratios = [a / b for a, b in zip(seconds["padded"], seconds["packed"], strict=True)]

    def rates(amounts: Sequence[float]) -> dict[str, float]:
        return {
            name: statistics.median(amount / spent for amount, spent in zip(amounts, of_way, strict=False))
            for name, of_way in seconds.items()
        }

    return Result(
        samples_per_second=rates([len(group) for group in groups[1:]]),
        tokens_per_second=rates(tokens),
        operations_per_second=rates(operations),
        ratio=statistics.median(ratios),
        ratios=(min(ratios), max(ratios)),
        padding=statistics.mean(padding),
        filled=statistics.mean(filled),
        peak_mib=peaks,
        largest_difference=max(differences),
        loss_spread=torch.cat(losses).std().item(),
    )


def _timed(
    clock: str, device: str, way: Padded | Packed, optimizer: torch.optim.Optimizer, batches: Sequence[StepBatch]
) -> float:
    now = time.process_time if clock == "processor" else time.perf_counter
    _wait(device)
    began = now()
    optimizer_step(way, optimizer, batches)
    _wait(device)
    return now() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def report(size: Size, result: Result, arguments: argparse.Namespace) -> str:
    """The figures as Markdown."""
    parameters = sum(p.numel() for p in make_model(size, "meta", torch.float32).parameters()) / 1e6
    lines = [
        f"{arguments.size}: {parameters:.1f}M parameters, {arguments.dtype} on {arguments.device}, "
        f"{torch.get_num_threads()} threads, {arguments.clock} time; {arguments.samples} samples an optimizer step, "
        f"padded in batches of {arguments.batch_size}, packed into {size.packed_tokens} tokens; "
        f"{arguments.rounds} rounds",
        "",
        "| | samples/s | tokens/s | 10^9 useful operations/s | peak MiB beside weights |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in ("padded", "packed"):
        lines.append(
            f"| {name} | {result.samples_per_second[name]:.2f} | {result.tokens_per_second[name]:.0f} | "
            f"{result.operations_per_second[name] / 1e9:.1f} | {result.peak_mib[name]:.0f} |"
        )
    lines += [
        "",
        f"packed over padded: {result.ratio:.2f} times the samples a second (rounds {result.ratios[0]:.2f} to "
        f"{result.ratios[1]:.2f}); padding {100 * result.padding:.0f} % of padded tokens, packed batches "
        f"{100 * result.filled:.0f} % full",
        f"loss of a step: largest difference {result.largest_difference:.1e}, spread {result.loss_spread:.2f}",
    ]
    return "\n".join(lines)


def head_report(arguments: argparse.Namespace) -> str:
    """Memory of both heads at the 8B's vocabulary."""
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    tokens, hidden, steps = arguments.head_tokens, arguments.head_hidden, arguments.head_steps
    shape = (tokens, hidden, VOCABULARY_8B, steps)
    alone, whole = (measured(*shape, arguments.device, dtype, with_states=states) for states in (False, True))
    return "\n".join(
        [
            f"heads at a vocabulary of {VOCABULARY_8B:,}, {tokens} tokens of width {hidden}, {steps} steps, {dtype}:",
            f"- forward, loss, gradients of logits and weights: {alone}",
            f"- by formula: {by_formula(*shape, dtype.itemsize)}",
            f"- with the gradient of all hidden states: {whole}",
            f"- by formula at 8,192 tokens of width 4,096 in bfloat16: {by_formula(8192, 4096, VOCABULARY_8B, 28, 2)}",
        ]
    )


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--samples", type=int, default=32, help="of an optimizer step")
    parser.add_argument("--batch-size", type=int, default=8, help="conversations of a padded batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="processor on a busy CPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--head-tokens", type=int, default=2048)
    parser.add_argument("--head-hidden", type=int, default=512)
    parser.add_argument("--head-steps", type=int, default=28, help="of five conversations of 5.6 steps")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Measure and print; the status is 1 if losses differ."""
    arguments = parse(words)
    size = SIZES[arguments.size]
    result = measure(size, arguments)
    print(report(size, result, arguments))
    print(head_report(arguments))
    if arguments.output:
        figures = {**asdict(result), "arguments": {name: str(value) for name, value in vars(arguments).items()}}
        atomic_write_text(arguments.output, json.dumps(figures, indent=1) + "\n")
    return int(arguments.dtype == "float32" and result.largest_difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
