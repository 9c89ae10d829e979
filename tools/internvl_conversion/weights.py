"""Map tensors of the original layout to tensors of the native one.

Names of the original layout are those of the modules in OpenGVLab/InternVL (``internvl_chat/internvl/model``):
``modeling_internvl_chat.py`` (``vision_model``, ``mlp1``, ``language_model``), ``modeling_intern_vit.py`` and
``modeling_internlm2.py``. ``InternVLRewardModel`` of VisualPRM-8B derives from ``InternVLChatModel`` and adds methods,
no parameters: a step is judged by the rows of ``+`` and ``-`` of the language-model head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from datamodules.storage import fields
from tools.internvl_conversion.source import GetTensor, SourceTensor, SourceWeights

EMBEDDINGS = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"

Select = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TargetTensor:
    """A tensor to write.

    Attributes:
        name: Name in the native model.
        source: Name of the original tensor.
        select: Computes this tensor from the original one.
    """

    name: str
    source: str
    select: Select

    def of(self, get: GetTensor, dtype: torch.dtype) -> Tensor:
        """The tensor, contiguous."""
        return self.select(get(self.source)).to(dtype).contiguous()


def _whole(tensor: Tensor) -> Tensor:
    return tensor


def third(part: int) -> Select:
    """Query, key or value (0, 1, 2) of InternViT's ``qkv``: (3 x width, ...) -> (width, ...)."""
    return lambda tensor: tensor.chunk(3)[part]


def grouped(part: int, queries: int, head_size: int) -> Select:
    """Query, key or value (0, 1, 2) of InternLM2's ``wqkv``.

    Its rows run over the key-value heads; each has its ``queries`` query heads, then its key, then its value head:
    (key-value heads x (queries + 2) x head size, ...) -> (heads x head size, ...).
    """
    begin, end = ((0, queries), (queries, queries + 1), (queries + 1, queries + 2))[part]

    def select(tensor: Tensor) -> Tensor:
        heads = tensor.unflatten(0, (-1, queries + 2, head_size))
        return heads[:, begin:end].flatten(0, 2)

    return select


Rule = tuple[str, list[tuple[str, Select]]]

_VISION = r"model.vision_tower.encoder.layer.\1"
_VISION_RULES: list[Rule] = [
    (r"vision_model\.embeddings\.class_embedding", [("model.vision_tower.embeddings.cls_token", _whole)]),
    (r"vision_model\.embeddings\.position_embedding", [("model.vision_tower.embeddings.position_embeddings", _whole)]),
    (
        r"vision_model\.embeddings\.patch_embedding\.(weight|bias)",
        [(r"model.vision_tower.embeddings.patch_embeddings.projection.\1", _whole)],
    ),
    (
        r"vision_model\.encoder\.layers\.(\d+)\.attn\.qkv\.(weight|bias)",
        [(rf"{_VISION}.attention.{name}_proj.\2", third(part)) for part, name in enumerate("qkv")],
    ),
    (
        r"vision_model\.encoder\.layers\.(\d+)\.attn\.(q|k)_norm\.weight",
        [(rf"{_VISION}.attention.\2_norm.weight", _whole)],
    ),
    (
        r"vision_model\.encoder\.layers\.(\d+)\.attn\.proj\.(weight|bias)",
        [(rf"{_VISION}.attention.projection_layer.\2", _whole)],
    ),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", [(rf"{_VISION}.mlp.\2.\3", _whole)]),
    (r"vision_model\.encoder\.layers\.(\d+)\.norm1\.(weight|bias)", [(rf"{_VISION}.layernorm_before.\2", _whole)]),
    (r"vision_model\.encoder\.layers\.(\d+)\.norm2\.(weight|bias)", [(rf"{_VISION}.layernorm_after.\2", _whole)]),
    (r"vision_model\.encoder\.layers\.(\d+)\.ls([12])", [(rf"{_VISION}.lambda_\2", _whole)]),
]
_PROJECTOR_RULES: list[Rule] = [
    (rf"mlp1\.{number}\.(weight|bias)", [(rf"model.multi_modal_projector.{name}.\1", _whole)])
    for number, name in ((0, "layer_norm"), (1, "linear_1"), (3, "linear_2"))
]
# Qwen2, Qwen3 and Llama have the names of `transformers` in the original layout too.
_SAME_NAMES: list[Rule] = [
    (r"language_model\.model\.(.+)", [(r"model.language_model.\1", _whole)]),
    (r"language_model\.lm_head\.(.+)", [(r"lm_head.\1", _whole)]),
]


