"""Scoring N candidates of one question: one forward per step, one per response, and the shared prefix.

Runs the three on the same model and candidates, in turn, several rounds; prints medians::

    OMP_NUM_THREADS=1 python -m tools.benchmarks.scoring --size small --tiles 1 4 7 --candidates 8 32 128

- ``soft``: the released scorer's first way, one forward over the conversation up to each step;
- ``soft_v2``: its second way, one forward over the conversation of each response; both make the logits of the whole
  vocabulary for every token;
- ``ours``: :func:`lightning_modules.scoring.candidates.score_candidates`.

The model has random weights, in the proportions of VisualPRM-8B: the vision tower takes a fifth of the operations of
the language model on a tile's tokens, the vocabulary head 5 %, and texts are shorter in the ratio of a tile's tokens.
The floor is what must be computed, by formula (see :mod:`tools.benchmarks.operations`), at the rate of matrix products
in the same round. Peak memory is measured in processes of their own: growth of the resident memory, or what CUDA
allocated, beside the weights. The status is 1 if scores differ by more than 1e-4 in float32.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from datamodules.storage.files import atomic_write_text
from tools.benchmarks.models import Size, make_model
from tools.benchmarks.operations import VISUALPRM_8B, ModelShape, Workload, usual_workload
from tools.benchmarks.scoring_variants import SIZES, make_candidates, variants

VARIANTS = ("soft", "soft_v2", "ours")
TOLERANCE = 1e-4
Result = TypeVar("Result")


@dataclass(frozen=True)
class Clock:
    """Measures time on a device: wall time, or processor time of all threads of this process."""

    device: str
    of_processor: bool = False

    def seconds(self, run: Callable[[], Result]) -> tuple[float, Result]:
        """Time of a call, and its result."""
        now = time.process_time if self.of_processor else time.perf_counter
        self._wait()
        began = now()
        result = run()
        self._wait()
        return now() - began, result

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Rate:
    """Operations/s of matrix products: of all together, and of the fastest one."""

    sustained: float
    peak: float


def matrix_product_rate(clock: Clock, dtype: torch.dtype, for_seconds: float = 0.3) -> Rate:
    """Multiply square matrices for a while."""
    side = 1024 if clock.device == "cpu" else 8192
    left, right = (torch.rand(side, side, device=clock.device, dtype=dtype) for _ in range(2))
    clock.seconds(partial(torch.matmul, left, right))
    spent: list[float] = []
    while sum(spent) < for_seconds:
        spent.append(clock.seconds(partial(torch.matmul, left, right))[0])
    return Rate(2 * side**3 * len(spent) / sum(spent), 2 * side**3 / min(spent))


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def peak_bytes(variant: str, size: Size, work: Workload, device: str, dtype: torch.dtype, memory: float | None) -> int:
    """Peak memory of one run in addition to the weights; call it in a fresh process (Linux or CUDA)."""
    torch.set_num_threads(1)
    model = make_model(size, device, dtype)
    run = variants(memory)[variant]
    with torch.inference_mode():
        run(model, make_candidates(model, usual_workload(1, 1, 8, 4)))
        group = make_candidates(model, work)
        if device == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            run(model, group)
            return torch.cuda.max_memory_allocated() - before
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident now
        before = _resident_bytes("VmRSS")
        run(model, group)
        return _resident_bytes("VmHWM") - before


@dataclass(frozen=True)
class Row:
    """Measured and counted values for one number of tiles and candidates.

    Attributes:
        tiles: Tiles of the picture.
        candidates: N.
        seconds: Median time of each variant; None if it was left out.
        peak_mib: Peak memory of each variant in addition to the weights; None if it was not measured.
        operations: Operations of each variant, and ``floor``.
        counted_ratio: Operations of ``soft_v2`` / floor.
        counted_ratio_8b: The same at VisualPRM-8B's shape.
        measured_ratio: Time of ``soft_v2`` / time of ours, median of the rounds.
        over_floor: Time of ours / time of the floor, median of the rounds. The floor uses the sustained rate of matrix
            products right before and after, so other work on the machine slows down both.
        over_peak_floor: Shortest time of ours / time of the floor at the rate of the fastest matrix product in any
            round.
        largest_difference: Largest difference of a step score between ours and any other variant.
        noise: The same between ``soft`` and ``soft_v2``; None without ``soft``.
        score_spread: Largest minus smallest step score; shows that equal scores are not trivial.
    """

    tiles: int
    candidates: int
    seconds: dict[str, float | None]
    peak_mib: dict[str, float | None]
    operations: dict[str, int]
    counted_ratio: float
    counted_ratio_8b: float
    measured_ratio: float
    over_floor: float
    over_peak_floor: float
    largest_difference: float
    noise: float | None
    score_spread: float


def measure(model: PreTrainedModel, size: Size, work: Workload, arguments: argparse.Namespace) -> Row:
    """Interleaved rounds of all variants at one workload."""
    device, dtype = arguments.device, model.dtype
    clock = Clock(device, arguments.clock == "processor")
    shape = ModelShape.of(model.config)
    operations = {
        "soft": work.one_forward_a_step(shape),
        "soft_v2": work.one_forward_a_response(shape),
        "ours": work.floor(shape),
        "floor": work.floor(shape),
    }
    rates = [matrix_product_rate(clock, dtype)]
    runs = variants(arguments.memory_gib)
    if operations["soft"] / rates[0].sustained > arguments.longest_seconds:
        del runs["soft"]
    group = make_candidates(model, work)
    times: dict[str, list[float]] = {name: [] for name in runs}
    scores: dict[str, Tensor] = {}
    floors: list[float] = []
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            if name == "ours":
                rates.append(matrix_product_rate(clock, dtype))
            spent, logits = clock.seconds(partial(run, model, group))
            times[name].append(spent)
            scores[name] = torch.cat(logits).softmax(-1)[:, 0]
        rates.append(matrix_product_rate(clock, dtype))
        floors.append(operations["floor"] / statistics.mean(rate.sustained for rate in rates[-2:]))
    median = {name: statistics.median(spent) for name, spent in times.items()}
    eight = usual_workload(work.tiles, len(work.step_ends))
    peaks: dict[str, float | None] = dict.fromkeys(VARIANTS)
    if arguments.memory:
        for name in runs:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(peak_bytes, name, size, work, device, dtype, arguments.memory_gib).result()
            peaks[name] = found / 2**20
    return Row(
        tiles=work.tiles,
        candidates=len(work.step_ends),
        seconds={name: median.get(name) for name in VARIANTS},
        peak_mib=peaks,
        operations=operations,
        counted_ratio=operations["soft_v2"] / operations["floor"],
        counted_ratio_8b=eight.one_forward_a_response(VISUALPRM_8B) / eight.floor(VISUALPRM_8B),
        measured_ratio=statistics.median(b / c for b, c in zip(times["soft_v2"], times["ours"], strict=True)),
        over_floor=statistics.median(spent / floor for spent, floor in zip(times["ours"], floors, strict=True)),
        over_peak_floor=min(times["ours"]) * max(rate.peak for rate in rates) / operations["floor"],
        largest_difference=max((scores["ours"] - scores[name]).abs().max().item() for name in scores if name != "ours"),
        noise=(scores["soft"] - scores["soft_v2"]).abs().max().item() if "soft" in scores else None,
        score_spread=(scores["soft_v2"].max() - scores["soft_v2"].min()).item(),
    )


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def table(rows: list[Row]) -> str:
    """The report as Markdown; a dash where a variant was left out."""
    head = (
        "| tiles | N | soft s | soft_v2 s | ours s | soft_v2 / ours: counted | measured | share | at 8B counted | "
        "ours / floor | at peak | MiB: soft | soft_v2 | ours | score difference | spread |"
    )
    lines = [head, "|" + "---:|" * (head.count("|") - 1)]
    for row in rows:
        cells = [
            str(row.tiles),
            str(row.candidates),
            *(_shown(row.seconds[name], ".3f") for name in VARIANTS),
            f"{row.counted_ratio:.2f}",
            f"{row.measured_ratio:.2f}",
            f"{row.measured_ratio / row.counted_ratio:.2f}",
            f"{row.counted_ratio_8b:.1f}",
            f"{row.over_floor:.2f}",
            f"{row.over_peak_floor:.2f}",
            *(_shown(row.peak_mib[name], ".0f") for name in VARIANTS),
            f"{row.largest_difference:.1e}",
            f"{row.score_spread:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def description(model: PreTrainedModel, arguments: argparse.Namespace) -> str:
    """Description of the measurement, with the proportions of the model and of the 8B."""
    shares = [
        (shape.head(1) / shape.text(1), shape.image(1) / shape.text(shape.image_tokens))
        for shape in (ModelShape.of(model.config), VISUALPRM_8B)
    ]
    (head, image), (head_8b, image_8b) = shares
    return (
        f"{arguments.size}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, {arguments.dtype} on "
        f"{arguments.device}, {torch.get_num_threads()} threads, {arguments.clock} time\n"
        f"operations over those of the language model: vocabulary head {head:.3f} (8B {head_8b:.3f}), image of a tile "
        f"{image:.3f} (8B {image_8b:.3f})\n"
    )


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 4, 7], help="a thumbnail counts as one")
    parser.add_argument("--candidates", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--longest-seconds", type=float, default=60.0, help="soft is left out if it would take longer")
    parser.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, default=True, help="measure peak memory, too"
    )
    parser.add_argument("--memory-gib", type=float, help="memory budget of ours; none by default")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--clock",
        choices=["wall", "processor"],
        default="wall",
        help="processor: time that this process was computing, where the machine does other work beside",
    )
    parser.add_argument("--output", type=Path, help="JSON file for the rows")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Measure and print; the status is 1 if scores differ."""
    arguments = parse(words)
    size = SIZES[arguments.size]
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    rows = []
    with torch.inference_mode():
        model = make_model(size, arguments.device, dtype)
        share = model.config.image_seq_length / VISUALPRM_8B.image_tokens
        print(description(model, arguments))
        for tiles in arguments.tiles:
            for candidates in arguments.candidates:
                work = usual_workload(tiles, candidates, max(1, round(125 * share)), max(1, round(40 * share)))
                rows.append(measure(model, size, work, arguments))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
                if rows[-1].seconds["soft"] is None:
                    print(f"soft was left out: it would take more than {arguments.longest_seconds:g} s a round")
        rate = matrix_product_rate(Clock(arguments.device, arguments.clock == "processor"), dtype)
    print(
        f"\nmatrix products at the end: {rate.sustained / 1e9:.0f} billion operations/s, the fastest "
        f"{rate.peak / 1e9:.0f}\n\n{table(rows)}"
    )
    if arguments.output:
        atomic_write_text(arguments.output, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    different = [row for row in rows if arguments.dtype == "float32" and row.largest_difference > TOLERANCE]
    for row in different:
        print(f"{row.tiles} tiles, {row.candidates} candidates: scores differ by {row.largest_difference:.1e}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
