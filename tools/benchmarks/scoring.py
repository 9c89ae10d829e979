"""Scoring N candidates of one question: one forward a step, one forward a response, and the shared prefix.

Runs the three on the same model and candidates, in turn, several rounds; prints medians::

    OMP_NUM_THREADS=1 python -m tools.benchmarks.scoring --size small --tiles 1 4 7 --candidates 8 32 128

- ``soft``: the released scorer's first way, one forward over the conversation up to each step;
- ``soft_v2``: its second way, one forward over the conversation of each response; both make the logits of the whole
  vocabulary for every token;
- ``ours``: :func:`lightning_modules.model.scoring.score_candidates`.

The model has random weights, in the proportions of VisualPRM-8B: the vision tower takes a fifth of the operations of the
language model on a tile's tokens, the vocabulary head 5 %, and texts are shorter in the ratio of a tile's tokens. The
floor is what must be computed, by formula (see :mod:`tools.benchmarks.operations`), at the rate of the fastest matrix
product of this run. Peak memory is measured in processes of their own: growth of the resident memory, or what CUDA
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

import torch
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedModel

from datamodules.files import atomic_write_text
from datamodules.process.candidates import EncodedCandidates
from lightning_modules.model.scoring import score_candidates
from lightning_modules.model.step_head import StepHead
from tools.benchmarks.operations import VISUALPRM_8B, ModelShape, Workload, usual_workload

VARIANTS = ("soft", "soft_v2", "ours")
CLASS_IDS = (10, 11)
FIRST_TEXT_ID, IMAGE_ID, PAD_ID = 20, 1, 0
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Size:
    """A model in the 8B's proportions.

    Attributes:
        hidden: Of the language model; its MLP is 3.5 times as wide, a head has 64, four query heads share a key head.
        layers: Of the language model.
        vision_width: Of the vision tower.
        vision_layers: Of the vision tower.
        tile: Side of a tile in pixels; a patch has 14, four patches are a token.
        vocabulary: Rows of the head.
    """

    hidden: int
    layers: int
    vision_width: int
    vision_layers: int
    tile: int
    vocabulary: int

    def config(self) -> InternVLConfig:
        """The configuration of the model."""
        tokens = (self.tile // 14) ** 2 // 4
        return InternVLConfig(
            vision_config={
                "hidden_size": self.vision_width,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": max(1, self.vision_width // 64),
                "intermediate_size": 4 * self.vision_width,
                "image_size": [self.tile, self.tile],
                "patch_size": [14, 14],
            },
            text_config={
                "model_type": "llama",
                "vocab_size": self.vocabulary,
                "hidden_size": self.hidden,
                "intermediate_size": self.hidden * 7 // 2,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.hidden // 64,
                "num_key_value_heads": self.hidden // 256,
                "max_position_embeddings": 8192,
                "pad_token_id": PAD_ID,
            },
            image_token_id=IMAGE_ID,
            image_seq_length=tokens,
            tie_word_embeddings=False,
        )


SIZES = {
    "tiny": Size(hidden=256, layers=2, vision_width=64, vision_layers=2, tile=56, vocabulary=256),
    "small": Size(hidden=512, layers=8, vision_width=128, vision_layers=5, tile=224, vocabulary=2880),
    "medium": Size(hidden=1024, layers=8, vision_width=256, vision_layers=6, tile=224, vocabulary=5760),
    "large": Size(hidden=2048, layers=16, vision_width=512, vision_layers=12, tile=448, vocabulary=23040),
    "8b": Size(hidden=4096, layers=32, vision_width=1024, vision_layers=24, tile=448, vocabulary=92553),
}


def make_model(size: Size, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model with random weights, larger where fresh ones would hardly look at their context."""
    torch.manual_seed(0)
    with torch.device(device):
        model = InternVLForConditionalGeneration._from_config(size.config(), dtype=dtype).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(3)
        model.get_input_embeddings().weight.mul_(20)
        model.get_output_embeddings().weight[list(CLASS_IDS)] *= 20
    return model


