"""The step head: class-token rows of the language-model head, applied at step positions only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def untie_language_model_head(backbone: PreTrainedModel) -> None:
    """Untie the language-model head from the embeddings, so that changed class rows do not change embeddings."""
    head, embedding = language_model_head(backbone), backbone.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        for config in (backbone.config, backbone.config.get_text_config()):
            config.tie_word_embeddings = False


def language_model_head(backbone: PreTrainedModel) -> nn.Linear:
    """The linear layer from hidden states to vocabulary logits.

    Raises:
        TypeError: If the model has none.
    """
    head = backbone.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise TypeError(f"{type(backbone).__name__} has no linear language-model head, but {type(head).__name__}")
    return head


def finish_logits(logits: Tensor, text_config: Any) -> Tensor:
    """Apply the family's scaling of the head's output.

    Cohere multiplies by ``logit_scale``, Granite divides by ``logits_scaling``, Gemma 2 caps softly at
    ``final_logit_softcapping``. All others change nothing.
    """
    scale = getattr(text_config, "logit_scale", None) or 1 / (getattr(text_config, "logits_scaling", None) or 1)
    cap = getattr(text_config, "final_logit_softcapping", None)
    scaled = logits if scale == 1 else logits * scale
    return cap * torch.tanh(scaled / cap) if cap else scaled


def vocabulary_logits(backbone: PreTrainedModel, hidden_states: Tensor) -> Tensor:
    """Logits of the whole vocabulary, as the model itself computes them: (..., H) -> (..., V)."""
    return finish_logits(language_model_head(backbone)(hidden_states), backbone.config.get_text_config())


class StepHead(nn.Module):
    """K rows of the language-model head, with their biases if there are any, trained instead of the whole head.

    Args:
        backbone: Model whose head rows are the initial weights.
        token_ids: The K class tokens.
    """

    def __init__(self, backbone: PreTrainedModel, token_ids: Sequence[int]) -> None:
        super().__init__()
        whole = language_model_head(backbone)
        weight = whole.weight
        self.token_ids = list(token_ids)
        self.text_config = backbone.config.get_text_config()
        # Over a frozen model the rows have no reason to share its dtype, whose steps may swallow small updates.
        dtype = weight.dtype if weight.requires_grad else torch.float32
        self.weight = nn.Parameter(self._of_classes(weight, dtype))
        self.bias = None if whole.bias is None else nn.Parameter(self._of_classes(whole.bias, dtype))

    def _of_classes(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return values.detach()[self.token_ids].to(dtype)

    def forward(self, hidden_states: Tensor, step_positions: Tensor) -> Tensor:
        """Class logits of every step.

        Args:
            hidden_states: (B, L, H) last hidden states.
            step_positions: (B, S) token positions whose logits predict the class tokens; -1 at padding.

        Returns:
            (B, S, K) float32; undefined where the position is -1.
        """
        index = step_positions.clamp_min(0)[..., None].expand(-1, -1, hidden_states.shape[-1])
        products = nn.functional.linear(hidden_states.gather(1, index).to(self.weight.dtype), self.weight, self.bias)
        return finish_logits(products.float(), self.text_config)

    @torch.no_grad()
    def write_back(self, backbone: PreTrainedModel) -> None:
        """Write the rows into the language-model head, so that next-token scoring with it equals this head."""
        whole = language_model_head(backbone)
        whole.weight[self.token_ids] = self.weight.to(whole.weight)
        if self.bias is not None:
            whole.bias[self.token_ids] = self.bias.to(whole.bias)
