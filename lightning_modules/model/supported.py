"""Refuse models of `transformers` that cannot be a backbone, before any weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from datamodules.storage.checkpoint_names import loading, require_model
from datamodules.storage.files import parse_json_line
from lightning_modules.distributed.meta_loading import auto_class
from lightning_modules.model.families import ORIGINAL_INTERNVL, attention_layers

_BY_NAME = {
    "diffusion_gemma": "it writes by diffusion, so that a token depends on later ones",
    "git": "its images do not stand among the tokens of the text",
}
"""What the structure does not tell."""


def refuse_original_layout(folder: Path) -> None:
    """Refuse a folder in the original layout of InternVL.

    Raises:
        ValueError: If it is such a folder; the message says how to convert it.
    """
    file = folder / "config.json"
    if not file.is_file():
        return
    architectures = parse_json_line(file.read_bytes(), str(file)).get("architectures") or []
    if set(architectures) & set(ORIGINAL_INTERNVL):
        raise ValueError(
            f"{folder} is of the original InternVL layout; convert it first: visualprm-convert {folder} FOLDER"
        )


def refuse_unsupported(name_or_path: str | Path) -> None:
    """Refuse a checkpoint whose model cannot judge steps or sample texts; reads only its configuration.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is refused, or a folder in the original layout of InternVL; names family and reason.
    """
    require_model(name_or_path)
    refuse_original_layout(Path(name_or_path))
    with loading(name_or_path, "config.json"):
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    if reason := backbone_obstacle(config):
        raise ValueError(
            f"{name_or_path}: models of the family {config.model_type!r} cannot be a backbone: {reason}; take an "
            f"image-text-to-text model with a causal language model that reads images as tokens of its text, such as "
            f"InternVL, Qwen-VL or LLaVA"
        )


def backbone_obstacle(config: Any) -> str | None:
    """The reason why a model with this configuration cannot be a backbone; None if there is none.

    The step head needs last hidden states at each token that do not depend on later tokens. Otherwise a step's score
    would change with the steps that follow.
    """
    if config.is_encoder_decoder or config.get_text_config(decoder=True).is_encoder_decoder:
        return "it is an encoder-decoder model"
    if reason := _BY_NAME.get(config.model_type):
        return reason
    if not any(type(config) in known for known in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)):
        return "`transformers` has no class for it that writes text"
    with torch.device("meta"):
        return _structural_obstacle(auto_class(config).from_config(config, trust_remote_code=False))


def _structural_obstacle(model: PreTrainedModel) -> str | None:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return "it has no linear language-model head"
    if model.base_model is model:
        return "`transformers` has no model class for it that ends at the hidden states, below the head"
    if any("CrossAttention" in type(module).__name__ for module in model.get_decoder().modules()):
        return "its language model reads images through cross-attention"
    if not all(getattr(layer, "is_causal", True) for layer in attention_layers(model)):
        return "its text attends in both directions"
    return None
