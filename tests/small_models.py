"""Small random models of several families, and prompts with pictures in the form of each family's processor.

No processor is involved, so prompts of any kind can be made of token ids; texts are numbers from 10 to 63.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

FIRST_TEXT_ID, VOCABULARY = 10, 64
IMAGE, VIDEO, BEGIN, END = 5, 8, 6, 7
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
WIDTHS: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32}
TOWER: dict[str, Any] = {**WIDTHS, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16}
GRID_TOWER: dict[str, Any] = {
    **WIDTHS,
    "depth": 2,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
THREE_POSITIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
SPECIAL_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": BEGIN,
    "vision_end_token_id": END,
}


def qwen2_5_vl() -> PreTrainedModel:
    vision = {**GRID_TOWER, "window_size": 16, "fullatt_block_indexes": [1]}
    text = {**TEXT, "rope_parameters": THREE_POSITIONS}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **SPECIAL_IDS)
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl() -> PreTrainedModel:
    vision = {**GRID_TOWER, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    text = {**TEXT, "head_dim": 8, "rope_parameters": THREE_POSITIONS}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **SPECIAL_IDS))


def llava_onevision() -> PreTrainedModel:
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={"model_type": "siglip_vision_model", **TOWER, "patch_size": 8},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[16, 16], [16, 32], [32, 16], [32, 32]],
        vision_feature_layer=-1,
    )
    return LlavaOnevisionForConditionalGeneration(config)


def gemma3() -> PreTrainedModel:
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3Config(
        text_config={**TEXT, "head_dim": 8, "sliding_window": 6, "layer_types": layers},
        vision_config={**TOWER, "patch_size": 4},
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=BEGIN,
        eoi_token_index=END,
    )
    return Gemma3ForConditionalGeneration(config)


def smolvlm() -> PreTrainedModel:
    config = SmolVLMConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={**TOWER, "patch_size": 4},
        scale_factor=2,
        image_token_id=IMAGE,
    )
    return SmolVLMForConditionalGeneration(config)


def qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**TEXT))


def mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**TEXT, sliding_window=6))


def _pixels(numbers: Sequence[int], *shape: int) -> Tensor:
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(number)) for number in numbers])


def grid_images(model: PreTrainedModel, numbers: Sequence[int]) -> tuple[dict[str, Tensor], list[int]]:
    """Pictures of 4 x 4 patches, or 4 x 8 where the number is odd."""
    grids = [[1, 4, 8 if number % 2 else 4] for number in numbers]
    patches = [
        _pixels([number], height * width, 96)[0] for number, (_, height, width) in zip(numbers, grids, strict=True)
    ]
    inputs = {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor(grids)}
    return inputs, [height * width // 4 for _, height, width in grids]


def tiled_images(model: PreTrainedModel, numbers: Sequence[int]) -> tuple[dict[str, Tensor], list[int]]:
    """A picture alone is cut into tiles, more if its number is odd; several are one tile each."""
    sizes = [[16, 32] if number % 2 else [16, 16] for number in numbers]
    tiles = 3 if len(numbers) == 1 and numbers[0] % 2 else 2 if len(numbers) == 1 else 1
    inputs = {
        "pixel_values": _pixels(numbers, tiles, 3, 16, 16),
        "image_sizes": torch.tensor(sizes),
        "batch_num_images": torch.tensor([len(numbers)]),
    }
    with torch.no_grad():
        features = model.model.get_image_features(**inputs).pooler_output
    return inputs, [len(feature) for feature in features]


def plain_images(model: PreTrainedModel, numbers: Sequence[int]) -> tuple[dict[str, Tensor], list[int]]:
    return {"pixel_values": _pixels(numbers, 3, 16, 16)}, [4] * len(numbers)


def masked_images(model: PreTrainedModel, numbers: Sequence[int]) -> tuple[dict[str, Tensor], list[int]]:
    pixels = _pixels(numbers, 3, 16, 16)[None]
    mask = torch.ones(1, len(numbers), 16, 16, dtype=torch.bool)
    return {"pixel_values": pixels, "pixel_attention_mask": mask}, [4] * len(numbers)


@dataclass(frozen=True)
class SmallModel:
    """How a family is made, what its pictures look like, and which input says which tokens are of pictures."""

    make: Callable[[], PreTrainedModel]
    images: Callable[[PreTrainedModel, Sequence[int]], tuple[dict[str, Tensor], list[int]]] | None = None
    token_types: str | None = None


MODELS = {
    "qwen2_5_vl": SmallModel(qwen2_5_vl, grid_images, "mm_token_type_ids"),
    "qwen3_vl": SmallModel(qwen3_vl, grid_images, "mm_token_type_ids"),
    "llava_onevision": SmallModel(llava_onevision, tiled_images),
    "gemma3": SmallModel(gemma3, plain_images, "token_type_ids"),
    "smolvlm": SmallModel(smolvlm, masked_images),
    "qwen2": SmallModel(qwen2),
    "mistral": SmallModel(mistral),
}
UNSHARED = {"gemma3", "mistral"}
"""Those with sliding windows, in which candidates cannot share a prefix."""


def make_model(name: str) -> PreTrainedModel:
    """A model whose outputs depend strongly on all that it reads: fresh weights hardly look at their context."""
    torch.manual_seed(len(name))
    model = MODELS[name].make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)
        model.get_input_embeddings().weight.normal_()
        model.get_output_embeddings().weight.mul_(0.4)  # scores near 0 and 1 would hide differences
    return model


def make_prompt(name: str, model: PreTrainedModel, pictures: Sequence[int], text: Sequence[int]) -> dict[str, Tensor]:
    """Pictures, then text, as the family's processor would give them."""
    small, ids, inputs = MODELS[name], [], {}
    if pictures and small.images:
        inputs, lengths = small.images(model, pictures)
        for length in lengths:
            ids += [BEGIN, *[IMAGE] * length, END]
    row = torch.tensor([[*ids, *text]])
    inputs |= {"input_ids": row, "attention_mask": torch.ones_like(row)}
    if small.token_types:
        inputs[small.token_types] = (row == IMAGE).long()
    return inputs
