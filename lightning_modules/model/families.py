"""Parts of a multimodal language model: vision tower, projector, language model, by family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

from torch import nn
from transformers import PreTrainedModel

Part = Literal["vision", "projector", "language_model"]
PARTS: tuple[str, ...] = get_args(Part)

_WITH_PROJECTOR = ("internvl", "llava", "vipllava", "gemma3", "mistral3", "paligemma", "aya_vision", "cohere2_vision")
_WITH_NEWLINE = ("llava_next", "llava_onevision")
_WITH_MERGER = ("qwen2_vl", "qwen2_5_vl", "qwen3_5", "glm4v", "glm4v_moe")
_WITH_CONNECTOR = ("idefics2", "idefics3", "smolvlm")
PROJECTORS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_WITH_PROJECTOR, ("model.multi_modal_projector",)),
    **dict.fromkeys(_WITH_NEWLINE, ("model.multi_modal_projector", "model.image_newline")),
    **dict.fromkeys(_WITH_MERGER, ("model.visual.merger",)),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe"), ("model.visual.merger", "model.visual.deepstack_merger_list")),
    **dict.fromkeys(_WITH_CONNECTOR, ("model.connector",)),
}
"""Model type to the modules and parameters between vision tower and language model. The tower and the language model
themselves are found through the accessors of `transformers` (`get_encoder("image")`, `get_decoder()`)."""

ORIGINAL_INTERNVL = ("InternVLChatModel", "InternVLRewardModel")
"""Architectures with remote code, which is never run; ``tools/convert_internvl.py`` converts their checkpoints."""


def language_model_of(backbone: PreTrainedModel) -> PreTrainedModel:
    """The text decoder: embeddings, layers and last norm, without the language-model head."""
    return backbone.get_decoder()


def attention_layers(backbone: PreTrainedModel) -> list[Any]:
    """The self-attention modules of the text decoder."""
    modules = language_model_of(backbone).modules()
    return [module for module in modules if "Attention" in type(module).__name__ and hasattr(module, "layer_idx")]


def is_below(name: str, paths: tuple[str, ...]) -> bool:
    """Whether a parameter or module name is one of the paths or below one."""
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def language_model_paths(backbone: PreTrainedModel) -> tuple[str, ...]:
    """Paths of the text decoder and of the language-model head."""
    head = backbone.get_output_embeddings()
    paths = {id(module): path for path, module in backbone.named_modules()}
    return tuple(paths[id(module)] for module in (language_model_of(backbone), head) if module is not None)


def part_of(backbone: PreTrainedModel) -> dict[str, Part]:
    """The part of each parameter, by parameter name.

    Parameters that are neither in the language model nor in a known projector count as vision. In families that are not
    in :data:`PROJECTORS`, the projector counts as vision, too.
    """
    language_model = language_model_paths(backbone)
    projector = PROJECTORS.get(backbone.config.model_type, ())

    def find(name: str) -> Part:
        if is_below(name, language_model):
            return "language_model"
        return "projector" if is_below(name, projector) else "vision"

    return {name: find(name) for name, _ in backbone.named_parameters()}


def parameters_of(backbone: PreTrainedModel, part: str, key: str = "freeze") -> Iterator[nn.Parameter]:
    """Parameters of a part, or below a module path such as ``model.language_model.layers.0``.

    Args:
        backbone: The model.
        part: One of :data:`PARTS`, or a path.
        key: Configuration key, for error messages.

    Raises:
        ValueError: If the model has no such part or module, or the family's parts are not known.
    """
    model_type = backbone.config.model_type
    if part in PARTS:
        parts = part_of(backbone)
        has_vision = set(parts.values()) != {"language_model"}
        if part != "language_model" and has_vision and model_type not in PROJECTORS:
            raise ValueError(
                f"{key}: what is vision tower and what is projector of a {model_type!r} model is not known "
                f"(known: {sorted(PROJECTORS)}); name modules instead, such as "
                f"{sorted({name.rsplit('.', 2)[0] for name, p in parts.items() if p == 'vision'}, key=len)[0]!r}"
            )
        names = {name for name, found in parts.items() if found == part}
    else:
        names = {name for name, _ in backbone.named_parameters() if is_below(name, (part,))}
    if not names:
        paths = [path for path, _ in backbone.named_modules() if path and path.count(".") < 2]
        raise ValueError(
            f"{key}: {part!r} is nothing that this {model_type!r} model has; it takes {list(PARTS)} or the path of a "
            f"module or parameter, such as {paths}"
        )
    yield from (parameter for name, parameter in backbone.named_parameters() if name in names)
