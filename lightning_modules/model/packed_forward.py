"""The forward over a batch of conversations, padded to a rectangle or packed into one row.

In a packed row the positions of every conversation begin at 0, and no token attends to another conversation. B
conversations, T tokens in the row, S steps of the longest conversation, H hidden size, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from datamodules.batching.collate import StepBatch
from datamodules.batching.conversation_batch import ConversationBatch
from lightning_modules.distributed.sharding import computing_device
from lightning_modules.model.positions import has_multimodal_positions, multimodal_positions
from lightning_modules.model.step_head import StepHead

# Families whose packed forward is known (and tested) to equal the padded one. Others may have masks that depend on
# token types (Gemma 3), or layers that carry a state from token to token (linear attention): those would leak.
_FAMILIES = ("internvl", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm")
_LANGUAGE_MODELS = ("llama", "mistral", "qwen2", "qwen3", "qwen2_5_vl_text", "qwen3_vl_text")
_FLASH_ATTENTION = ("flash_attention_2", "flash_attention_3")
_ATTENTION = ("eager", "sdpa", "flex_attention", *_FLASH_ATTENTION)


def packing_obstacle(backbone: PreTrainedModel) -> str | None:
    """The reason why conversations cannot be packed for this model; None if they can."""
    family, text = backbone.config.model_type, backbone.config.get_text_config(decoder=True)
    if family not in (*_FAMILIES, *_LANGUAGE_MODELS):
        return f"packed sequences are not known to stay apart in models of the family {family!r}"
    if text.model_type not in _LANGUAGE_MODELS:
        return f"packed sequences are not known to stay apart in {text.model_type!r} language models"
    if text._attn_implementation not in _ATTENTION:
        return f"the attention implementation {text._attn_implementation!r} is not known to keep packed sequences apart"
    return None


def hidden_states(backbone: PreTrainedModel, batch: ConversationBatch) -> Tensor:
    """Last hidden states: (B, L, H), or (1, T, H) of a packed batch."""
    if batch.boundaries is None:
        return backbone.base_model(**batch.inputs, use_cache=False).last_hidden_state
    inputs = {**batch.inputs, "position_ids": _positions(backbone, batch)}
    with _apart(backbone, batch.boundaries):
        return backbone.base_model(**inputs, use_cache=False).last_hidden_state


def step_logits(head: StepHead, states: Tensor, batch: StepBatch) -> Tensor:
    """Class logits of every step, (B, S, K) float32, from the output of :func:`hidden_states`."""
    positions = batch.step_positions
    if batch.boundaries is None:
        return head(states, positions)
    return head(states, positions.flatten()[None])[0].unflatten(0, positions.shape)


def _positions(backbone: PreTrainedModel, batch: ConversationBatch) -> Tensor:
    """Position ids (1, T); with multimodal rotary positions (4, 1, T), the plain ones first.

    `transformers` tells conversations apart by the plain ones.
    """
    plain = batch.inputs["position_ids"]
    if not has_multimodal_positions(backbone):
        return plain
    if "image_grid_thw" not in batch.inputs:
        return plain.expand(4, *plain.shape)
    lengths = batch.lengths.tolist()
    rows = {
        name: pad_sequence(value[0].split(lengths), batch_first=True) if value.shape == plain.shape else value
        for name, value in batch.inputs.items()
    }
    mask = pad_sequence(torch.ones_like(plain[0]).split(lengths), batch_first=True)
    positions = multimodal_positions(backbone, {**rows, "attention_mask": mask})
    return torch.cat([plain[None], positions[:, mask.bool()][:, None]])


@contextmanager
def _apart(backbone: PreTrainedModel, boundaries: list[int]) -> Iterator[None]:
    """Within this context the attention knows where conversations begin, in the form that suits its implementation.

    Otherwise `transformers` infers it from the positions: flash attention then synchronises with the device in every
    layer, and the other implementations multiply all pairs of tokens and mask most of them.
    """
    decoder = backbone.get_decoder()
    told = _attention_arguments(decoder, boundaries)
    handle = decoder.register_forward_pre_hook(lambda _, args, kwargs: (args, kwargs | told), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _attention_arguments(decoder: PreTrainedModel, boundaries: list[int]) -> dict[str, Any]:
    implementation = decoder.config._attn_implementation
    lengths = [end - begin for begin, end in pairwise(boundaries)]
    if implementation in _FLASH_ATTENTION:
        starts = torch.tensor(boundaries, dtype=torch.int32).to(computing_device(decoder), non_blocking=True)
        longest = max(lengths)
        return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}
    has_window = getattr(decoder.config, "sliding_window", None) is not None
    is_compiled = any(module._compiled_call_impl is not None for module in decoder.modules())
    if implementation != "sdpa" or has_window or is_compiled:
        return {}
    # A mask of four dimensions is passed on as it is; this one stands for "none is needed".
    nothing = torch.empty(1, 1, 0, 0, device=computing_device(decoder))
    return {"attention_mask": nothing, "conversation_lengths": lengths}


def _attention_by_conversation(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    conversation_lengths: list[int] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA attention of `transformers`; causal within each conversation of a packed row if lengths are given."""
    if conversation_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    parts = zip(*(states.split(conversation_lengths, dim=2) for states in (query, key, value)), strict=True)
    outputs = [sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in parts]
    return torch.cat(outputs, dim=1), None


# Under the name of what it extends: layers look it up again when checkpointed activations are computed anew.
AttentionInterface.register("sdpa", _attention_by_conversation)
