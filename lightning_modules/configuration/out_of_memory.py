"""Too little memory, of a GPU or of the machine: how it is recognized, and which settings lower what a run needs.

This module imports nothing that is slow, see :mod:`lightning_modules.configuration.mistakes`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

_OF_THE_ALLOCATOR = re.compile(r"DefaultCPUAllocator: (?:not enough|can't allocate) memory.*", re.IGNORECASE)
# What libraries of CUDA and ROCm say themselves has no type of its own.
_OF_A_LIBRARY = re.compile(
    r"(?:CUDA|HIP)(?: driver| runtime)? error: out of memory|(?:CUBLAS|CUDNN|HIPBLAS)_STATUS_ALLOC_FAILED"
    r"|Cuda failure \d* ?'out of memory'",
    re.IGNORECASE,
)
_OF_A_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? \d+\) is killed by signal: (?P<signal>Killed|Bus error)")
_LESS_NEWS = re.compile(
    r" (?:Including non-PyTorch memory|Process \d+ has|Of the allocated memory|If reserved).*", re.S
)

STAGES = ("loading", "training", "evaluation", "prediction")
"""What a run may be at when memory runs out."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is short, of a GPU or of the machine.

    PyTorch has a type for its own allocations on a GPU. For main memory, and for what libraries allocate on a GPU,
    there is only a text; and of a worker of a dataloader it knows only that it was killed.
    """
    if isinstance(error, MemoryError) or _is_of_gpu(error):
        return True
    return isinstance(error, RuntimeError) and bool(_OF_THE_ALLOCATOR.search(str(error)) or _worker(error))


def what_is_short(error: BaseException) -> str:
    """A sentence about an error of memory, see :func:`is_out_of_memory`."""
    if killed := _worker(error):
        if killed == "Killed":
            return "a worker of a dataloader was killed, as the system does when main memory is used up"
        return (
            "a worker of a dataloader has no shared memory (/dev/shm) left; make that larger or set data.num_workers 0"
        )
    found = _OF_THE_ALLOCATOR.search(str(error))
    text = _LESS_NEWS.sub("", found[0] if found else str(error).strip().partition("\n")[0])
    return f"out of memory: {text}" if text else "out of memory"


def advice(settings: Mapping[str, Any], stage: str, error: BaseException) -> str:
    """What to change in a `visualprm` command that needs too much memory.

    Args:
        settings: Of the command, with defaults.
        stage: One of :data:`STAGES`.
        error: That of memory.

    Returns:
        A sentence that names keys with their present values.
    """
    data, model = (_arguments(settings, name) for name in ("data", "model"))
    now = {**{f"data.{name}": value for name, value in data.items()}} | {
        f"model.{name}": value for name, value in model.items()
    }
    parts = []
    if stage == "training":
        size = "data.packed_tokens" if now.get("data.packed_tokens") else "data.batch_size"
        parts += [f"lower {_named(now, size)} and raise trainer.accumulate_grad_batches in its place", _tiles(now)]
        parts.append("set model.backbone.gradient_checkpointing true, or model.backbone.lora")
    elif stage == "evaluation":
        parts.append(f"lower {_named(now, 'data.questions_per_batch', 'data.eval_batch_size', 'data.batch_size')}")
        if "model.scoring_memory_gib" in now:
            parts.append(f"give candidates fewer GiB with {_named(now, 'model.scoring_memory_gib')}")
    elif stage == "prediction":
        parts += [f"lower {_named(now, 'data.batch_size', 'model.max_batch_rows', 'model.num_samples')}", _tiles(now)]
    else:
        dtype = (model.get("backbone") or {}).get("dtype")
        parts.append(f"set model.backbone.dtype bfloat16 (now {dtype or 'auto'}) or model.backbone.quantization nf4")
    if not _is_of_gpu(error) and data.get("num_workers"):
        parts.append(f"lower {_named(now, 'data.num_workers')}")
    return "; ".join([*filter(None, parts), "shard over more GPUs (experiments/strategies/fsdp2.yaml)"])


def _tiles(now: Mapping[str, Any]) -> str:
    key = "data.max_tiles" if "data.max_tiles" in now else "max_tiles of data.sources"
    return f"cut pictures into fewer tiles ({key})"


def _named(now: Mapping[str, Any], *keys: str) -> str:
    known = [key for key in keys if key in now] or list(keys[:1])
    values = [f"{key} (now {'null' if now.get(key) is None else now[key]})" for key in known]
    return " or ".join(filter(None, [", ".join(values[:-1]), values[-1]]))


def _arguments(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = settings.get(name) or {}
    return dict(section.get("init_args") or {}) if isinstance(section, Mapping) else {}


def _is_of_gpu(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _OF_A_LIBRARY.search(str(error)) is not None


def _worker(error: BaseException) -> str | None:
    found = _OF_A_WORKER.search(str(error)) if isinstance(error, RuntimeError) else None
    return found["signal"] if found else None
