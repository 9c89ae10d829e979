"""Batches of conversations with the Monte Carlo scores of their steps.

B conversations, L tokens, S steps of the longest conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.batching.conversation_batch import ConversationBatch
from datamodules.conversation.encoder import Conversation, ConversationEncoder
from datamodules.conversation.reading_rules import PictureRules, WhiteSpace
from datamodules.conversation.refused_pictures import PictureRefusedError
from datamodules.conversation.step_kinds import NO_KIND, step_kind
from datamodules.conversation.steps import DEFAULT_MAX_STEPS, merge_steps, merged_sizes, steps_to_read
from datamodules.storage.bad_rows import OnBadRow
from datamodules.storage.images import ImageError, check_image, open_image

__all__ = ["ConversationEncoder", "StepBatch", "StepCollator", "load_images", "merge_scored_steps", "pad_rows"]

SMALL_PICTURE = (56, 56)
"""Width and height of a picture that no processor refuses or cuts into tiles."""


Verdicts = Callable[[Sequence[float], float], list[str]]


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
        step_kinds: (B, S) long, whether each step is perception or reasoning, see
            :mod:`datamodules.conversation.step_kinds`; -1 at padding. None if it is not known.
        step_weights: (B, S) float32, how often each step counts in the training loss; None for once.
        left_out: For each row whose images cannot be used, its error by sample id. Such a row has blank images and no
            label, so that the batch keeps its shape on all ranks.
    """

    step_positions: Tensor
    mc: Tensor
    num_mc_correct: Tensor
    num_mc_total: Tensor
    sample_ids: list[str]
    sources: list[str]
    question_accuracy: Tensor | None = field(default=None, kw_only=True)
    step_tokens: Tensor | None = field(default=None, kw_only=True)
    step_kinds: Tensor | None = field(default=None, kw_only=True)
    step_weights: Tensor | None = field(default=None, kw_only=True)
    left_out: dict[str, str] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        shape = self.step_positions.shape
        for name in ("mc", "num_mc_correct", "num_mc_total"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(getattr(self, name).shape)}")
        rows = len(self.inputs["input_ids"]) if self.boundaries is None else len(self.boundaries) - 1
        if not shape[0] == len(self.sample_ids) == len(self.sources) == rows:
            raise ValueError(f"expected {shape[0]} conversations, ids and sources, got {len(self.sample_ids)} ids")

    def weigh_steps(self, weights: Tensor) -> None:
        """Multiply how often steps count in the training loss by (B, S) weights."""
        self.step_weights = weights if self.step_weights is None else self.step_weights * weights


class StepCollator:
    """Builds batches from rows of process supervision: opens images, merges steps, encodes conversations.

    Args:
        encoder: Renders and tokenizes.
        max_steps: In rows with more steps, consecutive steps are merged.
        response_as_one_step: Make the whole solution one step, with the score of its last step.
        mark_step_tokens: Fill :attr:`StepBatch.step_tokens`.
        verdicts: From the scores of steps and the accuracy of the policy before the first of them to the class tokens
            in the assistant turns; by default the first class token in each.
        on_bad_row: What to do about a row whose picture cannot be decoded, or is refused by the processor: leave it
            out, see :attr:`StepBatch.left_out`, or raise an error.
    """

    def __init__(
        self,
        encoder: ConversationEncoder,
        max_steps: int = DEFAULT_MAX_STEPS,
        response_as_one_step: bool = False,
        mark_step_tokens: bool = False,
        on_bad_row: OnBadRow = "error",
        verdicts: Verdicts | None = None,
    ) -> None:
        self.encoder = encoder
        self.on_bad_row = on_bad_row
        self.verdicts = verdicts
        self.mark_step_tokens = mark_step_tokens
        self.max_steps = 1 if response_as_one_step else max_steps

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> StepBatch:
        """Build a batch from rows of a table of :mod:`datamodules.supervision.rows`.

        Raises:
            ImageError: If a picture cannot be read and its row is not to be left out; names file, line and field.
            ValueError: If a row cannot be encoded; names file and line.
        """
        rules = self.encoder.rules
        merged = [merge_scored_steps(row, self.max_steps, rules.white_space) for row in rows]
        left_out: dict[str, str] = {}
        conversations = [
            Conversation(
                self._images(row, left_out),
                rules.question(row["question"], row.get("question_bare")),
                steps["steps"],
                row["sample_id"],
                row.get("max_tiles") or None,
                self.verdicts(steps["mc"], _or_nan(row.get("question_accuracy"))) if self.verdicts else None,
            )
            for row, steps in zip(rows, merged, strict=True)
        ]
        inputs, positions = self._encode(conversations, left_out)
        for row, steps in zip(rows, merged, strict=True):
            if row["sample_id"] in left_out:
                steps["mc"] = [float("nan")] * len(steps["mc"])
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
            step_kinds=kinds_of_steps([steps["steps"] for steps in merged]),
            left_out=left_out,
            conversations=self.encoder.kept(conversations),
        )

    def _images(self, row: Mapping[str, Any], left_out: dict[str, str]) -> list[Image.Image]:
        """The pictures of a row; blank ones of the same sizes if they cannot be used."""
        try:
            return load_images(row["images"], row["sample_id"], row.get("image_bytes"), self.encoder.rules.pictures)
        except ImageError as error:
            if self.on_bad_row == "error":
                raise
            left_out[row["sample_id"]] = str(error)
            return blank_images(row["images"], row.get("image_bytes"), self.encoder.rules.pictures)

    def _encode(self, conversations: list[Conversation], left_out: dict[str, str]) -> tuple[dict[str, Tensor], Tensor]:
        """Encode conversations; pictures that the processor refuses are replaced in place by small blank ones."""
        while True:
            try:
                return self.encoder.encode(conversations)
            except PictureRefusedError as error:
                conversation = conversations[error.conversation]
                if self.on_bad_row == "error" or all(image.size == SMALL_PICTURE for image in conversation.images):
                    raise
                left_out[conversation.sample_id] = str(error)
                blank = [Image.new("RGB", SMALL_PICTURE) for _ in conversation.images]
                conversations[error.conversation] = conversation._replace(images=blank)


