"""Loading and saving the multimodal language model behind a policy or a reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

ImageBackend = Literal["torchvision", "pil"]


def load_processor(name_or_path: str | Path, image_backend: ImageBackend | None = None) -> ProcessorMixin:
    """Load the processor (tokenizer, image processor, chat template) of a checkpoint; never runs remote code.

    Args:
        name_or_path: Folder, or a name on the hub.
        image_backend: What resizes images; None leaves the choice to `transformers` (torchvision). ``pil`` resizes as
            most released code does, at about a third of the speed; some pixels differ by a few of 256 levels.
    """
    processor = AutoProcessor.from_pretrained(name_or_path, trust_remote_code=False)
    if image_backend is not None:
        # `AutoProcessor` would ask for a video processor of that backend too, and there are none.
        processor.image_processor = AutoImageProcessor.from_pretrained(
            name_or_path, backend=image_backend, trust_remote_code=False
        )
    return processor


def load_backbone(
    name_or_path: str | Path, dtype: str = "auto", attention_implementation: str | None = None
) -> PreTrainedModel:
    """Load any image-text-to-text checkpoint of `transformers`; never runs remote code.

    Args:
        name_or_path: Folder, or a name on the hub.
        dtype: ``auto`` (as stored) or the name of a torch dtype, such as ``bfloat16``.
        attention_implementation: ``sdpa``, ``flash_attention_2``, ...; None leaves the choice to `transformers`.

    Raises:
        ValueError: If ``dtype`` names no floating-point torch dtype.
    """
    resolved: torch.dtype | str = dtype
    if dtype != "auto":
        resolved = getattr(torch, dtype, dtype)
        if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
            raise ValueError(f"dtype must be 'auto' or a floating-point torch dtype such as bfloat16, got {dtype!r}")
    backbone = AutoModelForImageTextToText.from_pretrained(
        name_or_path, dtype=resolved, attn_implementation=attention_implementation, trust_remote_code=False
    )
    # `from_pretrained` leaves it in evaluation mode; Lightning switches modes by itself from here on.
    return backbone.train()


def connect_processor(module: LightningModule) -> None:
    """Hand a policy's processor to the trainer's data module, whose prompts it renders."""
    datamodule: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    if datamodule is not None:
        datamodule.connect(module.processor)