def make_candidates(model: PreTrainedModel, work: Workload) -> EncodedCandidates:
    """Random tokens of the workload's sizes, and a picture of noise."""
    generator = torch.Generator().manual_seed(1)
    text = partial(torch.randint, FIRST_TEXT_ID, model.config.get_text_config().vocab_size, generator=generator)
    prefix = torch.cat([torch.full((work.tiles * model.config.image_seq_length,), IMAGE_ID), text((work.text_tokens,))])
    height, width = model.config.vision_config.image_size
    pixels = torch.rand(work.tiles, 3, height, width, generator=generator) * 2 - 1
    inputs = {"input_ids": prefix[None], "attention_mask": torch.ones_like(prefix)[None], "pixel_values": pixels}
    suffixes = [text((ends[-1],)) for ends in work.step_ends]
    return EncodedCandidates(inputs, suffixes, [torch.tensor(ends) - 1 for ends in work.step_ends])


def _class_logits(model: PreTrainedModel, group: EncodedCandidates, suffix: Tensor) -> Tensor:
    """Vocabulary logits of a whole conversation, as a plain forward makes them; those of the classes are kept."""
    ids = torch.cat([group.prefix["input_ids"][0], suffix])[None].to(model.device)
    pixels = group.prefix["pixel_values"].to(model.device, model.dtype)
    logits = model(input_ids=ids, pixel_values=pixels, use_cache=False).logits
    return logits[0, group.prefix["input_ids"].shape[1] :, list(CLASS_IDS)].float().cpu()


def soft(model: PreTrainedModel, group: EncodedCandidates) -> list[Tensor]:
    """One forward a step."""
    pairs = zip(group.suffixes, group.step_positions, strict=True)
    return [
        torch.stack([_class_logits(model, group, suffix[: end + 1])[-1] for end in positions.tolist()])
        for suffix, positions in pairs
    ]


def soft_v2(model: PreTrainedModel, group: EncodedCandidates) -> list[Tensor]:
    """One forward a response."""
    pairs = zip(group.suffixes, group.step_positions, strict=True)
    return [_class_logits(model, group, suffix)[positions] for suffix, positions in pairs]


def ours(model: PreTrainedModel, group: EncodedCandidates, memory_gib: float | None = None) -> list[Tensor]:
    """The shared prefix."""
    return score_candidates(model, StepHead(model, CLASS_IDS), [group], PAD_ID, memory_gib)[0]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(device: str, run: Callable[[], object]) -> tuple[float, object]:
    """Time of a call, and its result."""
    _wait(device)
    began = time.perf_counter()
    result = run()
    _wait(device)
    return time.perf_counter() - began, result


def matrix_product_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of some square matrix products."""
    best = 0.0
    for side in (512, 1024, 2048) if device == "cpu" else (4096, 8192):
        left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
        spent = min(seconds(device, lambda left=left, right=right: left @ right)[0] for _ in range(4))
        best = max(best, 2 * side**3 / spent)
    return best


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def peak_bytes(variant: str, size: Size, work: Workload, device: str, dtype: torch.dtype, memory: float | None) -> int:
    """Peak memory of one run beside the weights; to be called in a fresh process (Linux or CUDA)."""
    torch.set_num_threads(1)
    model = make_model(size, device, dtype)
    run = partial(ours, memory_gib=memory) if variant == "ours" else {"soft": soft, "soft_v2": soft_v2}[variant]
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
    """What was measured and counted at one number of tiles and candidates.

    Attributes:
        tiles: Of the picture.
        candidates: N.
        seconds: Median of each variant; None where it was left out.
        peak_mib: Peak memory of each variant beside the weights; None where it was not measured.
        operations: Of each variant, and ``floor``.
        counted_ratio: Operations of ``soft_v2`` over the floor.
        counted_ratio_8b: The same at VisualPRM-8B's shape.
        measured_ratio: Time of ``soft_v2`` over ours, the median of the rounds.
        over_floor: Time of ours over the floor at the matrix-product rate of the same rounds.
        largest_difference: Of a step score between ours and any other variant.
        noise: The same between ``soft`` and ``soft_v2``; None without ``soft``.
        score_spread: Largest minus smallest step score, so that an equality means something.
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
    largest_difference: float
    noise: float | None
    score_spread: float


