"""Translate ``config.json`` of the original layout; refuse settings that would compute something else.

Keys and their defaults: ``configuration_internvl_chat.py``, ``configuration_intern_vit.py`` and
``configuration_internlm2.py`` of OpenGVLab/InternVL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import InternVLConfig

from datamodules.storage import fields
from lightning_modules.model.families import ORIGINAL_INTERNVL
from tools.internvl_conversion.source import read_json

CHAT_MODEL, REWARD_MODEL = ORIGINAL_INTERNVL
INTERNLM2 = "InternLM2ForCausalLM"
LANGUAGE_MODELS = {
    INTERNLM2: "llama",
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architecture in ``llm_config`` to the native model type; InternLM2 is Llama with its weights fused otherwise."""

_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
_TEXT_OPTIONS = ("hidden_act", "initializer_range", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id")
_SLIDING_OPTIONS = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
_MORE_TEXT_OPTIONS = {
    INTERNLM2: (),
    "LlamaForCausalLM": ("head_dim", "attention_bias", "mlp_bias"),
    "Qwen2ForCausalLM": _SLIDING_OPTIONS,
    "Qwen3ForCausalLM": ("head_dim", "attention_bias", *_SLIDING_OPTIONS),
}
_VISION_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
)


@dataclass(frozen=True)
class SourceConfiguration:
    """Contents of the source's ``config.json``.

    Attributes:
        native: The :class:`InternVLConfig`, without the token id of the image.
        architecture: :data:`CHAT_MODEL` or :data:`REWARD_MODEL`.
        is_internlm2: Whether the language model is stored in InternLM2's layout.
        template: Name of the conversation template.
        system_message: System prompt in place of the template's, which the released classes use where it is set; None
            where it is not.
        image_size: Side of a tile in pixels.
        is_tiled: Whether pictures are cut into tiles.
        dtype: Dtype of the weights; None if the file does not say.
    """

    native: Any
    architecture: str
    is_internlm2: bool
    template: str
    system_message: str | None
    image_size: int
    is_tiled: bool
    dtype: torch.dtype | None


