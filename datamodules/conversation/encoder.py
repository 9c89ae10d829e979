"""Conversations to token ids, with the positions at which steps are judged.

B conversations, L tokens, S steps of the longest conversation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import ProcessorMixin

from datamodules.conversation.chat_layout import ChatLayout
from datamodules.conversation.messages import DEFAULT_SYSTEM_PROMPT, IMAGE_PLACEHOLDER, ImageLayout, place_images
from datamodules.conversation.reading_rules import ReadingRules
from datamodules.conversation.tiles import model_inputs, tiling

NO_STEP = -1
"""Step position where a conversation has no such step."""


class Conversation(NamedTuple):
    """What the encoder reads.

    Attributes:
        images: RGB pictures of the question.
        question: Its text.
        steps: At least one.
        sample_id: Named in errors.
        max_tiles: Most tiles that each picture is cut into; the processor's own number by default.
        verdicts: Class token in the assistant turn of each step; the first one in all of them by default.
    """

    images: Sequence[Image.Image]
    question: str
    steps: Sequence[str]
    sample_id: str
    max_tiles: int | None = None
    verdicts: Sequence[str] | None = None


class ConversationEncoder:
    """Renders, tokenises and locates; works with any image-text-to-text processor that has a chat template.

    Args:
        processor: Of the checkpoint.
        system_prompt: None for the default prompt, empty for no system turn; see :class:`ChatLayout`.
        class_tokens: Tokens among which a step is classified; the first is the placeholder in assistant turns.
        image_layout: Where the images of a question stand that does not say so itself.
        rules: How data are read for this model; collators and datasets follow them.
        encodes_pictures: Whether pictures are part of what is encoded. False for a model behind a server, which reads
            them itself: token ids then hold one placeholder for each picture, and batches keep the conversations.

    Attributes:
        class_token_ids: Ids of the class tokens, as they are in an assistant's turn of this chat template.

    Raises:
        ValueError: If the chat template or the tokenizer does not suit step-by-step judgement.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        system_prompt: str | None,
        class_tokens: Sequence[str],
        image_layout: ImageLayout = "first",
        rules: ReadingRules = ReadingRules(),  # noqa: B008 - frozen
        encodes_pictures: bool = True,
    ) -> None:
        self.processor = processor
        self.system_prompt = DEFAULT_SYSTEM_PROMPT if system_prompt is None else system_prompt
        self.class_tokens = tuple(class_tokens)
        self.image_layout = image_layout
        self.rules = rules
        self.encodes_pictures = encodes_pictures
        self.special_tokens = special_tokens(processor)
        self._special_pattern = re.compile("|".join(map(re.escape, self.special_tokens)) or r"(?!)")
        self.use_system_prompt(self.system_prompt)

    def use_system_prompt(self, system_prompt: str) -> None:
        """Render with another system prompt from now on.

        Raises:
            ValueError: If it holds a special token, or the chat template does not suit step-by-step judgement.
        """
        self.system_prompt = system_prompt
        self.check_text(self.system_prompt, "the system prompt")
        self.layout = ChatLayout(self.processor, self.system_prompt, self.class_tokens)
        self.class_token_ids = self.layout.class_token_ids
        probe = self.render("1", 0, ["2", "3"], "a conversation of two steps")
        self.find_step_positions(self.layout.tokenize(probe), 2, "a conversation of two steps")

    def check_text(self, text: str, where: str) -> None:
        """Refuse a text that holds a special token of the tokenizer: it could begin a turn or stand for an image.

        Raises:
            ValueError: If it does; names ``where`` and the token.
        """
        found = self._special_pattern.search(text)
        if found:
            raise ValueError(
                f"{where}: the text holds the special token {found.group()!r} of this tokenizer, which would be read "
                f"as the end of a turn or as an image; change the text or leave the sample out: "
                f"...{text[max(0, found.start() - 30) : found.end() + 30]!r}..."
            )

    def check_conversation(self, question: str, steps: Sequence[str], sample_id: str, num_images: int = 1) -> None:
        """:meth:`check_text` on a question, whose image placeholders are no text if it has images, and its steps."""
        for piece in question.split(IMAGE_PLACEHOLDER) if num_images else [question]:
            self.check_text(piece, f"{sample_id}: question")
        for number, step in enumerate(steps):
            self.check_text(step, f"{sample_id}: step {number}")

    def render(
        self,
        question: str,
        num_images: int,
        steps: Sequence[str],
        sample_id: str = "conversation",
        verdicts: Sequence[str] | None = None,
    ) -> str:
        """The conversation as text, image placeholders not yet expanded; arguments as of :class:`Conversation`.

        Raises:
            ValueError: If the question or a step holds a special token, there are no steps, or the images do not match
                the placeholders of the question; names ``sample_id``.
        """
        self.check_conversation(question, steps, sample_id, num_images)
        try:
            return self.layout.render(self._with_placeholders(question, num_images), num_images, steps, verdicts)
        except ValueError as error:
            raise ValueError(f"{sample_id}: {error}") from error

    def messages(self, conversation: Conversation) -> list[dict[str, Any]]:
        """The messages of a conversation, as a server's chat template is to be given them.

        Raises:
            ValueError: See :meth:`render`.
        """
        question, count = conversation.question, len(conversation.images)
        self.check_conversation(question, conversation.steps, conversation.sample_id, count)
        try:
            return self.layout.messages(
                self._with_placeholders(question, count), count, conversation.steps, conversation.verdicts
            )
        except ValueError as error:
            raise ValueError(f"{conversation.sample_id}: {error}") from error

    def _with_placeholders(self, question: str, num_images: int) -> str:
        return place_images(question, num_images) if self.image_layout == "in_question" else question

    def find_step_positions(self, ids: list[int], num_steps: int, sample_id: str) -> list[int]:
        """Where steps are judged.

        Args:
            ids: Token ids of a conversation.
            num_steps: Its number of steps.
            sample_id: Named in errors.

        Returns:
            For each step the index of the token before the assistant's class token: its logits predict the judgement.

        Raises:
            ValueError: If there is not one assistant turn a step.
        """
        header = self.layout.pattern[:-1]
        found, start = [], 0
        first = header[0]
        for _ in range(ids.count(first)):
            start = ids.index(first, start)
            answer = start + len(header)
            if ids[start:answer] == header and answer < len(ids) and ids[answer] in self.class_token_ids:
                found.append(answer - 1)
            start += 1
        if len(found) != num_steps:
            raise ValueError(
                f"{sample_id}: {len(found)} assistant turns were found for {num_steps} steps; either a text imitates a "
                f"turn, or the tokenizer joins the texts of this chat template"
            )
        return found

    def step_tokens(self, input_ids: Tensor, step_positions: Tensor, steps: Sequence[Sequence[str]]) -> Tensor:
        """Which tokens are the text of which step.

        Args:
            input_ids: (B, L) encoded conversations.
            step_positions: (B, S) as :meth:`encode` gives them.
            steps: B lists of steps.

        Returns:
            (B, S, L) bool; nothing is marked at padding. Where the tokenizer joins the first letters of a step with
            what stands before it, the joined token is left out.
        """
        texts = [step for of_row in steps for step in of_row]
        is_first = [number == 0 for of_row in steps for number in range(len(of_row))]
        counts = iter(self.layout.text_lengths(texts, is_first))
        lengths = pad_sequence([torch.tensor([next(counts) for _ in of_row]) for of_row in steps], batch_first=True)
        ends = step_positions - (len(self.layout.pattern) - 2)
        index = torch.arange(input_ids.shape[1])
        return (index >= (ends - lengths)[..., None]) & (index < ends[..., None]) & (step_positions >= 0)[..., None]

    def encode(self, conversations: Sequence[Conversation | tuple]) -> tuple[dict[str, Tensor], Tensor]:
        """Tokenise a batch and preprocess its images.

        Args:
            conversations: B conversations, or tuples of their fields.

        Returns:
            The inputs of the model, right-padded, with ``input_ids`` and ``attention_mask`` of shape (B, L); and
            step positions (B, S) long, :data:`NO_STEP` at padding.

        Raises:
            PictureRefusedError: If the processor refuses a picture; ``conversation`` is its place in the batch.
            ValueError: See :meth:`render` and :meth:`find_step_positions`.
        """
        batch = [Conversation(*conversation) for conversation in conversations]
        texts = [self.render(c.question, len(c.images), c.steps, c.sample_id, c.verdicts) for c in batch]
        if self.encodes_pictures:
            inputs = model_inputs(
                self.processor,
                texts,
                [c.images for c in batch],
                [c.max_tiles for c in batch],
                padding_side="right",
                names=[c.sample_id for c in batch],
            )
        else:
            inputs = self._encoded_texts(texts)
        rows = inputs["input_ids"].tolist()
        positions = [
            torch.tensor(self.find_step_positions(row, len(c.steps), c.sample_id))
            for row, c in zip(rows, batch, strict=True)
        ]
        return inputs, pad_sequence(positions, batch_first=True, padding_value=NO_STEP)

    def _encoded_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        rows = [torch.tensor(self.layout.tokenize(text)) for text in texts]
        masks = [torch.ones_like(row) for row in rows]
        pad_id = self.processor.tokenizer.pad_token_id
        return {
            "input_ids": pad_sequence(rows, batch_first=True, padding_value=pad_id),
            "attention_mask": pad_sequence(masks, batch_first=True),
        }

    def kept(self, conversations: Sequence[Conversation]) -> list[Conversation] | None:
        """What a batch keeps of its conversations: nothing, unless a server reads the pictures."""
        return None if self.encodes_pictures else list(conversations)

    def tiling(self, max_tiles: int | None) -> dict[str, int | bool]:
        """Arguments for the processor, see :func:`datamodules.conversation.tiles.tiling`."""
        return tiling(self.processor, max_tiles)


def special_tokens(processor: ProcessorMixin) -> list[str]:
    """Texts that the tokenizer does not read as ordinary text, longest first."""
    tokenizer = processor.tokenizer
    tokens = {str(token) for token in tokenizer.all_special_tokens}
    tokens |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    for name in ("image_token", "video_token"):
        token = getattr(processor, name, None)
        if isinstance(token, str):
            tokens.add(token)
    return sorted((token for token in tokens if token), key=lambda token: (-len(token), token))