def measure(model: PreTrainedModel, size: Size, work: Workload, arguments: argparse.Namespace) -> Row:
    """Interleaved rounds of all variants at one workload."""
    device, dtype = arguments.device, model.dtype
    shape = ModelShape.of(model.config)
    operations = {
        "soft": work.one_forward_a_step(shape),
        "soft_v2": work.one_forward_a_response(shape),
        "ours": work.floor(shape),
        "floor": work.floor(shape),
    }
    rates = [matrix_product_rate(device, dtype)]
    runs = {"soft": soft, "soft_v2": soft_v2, "ours": partial(ours, memory_gib=arguments.memory_gib)}
    if operations["soft"] / rates[0] > arguments.longest_seconds:
        del runs["soft"]
    group = make_candidates(model, work)
    times: dict[str, list[float]] = {name: [] for name in runs}
    scores: dict[str, Tensor] = {}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            spent, logits = seconds(device, partial(run, model, group))
            times[name].append(spent)
            assert isinstance(logits, list)
            scores[name] = torch.cat(logits).softmax(-1)[:, 0]
        rates.append(matrix_product_rate(device, dtype))
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
        over_floor=median["ours"] * statistics.median(rates) / operations["floor"],
        largest_difference=max(
            (scores["ours"] - scores[name]).abs().max().item() for name in scores if name != "ours"
        ),
        noise=(scores["soft"] - scores["soft_v2"]).abs().max().item() if "soft" in scores else None,
        score_spread=(scores["soft_v2"].max() - scores["soft_v2"].min()).item(),
    )


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def table(rows: list[Row]) -> str:
    """The report as Markdown; a dash where a variant was left out."""
    head = (
        "| tiles | N | soft s | soft_v2 s | ours s | soft_v2 / ours: counted | measured | share | at 8B counted | "
        "ours / floor | MiB: soft | soft_v2 | ours | score difference | spread |"
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
            *(_shown(row.peak_mib[name], ".0f") for name in VARIANTS),
            f"{row.largest_difference:.1e}",
            f"{row.score_spread:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 4, 7], help="a thumbnail counts as one")
    parser.add_argument("--candidates", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--longest-seconds", type=float, default=60.0, help="soft is left out if it would take longer")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure peak memory, too")
    parser.add_argument("--memory-gib", type=float, help="memory budget of ours; none by default")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
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
        shape = ModelShape.of(model.config)
        print(
            f"{arguments.size}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, {arguments.dtype} on "
            f"{arguments.device}, {torch.get_num_threads()} threads; head / language model "
            f"{shape.head(1) / shape.text(1):.3f} (8B {VISUALPRM_8B.head(1) / VISUALPRM_8B.text(1):.3f}), a tile's image "
            f"/ language model {shape.image(1) / shape.text(shape.image_tokens):.3f} "
            f"(8B {VISUALPRM_8B.image(1) / VISUALPRM_8B.text(VISUALPRM_8B.image_tokens):.3f})"
        )
        for tiles in arguments.tiles:
            for candidates in arguments.candidates:
                work = usual_workload(tiles, candidates, max(1, round(125 * share)), max(1, round(40 * share)))
                rows.append(measure(model, size, work, arguments))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
                if rows[-1].seconds["soft"] is None:
                    print(f"soft was left out: it would take more than {arguments.longest_seconds:g} s a round")
        rate = matrix_product_rate(arguments.device, dtype)
    print(f"\nfastest matrix product at the end: {rate / 1e9:.0f} billion operations/s\n\n{table(rows)}")
    if arguments.output:
        atomic_write_text(arguments.output, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    different = [row for row in rows if arguments.dtype == "float32" and row.largest_difference > TOLERANCE]
    for row in different:
        print(f"{row.tiles} tiles, {row.candidates} candidates: scores differ by {row.largest_difference:.1e}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
