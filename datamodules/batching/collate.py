"""Batches of conversations with the Monte Carlo scores of their steps.

B conversations, L tokens, S steps of the longest conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.batching.conversation_batch import ConversationBatch
from datamodules.conversation.encoder import Conversation, ConversationEncoder
from datamodules.conversation.steps import DEFAULT_MAX_STEPS, merge_steps, merged_sizes
from datamodules.storage.images import open_image

__all__ = ["ConversationEncoder", "StepBatch", "StepCollator", "load_images", "merge_scored_steps", "pad_rows"]


@dataclass
class StepBatch(ConversationBatch):
    """Conversations with the positions and the Monte Carlo scores of their steps.

    Attributes:
        step_positions: (B, S) long, token positions whose logits score the steps: in the row of the conversation, or in
            the packed row; -1 at padding.
        mc: (B, S) float32 Monte Carlo scores in [0, 1]; NaN at padding and for a step without a score.
        num_mc_correct: (B, S) long, continuations that reached the gold answer; -1 at padding and where unknown.
        num_mc_total: (B, S) long, continuations sampled; -1 at padding and where unknown.
        sample_ids: B names, unique in the dataset.
        sources: B names of datasets.
        question_accuracy: (B,) float32, the policy's accuracy before the first step, NaN where unknown; None if it is
            unknown for all.
        step_tokens: (B, S, L) bool, or (B, S, T) if packed: which tokens are the text of each step. None unless the
            collator was told to mark them.
    """

    step_positions: Tensor
    mc: Tensor
    num_mc_correct: Tensor
    num_mc_total: Tensor
    sample_ids: list[str]
    sources: list[str]
    question_accuracy: Tensor | None = field(default=None, kw_only=True)
    step_tokens: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        shape = self.step_positions.shape
        for name in ("mc", "num_mc_correct", "num_mc_total"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(getattr(self, name).shape)}")
        rows = len(self.inputs["input_ids"]) if self.boundaries is None else len(self.boundaries) - 1
        if not shape[0] == len(self.sample_ids) == len(self.sources) == rows:
            raise ValueError(f"expected {shape[0]} conversations, ids and sources, got {len(self.sample_ids)} ids")


class StepCollator:
    """Builds batches from rows of process supervision: opens images, merges steps, encodes conversations.

    Args:
        encoder: Renders and tokenizes.
        max_steps: In rows with more steps, consecutive steps are merged.
        response_as_one_step: Make the whole solution one step, with the score of its last step.
        mark_step_tokens: Fill :attr:`StepBatch.step_tokens`.
    """

    def __init__(
        self,
        encoder: ConversationEncoder,
        max_steps: int = DEFAULT_MAX_STEPS,
        response_as_one_step: bool = False,
        mark_step_tokens: bool = False,
    ) -> None:
        self.encoder = encoder
        self.mark_step_tokens = mark_step_tokens
        self.max_steps = 1 if response_as_one_step else max_steps

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> StepBatch:
        """Build a batch from rows of a table of :mod:`datamodules.supervision.rows`.

        Raises:
            ImageError: If an image cannot be read; names file, line and field.
            ValueError: If a row cannot be encoded; names file and line.
        """
        merged = [merge_scored_steps(row, self.max_steps) for row in rows]
        conversations = [
            Conversation(
                load_images(row["images"], row["sample_id"], row.get("image_bytes")),
                row["question"],
                steps["steps"],
                row["sample_id"],
                row.get("max_tiles") or None,
            )
            for row, steps in zip(rows, merged, strict=True)
        ]
        inputs, positions = self.encoder.encode(conversations)
        step_tokens = None
        if self.mark_step_tokens:
            step_tokens = self.encoder.step_tokens(inputs["input_ids"], positions, [c.steps for c in conversations])
        return StepBatch(
            inputs,
            positions,
            pad_rows([steps["mc"] for steps in merged], float("nan"), torch.float32),
            pad_rows([steps["num_mc_correct"] for steps in merged], -1, torch.long),
            pad_rows([steps["num_mc_total"] for steps in merged], -1, torch.long),
            [row["sample_id"] for row in rows],
            [row["source"] for row in rows],
            question_accuracy=torch.tensor([_or_nan(row.get("question_accuracy")) for row in rows]),
            step_tokens=step_tokens,
        )


def rows_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The rows of columns of equal length."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def merge_scored_steps(row: Mapping[str, Any], max_steps: int) -> dict[str, list[Any]]:
    """Merge consecutive steps of a row; a merged step has the score of the last of them."""
    last = torch.tensor(merged_sizes(len(row["steps"]), max_steps)).cumsum(0) - 1
    names = ("mc", "num_mc_correct", "num_mc_total")
    scores = {name: [row[name][index] for index in last.tolist()] for name in names}
    return {"steps": merge_steps(row["steps"], max_steps), **scores}


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def pad_rows(rows: Sequence[Sequence[float]], padding: float, dtype: torch.dtype) -> Tensor:
    """A right-padded (B, S) tensor of B rows of at most S numbers."""
    return pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], batch_first=True, padding_value=padding)


def load_images(paths: Sequence[str], where: str, embedded: Sequence[bytes | None] | None = None) -> list[Image.Image]:
    """Open the images of a row; errors name ``where`` and the field.

    Args:
        paths: File paths, or references to members of archives.
        where: ``file:line`` of the row.
        embedded: For each image its bytes, if the row holds them; None for an image that is opened from its path.

    Raises:
        ImageError: If an image cannot be used.
    """
    sources = [
        data if data is not None else path for data, path in zip(embedded or [None] * len(paths), paths, strict=True)
    ]
    return [open_image(source, f"{where}: field 'image'") for source in sources]
