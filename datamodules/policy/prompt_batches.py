"""Batches of prompts: pictures opened, chats written as messages."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from datamodules.batching.collate import SMALL_PICTURE
from datamodules.conversation.messages import IMAGE_PLACEHOLDER
from datamodules.policy.chat import ChatRenderer
from datamodules.policy.prompts import Prompt
from datamodules.storage.bad_rows import OnBadRow
from datamodules.storage.images import ImageError

logger = logging.getLogger(__name__)

_UNUSUAL_RATIO, _UNUSUAL_SIDE = 50, 28  # no processor refuses a picture of less extreme proportions and more pixels


@dataclass
class PromptBatch:
    """Prompts with opened images and their chats as messages.

    Attributes:
        prompts: B prompts.
        images: Images of each prompt.
        messages: B chats up to the response, in the format of chat templates.
        left_out: Prompt id to what is wrong with its pictures, for prompts whose answers do not count. They have blank
            pictures, so that the batch keeps its size and all ranks stay in step. Those that the engine refuses are
            added.
        on_bad_row: What to do about a prompt that the engine refuses.
    """

    prompts: list[Prompt]
    images: list[list[Image.Image]]
    messages: list[list[dict[str, Any]]]
    left_out: dict[str, str] = field(default_factory=dict)
    on_bad_row: OnBadRow = "error"

    @property
    def sample_ids(self) -> list[str]:
        """Ids of the prompts."""
        return [prompt.prompt_id for prompt in self.prompts]

    def leave_out(self, prompt: Prompt, problem: ValueError) -> None:
        """Leave out a prompt that cannot be answered, and say so.

        Raises:
            ValueError: The problem, if ``on_bad_row`` is "error".
        """
        if self.on_bad_row == "error":
            raise problem
        self.left_out[prompt.prompt_id] = f"{prompt.where or prompt.prompt_id}: {problem}"
        logger.warning("left out: %s", self.left_out[prompt.prompt_id])


class PromptDataset(Dataset[Prompt]):
    """A list of prompts."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = list(prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self.prompts[index]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the prompts with their solutions, in order."""
        digest = hashlib.blake2b(digest_size=8)
        for prompt in self.prompts:
            for text in (prompt.numbered_id or prompt.prompt_id, prompt.policy_text, prompt.response or ""):
                digest.update(f"{len(text)}:{text}".encode())
        return digest.hexdigest()


@dataclass
class PromptCollator:
    """Opens images and writes chats as messages.

    Attributes:
        renderer: Writes the chats.
        on_bad_row: What to do about a prompt whose picture cannot be used: see :attr:`PromptBatch.left_out`, or raise
            an error.
    """

    renderer: ChatRenderer
    on_bad_row: OnBadRow = "error"

    def __call__(self, prompts: list[Prompt]) -> PromptBatch:
        """Build a batch to generate from.

        Raises:
            ImageError: If a picture cannot be used and its prompt is not to be left out; names file and line.
        """
        left_out: dict[str, str] = {}
        images = [usable_images(prompt, self.renderer.processor, self.on_bad_row, left_out) for prompt in prompts]
        messages = [self.renderer.messages(p.policy_text, len(i)) for p, i in zip(prompts, images, strict=True)]
        return PromptBatch(prompts, images, messages, left_out, self.on_bad_row)


def usable_images(
    prompt: Prompt, processor: ProcessorMixin | None, on_bad_row: OnBadRow, left_out: dict[str, str]
) -> list[Image.Image]:
    """The pictures of a prompt, or blank ones in their place.

    Args:
        prompt: Names its pictures.
        processor: May refuse pictures of an unusual shape; these are tried on their own. None if it is not here.
        on_bad_row: "skip" gives blank pictures where one cannot be used.
        left_out: Takes the id of such a prompt and what is wrong.

    Raises:
        ImageError: If a picture cannot be used and ``on_bad_row`` is "error"; names file and line.
    """
    try:
        images = prompt.load_images()
        for image in images:
            _try_unusual_shape(image, processor, prompt.where)
        return images
    except ImageError as error:
        if on_bad_row == "error":
            raise
        left_out[prompt.prompt_id] = str(error)
        count = len(prompt.image_names) or prompt.policy_text.count(IMAGE_PLACEHOLDER)
        return [Image.new("RGB", SMALL_PICTURE) for _ in range(count)]


def _try_unusual_shape(image: Image.Image, processor: ProcessorMixin | None, where: str) -> None:
    if processor is None:
        return
    if max(image.size) < _UNUSUAL_RATIO * min(image.size) and min(image.size) >= _UNUSUAL_SIDE:
        return
    try:
        processor.image_processor(images=[image], return_tensors="pt")
    except Exception as error:  # processors raise all kinds
        raise ImageError(
            f"{where}: a picture of {image.width} x {image.height} pixels cannot be used with this model: {error}"
        ) from error
