"""Batches of gold responses for supervised fine-tuning, padded or packed into one row."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from datamodules.batching.conversation_batch import ConversationBatch
from datamodules.batching.lengths import TokenLimit
from datamodules.batching.packing import packed_inputs
from datamodules.conversation.labels import IGNORE_INDEX
from datamodules.conversation.tiles import model_inputs
from datamodules.policy.chat import ChatRenderer
from datamodules.policy.demonstration_lengths import too_long_demonstration
from datamodules.policy.prompt_batches import usable_images
from datamodules.policy.prompts import Prompt
from datamodules.storage.bad_rows import OnBadRow


@dataclass
class SupervisedBatch(ConversationBatch):
    """Conversations with the response as target.

    Attributes:
        labels: (B, L) or (1, T) token ids of the responses, IGNORE_INDEX elsewhere; not shifted.
        sample_ids: B prompt ids.
        left_out: Prompt id to what is wrong, for demonstrations that have blank pictures, or no content, and no target,
            so that the batch keeps its size and all ranks stay in step.
    """

    labels: Tensor
    sample_ids: list[str]
    left_out: dict[str, str] = field(default_factory=dict, kw_only=True)

    def samples_of(self, is_target: Tensor) -> Tensor:
        """Which conversation, of B, each of the tokens marked in (B, L) or (1, T) belongs to."""
        row, place = is_target.nonzero(as_tuple=True)
        if self.boundaries is None:
            return row
        return torch.bucketize(place, torch.tensor(self.boundaries[1:], device=place.device), right=True)


@dataclass
class SupervisedCollator:
    """Builds batches for supervised fine-tuning on gold responses.

    Attributes:
        renderer: Renders the conversations.
        padding_free: Pack the conversations of a batch into one row.
        on_bad_row: What to do about a demonstration whose picture cannot be used, or that is too long: see
            :attr:`SupervisedBatch.left_out`, or raise an error.
        limit: Most tokens of a conversation, pictures included; any number by default.
    """

    renderer: ChatRenderer
    padding_free: bool = False
    on_bad_row: OnBadRow = "error"
    limit: TokenLimit | None = None

    def __call__(self, prompts: list[Prompt]) -> SupervisedBatch:
        """Build a batch; raises ValueError for a prompt without a response or too long, ImageError for a picture."""
        processor = self.renderer.processor
        assert processor is not None, "demonstrations are tokenized for a model of this process"
        left_out: dict[str, str] = {}
        images = [usable_images(prompt, processor, self.on_bad_row, left_out) for prompt in prompts]
        full, targets = [], []
        for prompt, opened in zip(prompts, images, strict=True):
            if not prompt.response:
                raise ValueError(f"{prompt.prompt_id}: field 'response' is missing; a demonstration needs one")
            begin = self.renderer.prompt(prompt.policy_text, len(opened))
            conversation = self.renderer.conversation(prompt.policy_text, len(opened), prompt.response)
            if not conversation.startswith(begin):
                raise ValueError("the chat template renders an answered chat differently from its prompt")
            full.append(conversation)
            targets.append(conversation[len(begin) :])
        most = [prompt.max_tiles for prompt in prompts]
        inputs = model_inputs(processor, full, images, most, padding_side="right")
        if emptied := self._too_long(prompts, inputs["attention_mask"].sum(-1).tolist(), left_out):
            for row in emptied:
                images[row], full[row], targets[row] = [], self.renderer.conversation(".", 0, "."), "."
            inputs = model_inputs(processor, full, images, most, padding_side="right")
        lengths = [len(ids) for ids in processor.tokenizer(targets, add_special_tokens=False)["input_ids"]]
        ends = inputs["attention_mask"].sum(-1).tolist()
        labels = torch.full_like(inputs["input_ids"], IGNORE_INDEX)
        names = [prompt.prompt_id for prompt in prompts]
        for row, (name, length, end) in enumerate(zip(names, lengths, ends, strict=True)):
            if name not in left_out:
                labels[row, end - length : end] = inputs["input_ids"][row, end - length : end]
        if not self.padding_free:
            return SupervisedBatch(dict(inputs), labels, names, left_out=left_out)
        in_row = labels[inputs["attention_mask"].bool()][None]
        packed, boundaries = packed_inputs(inputs)
        return SupervisedBatch(packed, in_row, names, boundaries=boundaries, left_out=left_out)

    def _too_long(self, prompts: list[Prompt], tokens: list[int], left_out: dict[str, str]) -> list[int]:
        """Rows of more tokens than the limit, which are noted as left out, or raise an error."""
        if self.limit is None:
            return []
        rows = [row for row, count in enumerate(tokens) if count > self.limit.tokens]
        for row in rows:
            problem = too_long_demonstration(prompts[row], tokens[row], self.limit)
            if self.on_bad_row == "error":
                raise problem
            left_out[prompts[row].prompt_id] = str(problem)
        return rows