def rows_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The rows of columns of equal length."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def merge_scored_steps(
    row: Mapping[str, Any], max_steps: int, white_space: WhiteSpace = "ours"
) -> dict[str, list[Any]]:
    """Merge neighbouring steps of a row; a merged step has the score of its last one, up to which the solution goes.

    Blank steps and their scores are left out before, unless the white space is that of the release.
    """
    kept = steps_to_read(row["steps"], white_space)
    last = torch.tensor(merged_sizes(len(kept), max_steps)).cumsum(0) - 1
    names = ("mc", "num_mc_correct", "num_mc_total")
    scores = {name: [row[name][kept[index]] for index in last.tolist()] for name in names}
    return {"steps": merge_steps([row["steps"][index] for index in kept], max_steps), **scores}


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def pad_rows(rows: Sequence[Sequence[float]], padding: float, dtype: torch.dtype) -> Tensor:
    """A right-padded (B, S) tensor of B rows of at most S numbers."""
    return pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], batch_first=True, padding_value=padding)


def kinds_of_steps(solutions: Sequence[Sequence[str]]) -> Tensor:
    """(B, S) kinds of the steps of B solutions, see :attr:`StepBatch.step_kinds`."""
    return pad_rows([[step_kind(step) for step in steps] for steps in solutions], NO_KIND, torch.long)


def load_images(
    paths: Sequence[str],
    where: str,
    embedded: Sequence[bytes | None] | None = None,
    rules: PictureRules = "ours",
) -> list[Image.Image]:
    """Open the pictures of a row; errors name ``where`` and the field.

    Args:
        paths: Paths, or references of members of archives.
        where: ``file:row``.
        embedded: The bytes of pictures that come with the row, None for those that are to be opened.
        rules: See :func:`datamodules.storage.images.open_image`.

    Raises:
        ImageError: If one cannot be used.
    """
    return [open_image(source, f"{where}: field 'image'", rules) for source in _sources(paths, embedded)]


def blank_images(
    paths: Sequence[str], embedded: Sequence[bytes | None] | None = None, rules: PictureRules = "ours"
) -> list[Image.Image]:
    """Blank pictures of the sizes that the headers of pictures say, so that a conversation keeps its length.

    Args:
        paths: See :func:`load_images`.
        embedded: See :func:`load_images`.
        rules: See :func:`load_images`.
    """
    return [Image.new("RGB", _size(source, rules)) for source in _sources(paths, embedded)]


def _size(source: str | bytes, rules: PictureRules) -> tuple[int, int]:
    try:
        return check_image(source, "", upright=rules == "ours")
    except ImageError:
        return SMALL_PICTURE  # not even the header can be read


def _sources(paths: Sequence[str], embedded: Sequence[bytes | None] | None) -> list[str | bytes]:
    pairs = zip(embedded or [None] * len(paths), paths, strict=True)
    return [data if data is not None else path for data, path in pairs]
