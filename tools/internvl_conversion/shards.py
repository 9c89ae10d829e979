"""Write the converted weights shard by shard; memory holds one shard at a time."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from datamodules.storage.files import atomic_write_text
from tools.internvl_conversion.source import SourceWeights
from tools.internvl_conversion.weights import TargetTensor

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_size(text: str) -> int:
    """Bytes of a size such as ``5GB`` or ``500MB``; decimal, as in `transformers`.

    Raises:
        ValueError: If it is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]B)", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError(f"a size must be a number with KB, MB or GB, such as 5GB, got {text!r}")
    return size


def split_into_shards(
    plan: Sequence[TargetTensor], sizes: Sequence[int], max_size: int
) -> Iterator[tuple[list[TargetTensor], int]]:
    """Groups of neighbouring tensors with their total bytes; at most ``max_size`` unless one tensor is larger."""
    shard: list[TargetTensor] = []
    filled = 0
    for target, size in zip(plan, sizes, strict=True):
        if shard and filled + size > max_size:
            yield shard, filled
            shard, filled = [], 0
        shard.append(target)
        filled += size
    if shard:
        yield shard, filled


def write_shards(
    weights: SourceWeights, plan: Sequence[TargetTensor], folder: Path, dtype: torch.dtype, max_size: int
) -> list[Path]:
    """Write ``model*.safetensors`` and, for more than one, the index.

    Args:
        weights: Weights of the source.
        plan: Tensors to write, in the order of the source's files.
        folder: Folder to write into.
        dtype: Dtype of all written tensors.
        max_size: Most bytes of tensors per file, unless one tensor is larger; memory holds about as much.

    Returns:
        The weight files.
    """
    sizes = [
        math.prod(target.select(torch.empty(weights.tensors[target.source].shape, device="meta")).shape)
        * dtype.itemsize
        for target in plan
    ]
    shards = list(split_into_shards(plan, sizes, max_size))
    count = len(shards)
    files: list[Path] = []
    weight_map: dict[str, str] = {}
    for number, (shard, _) in enumerate(shards, start=1):
        name = "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
        with weights.reader() as get:
            made = {target.name: target.of(get, dtype) for target in shard}
            save_file(made, folder / name, metadata={"format": "pt"})
            del made
        (folder / name).chmod(0o644)
        files.append(folder / name)
        weight_map |= {target.name: name for target in shard}
    if count > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        atomic_write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
    return files
