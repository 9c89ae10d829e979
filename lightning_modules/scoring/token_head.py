"""Log-probabilities of given tokens, read from the whole language-model head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lightning_modules.model.step_head import finish_logits, language_model_head

_POSITIONS_AT_ONCE = 256
"""Bounds the logits of the whole vocabulary that are in memory."""


class TokenHead(nn.Module):
    """Takes the place of a step head where a language model is asked how likely tokens are.

    B rows, L tokens, S positions, K tokens at each.

    Args:
        backbone: The language model.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.whole = language_model_head(backbone)
        self.text_config = backbone.config.get_text_config()

    def forward(self, hidden_states: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of the targets as the next tokens.

        Args:
            hidden_states: (B, L, H) last hidden states.
            positions: (B, S) token positions.
            targets: (B, S, K) token ids.

        Returns:
            (B, S, K) float32, natural logarithms.
        """
        index = positions[..., None].expand(-1, -1, hidden_states.shape[-1])
        states = hidden_states.gather(1, index)
        # All ranks must call a sharded head equally often.
        size = states.shape[1] if isinstance(self.whole.weight, DTensor) else _POSITIONS_AT_ONCE
        pieces = zip(states.split(size, 1), targets.split(size, 1), strict=True)
        return torch.cat([self._of(some, asked) for some, asked in pieces], 1)

    def _of(self, states: Tensor, targets: Tensor) -> Tensor:
        logits = finish_logits(self.whole(states).float(), self.text_config)
        return logits.gather(-1, targets) - logits.logsumexp(-1, keepdim=True)