def read_configuration(folder: Path) -> SourceConfiguration:
    """Read and translate ``config.json``.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If this conversion does not support the model; names key and value.
    """
    path = folder / "config.json"
    config, where = read_json(path), str(path)
    architecture = _one_of(config, "architectures", (CHAT_MODEL, REWARD_MODEL), where)
    llm, vision = (_object(config, name, where) for name in ("llm_config", "vision_config"))
    language_model = _one_of(llm, "architectures", tuple(LANGUAGE_MODELS), where, "llm_config.")
    # Absent keys have the defaults of the original configuration class.
    _expect(config, "ps_version", "v2", where, default="v1", why="v1 transposes the image features")
    _expect(config, "select_layer", -1, where, default=-1, why="the features are those of the last vision layer")
    _expect(config, "pad2square", False, where, default=False, why="pictures are cut into tiles, not padded")
    for name in ("use_backbone_lora", "use_llm_lora"):
        _expect(config, name, 0, where, default=0, why="merge the adapter into the weights first")
    native_vision = _vision(vision, where)
    image_size = config.get("force_image_size") or native_vision["image_size"]
    if image_size != native_vision["image_size"]:
        raise ValueError(
            f"{where}: force_image_size {image_size} differs from vision_config.image_size "
            f"{native_vision['image_size']}; only position embeddings of the tile's size are known"
        )
    is_tiled = bool(config.get("dynamic_image_size", False))
    if is_tiled:
        _expect(config, "use_thumbnail", True, where, default=False, why="tiles are always followed by a thumbnail")
    ratio = fields.number(config, "downsample_ratio", where, minimum=0.125, maximum=1)
    is_tied = bool(llm.get("tie_word_embeddings", False))
    native = InternVLConfig(
        vision_config=native_vision,
        text_config={**_text(llm, language_model, where), "tie_word_embeddings": is_tied},
        image_seq_length=int((image_size // native_vision["patch_size"]) ** 2 * ratio**2),
        downsample_ratio=ratio,
        vision_feature_layer=-1,
        tie_word_embeddings=is_tied,
        architectures=["InternVLForConditionalGeneration"],
    )
    return SourceConfiguration(
        native=native,
        architecture=architecture,
        is_internlm2=language_model == INTERNLM2,
        template=fields.text(config, "template", where),
        system_message=(
            fields.text(config, "system_message", where, blank=True)
            if config.get("system_message") is not None
            else None
        ),
        image_size=image_size,
        is_tiled=is_tiled,
        dtype=_dtype(config, where),
    )


def _object(config: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = fields.required(config, name, where)
    if not isinstance(value, dict):
        raise fields.wrong_field(where, name, "an object", value)
    return value


def _one_of(config: Mapping[str, Any], name: str, known: tuple[str, ...], where: str, parent: str = "") -> str:
    value = fields.items(config, name, where, parent)
    if len(value) != 1 or value[0] not in known:
        raise fields.wrong_field(where, parent + name, f"one of {', '.join(known)}", value)
    return str(value[0])


def _expect(config: Mapping[str, Any], name: str, wanted: Any, where: str, *, default: Any, why: str) -> None:
    value = config.get(name, default)
    if value != wanted:
        raise fields.wrong_field(where, name, f"{wanted!r} ({why})", value)


def _dtype(config: Mapping[str, Any], where: str) -> torch.dtype | None:
    name = config.get("torch_dtype", config.get("dtype"))
    if name is None:
        return None
    dtype = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise fields.wrong_field(where, "torch_dtype", "a floating-point dtype", name)
    return dtype


def _vision(vision: Mapping[str, Any], where: str) -> dict[str, Any]:
    parent = "vision_config."
    native: dict[str, Any] = {name: fields.integer(vision, name, where, parent, minimum=1) for name in _VISION_SIZES}
    norm = fields.text(vision, "norm_type", where, parent)
    if norm not in ("layer_norm", "rms_norm"):
        raise fields.wrong_field(where, parent + "norm_type", "layer_norm or rms_norm", norm)
    epsilon = fields.number(vision, "layer_norm_eps", where, parent)
    normalises = fields.boolean(vision, "qk_normalization", where, parent)
    if normalises and epsilon != 1e-6:
        raise fields.wrong_field(where, parent + "layer_norm_eps", "1e-06 where qk_normalization is true", epsilon)
    return native | {
        "norm_type": norm,
        "layer_norm_eps": epsilon,
        "attention_bias": fields.boolean(vision, "qkv_bias", where, parent),
        "use_qk_norm": normalises,
        "hidden_act": fields.text(vision, "hidden_act", where, parent),
        "attention_dropout": vision.get("attention_dropout", 0.0),
        "projection_dropout": vision.get("dropout", 0.0),
        "layer_scale_init_value": vision.get("initializer_factor", 0.1),
        "initializer_range": vision.get("initializer_range", 0.02),
        "num_channels": vision.get("num_channels", 3),
        # No norm follows the last layer of InternViT.
        "use_mean_pooling": True,
        "use_absolute_position_embeddings": True,
    }


def _text(llm: Mapping[str, Any], architecture: str, where: str) -> dict[str, Any]:
    parent = "llm_config."
    native: dict[str, Any] = {"model_type": LANGUAGE_MODELS[architecture]}
    native |= {name: fields.integer(llm, name, where, parent, minimum=1) for name in _TEXT_SIZES}
    native["rms_norm_eps"] = fields.number(llm, "rms_norm_eps", where, parent)
    options = (*_TEXT_OPTIONS, *_MORE_TEXT_OPTIONS[architecture])
    native |= {name: llm[name] for name in options if llm.get(name) is not None}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        native.setdefault(name, None)
    if architecture == INTERNLM2:
        native["attention_bias"] = bool(llm.get("bias", True))
        if llm.get("rope_pos_id_version", "default") != "default":
            raise fields.wrong_field(
                where, parent + "rope_pos_id_version", "absent or 'default'", llm["rope_pos_id_version"]
            )
    native["rope_parameters"] = _rotary(llm, where)
    return native


def _rotary(llm: Mapping[str, Any], where: str) -> dict[str, Any]:
    scaling = llm.get("rope_scaling")
    rotary: dict[str, Any] = {"rope_theta": fields.number(llm, "rope_theta", where, "llm_config.", minimum=1)}
    if scaling is None:
        return rotary | {"rope_type": "default"}
    if not isinstance(scaling, dict):
        raise fields.wrong_field(where, "llm_config.rope_scaling", "an object or null", scaling)
    kind = scaling.get("rope_type", scaling.get("type"))
    # Both compute the same in the original and in the native rotary embedding; dynamic: beyond max_position_embeddings.
    if kind not in ("linear", "dynamic"):
        raise fields.wrong_field(where, "llm_config.rope_scaling", "of type linear or dynamic", scaling)
    return rotary | {"rope_type": kind, "factor": fields.number(scaling, "factor", where, "llm_config.rope_scaling.")}
