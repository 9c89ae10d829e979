"""The part that all batches of tokenized conversations share, padded or packed: inputs, boundaries and lengths."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from datamodules.conversation.encoder import Conversation


@dataclass
class ConversationBatch:
    """B tokenized conversations: padded to (B, L), or packed into one row of T tokens.

    Attributes:
        inputs: Output of the processor. Padded: ``input_ids`` and ``attention_mask`` (B, L), padding on the right.
            Packed: ``input_ids`` and ``position_ids`` (1, T), see :func:`datamodules.batching.packing.packed_inputs`.
        boundaries: Packed: B + 1 token positions in the row, where each conversation begins, and T. Padded: None. A
            list, which the host can read without waiting for the device.
        conversations: The B conversations, for a model behind a server; see :attr:`datamodules.conversation.encoder.
            ConversationEncoder.encodes_pictures`. Else None.
    """

    inputs: dict[str, Tensor]
    boundaries: list[int] | None = field(default=None, kw_only=True)
    conversations: list[Conversation] | None = field(default=None, kw_only=True)

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens of each conversation, padding not counted."""
        if self.boundaries is None:
            return self.inputs["attention_mask"].sum(1)
        return torch.tensor(self.boundaries).diff()

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, from which a GPU copies while it computes; called by DataLoaders."""
        pinned: dict[str, Any] = {
            each.name: value.pin_memory()
            for each in fields(self)
            if isinstance(value := getattr(self, each.name), Tensor)
        }
        return replace(self, inputs={name: value.pin_memory() for name, value in self.inputs.items()}, **pinned)
