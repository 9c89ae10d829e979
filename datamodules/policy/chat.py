"""The chat that a policy reads, as messages and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import ProcessorMixin

from datamodules.conversation.messages import question_content


def render_prompt(processor: ProcessorMixin, messages: Sequence[Mapping[str, Any]]) -> str:
    """The chat as text, up to where the model writes."""
    chat: Any = list(messages)
    return str(processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


class ChatRenderer:
    """Renders the policy's chats with the chat template of a processor.

    Args:
        processor: Processor with the template. None for chats that stay messages: another program renders them.
        system_prompt: Empty for no system turn.
    """

    def __init__(self, processor: ProcessorMixin | None, system_prompt: str = "") -> None:
        self.processor = processor
        self.system_prompt = system_prompt

    def messages(self, text: str, num_images: int) -> list[dict[str, Any]]:
        """Messages of the chat before the response."""
        system = [{"role": "system", "content": [{"type": "text", "text": self.system_prompt}]}]
        user = [{"role": "user", "content": question_content(text, num_images)}]
        return (system if self.system_prompt else []) + user

    def prompt(self, text: str, num_images: int) -> str:
        """The rendered chat up to the beginning of the response."""
        return render_prompt(self._known_processor, self.messages(text, num_images))

    @property
    def _known_processor(self) -> ProcessorMixin:
        assert self.processor is not None, "chats are rendered for models of this process only"
        return self.processor

    def conversation(self, text: str, num_images: int, response: str) -> str:
        """The rendered chat with the response and its end."""
        answer = {"role": "assistant", "content": [{"type": "text", "text": response}]}
        chat = [*self.messages(text, num_images), answer]
        return str(self._known_processor.apply_chat_template(chat, tokenize=False))