def _internlm2_rules(queries: int, head_size: int) -> list[Rule]:
    layer = r"language_model\.model\.layers\.(\d+)\."
    target = r"model.language_model.layers.\1."
    return [
        (r"language_model\.model\.tok_embeddings\.weight", [(EMBEDDINGS, _whole)]),
        (
            layer + r"attention\.wqkv\.(weight|bias)",
            [(rf"{target}self_attn.{n}_proj.\2", grouped(i, queries, head_size)) for i, n in enumerate("qkv")],
        ),
        (layer + r"attention\.wo\.(weight|bias)", [(target + r"self_attn.o_proj.\2", _whole)]),
        (layer + r"feed_forward\.w1\.weight", [(target + "mlp.gate_proj.weight", _whole)]),
        (layer + r"feed_forward\.w2\.weight", [(target + "mlp.down_proj.weight", _whole)]),
        (layer + r"feed_forward\.w3\.weight", [(target + "mlp.up_proj.weight", _whole)]),
        (layer + r"attention_norm\.weight", [(target + "input_layernorm.weight", _whole)]),
        (layer + r"ffn_norm\.weight", [(target + "post_attention_layernorm.weight", _whole)]),
        (r"language_model\.model\.norm\.weight", [("model.language_model.norm.weight", _whole)]),
        (r"language_model\.output\.weight", [(HEAD, _whole)]),
    ]


def _rules(config: Any, is_internlm2: bool) -> list[Rule]:
    text = config.text_config
    language = _SAME_NAMES
    if is_internlm2:
        queries = text.num_attention_heads // text.num_key_value_heads
        language = _internlm2_rules(queries, text.hidden_size // text.num_attention_heads)
    return [*_VISION_RULES, *_PROJECTOR_RULES, *language]


def _targets_of(source: str, rules: list[Rule]) -> list[TargetTensor]:
    for pattern, pieces in rules:
        match = re.fullmatch(pattern, source)
        if match:
            return [TargetTensor(match.expand(name), source, select) for name, select in pieces]
    return []


def native_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the native model's parameters by name; a head tied to the embeddings is left out."""
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    if config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes


def plan_conversion(tensors: Mapping[str, SourceTensor], config: Any, *, is_internlm2: bool) -> list[TargetTensor]:
    """Plan the conversion: each original tensor is used once, each native one is produced once with its shape.

    Args:
        tensors: Tensors of the source.
        config: The native :class:`transformers.InternVLConfig`.
        is_internlm2: Whether the language model is stored in InternLM2's layout.

    Raises:
        ValueError: If a tensor is unknown, missing, produced twice or of the wrong shape; names it.
    """
    rules, shapes = _rules(config, is_internlm2), native_shapes(config)
    made: dict[str, TargetTensor] = {}
    unknown, wrong = [], []
    for source, tensor in tensors.items():
        targets = _targets_of(source, rules)
        if config.tie_word_embeddings and [target.name for target in targets] == [HEAD]:
            continue  # compared with the embeddings before anything is written
        if not targets or any(target.name not in shapes for target in targets):
            unknown.append(source)
            continue
        for target in targets:
            if target.name in made:
                raise ValueError(f"tensors {made[target.name].source!r} and {source!r} both make {target.name!r}")
            made[target.name] = target
            try:
                shape = tuple(target.select(torch.empty(tensor.shape, device="meta")).shape)
            except (RuntimeError, IndexError):
                shape = ()
            if shape != shapes[target.name]:
                wrong.append(
                    f"{source!r} is {list(tensor.shape)}, but {target.name!r} needs {list(shapes[target.name])}"
                )
    problems = []
    if unknown:
        problems.append(f"unknown tensors: {fields.first_of(unknown)}")
    missing = [name for name in shapes if name not in made]
    if missing:
        problems.append(f"nothing makes: {fields.first_of(missing)}")
    if wrong:
        problems.append(f"shapes that do not fit config.json: {fields.first_of(wrong, '; ')}")
    if problems:
        raise ValueError(f"the weights are not those of this configuration; {'; '.join(problems)}")
    return list(made.values())


def check_tied_head(weights: SourceWeights, config: Any, *, is_internlm2: bool) -> None:
    """Refuse a stored language-model head that differs from the embeddings which config.json ties it to.

    Raises:
        ValueError: If it does.
    """
    if not config.tie_word_embeddings:
        return
    rules = _rules(config, is_internlm2)
    names = {target.name: source for source in weights.tensors for target in _targets_of(source, rules)}
    if HEAD not in names:
        return
    with weights.reader() as get:
        head, embeddings = get(names[HEAD]), get(names[EMBEDDINGS])
        if head.shape != embeddings.shape or not torch.equal(head, embeddings):
            raise ValueError(
                f"{names[HEAD]!r} differs from {names[EMBEDDINGS]!r}, but llm_config.tie_word_embeddings is true; "
                f"set it to false in config.json if the head was trained on its own"
            )
