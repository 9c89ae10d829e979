"""The processor of a text-only language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin


class TextProcessor(ProcessorMixin):
    """Gives a tokenizer with a chat template the interface of a multimodal processor.

    Args:
        tokenizer: Tokenizer of the checkpoint.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        """Tokenise texts.

        Raises:
            ValueError: If there are images.
        """
        if images is not None:
            raise ValueError(self._no_images())
        return BatchFeature(dict(self.tokenizer(text, **options)))

    def _no_images(self) -> str:
        return (
            f"the checkpoint {self.tokenizer.name_or_path!r} reads no images: it is a text-only model, or its folder "
            f"lacks the files of an image processor; leave image samples out or take an image-text-to-text checkpoint"
        )

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Sequence[Mapping[str, Any]], *arguments: Any, **options: Any
    ) -> Any:
        """Render messages whose contents may be lists of text parts, which templates of text models do not accept.

        Raises:
            ValueError: If a part is not a text.
        """
        messages = [{**message, "content": self._text(message["content"])} for message in conversation]
        return self.tokenizer.apply_chat_template(messages, *arguments, **options)

    def _text(self, content: str | Sequence[Mapping[str, Any]]) -> str:
        if isinstance(content, str):
            return content
        if any(part["type"] != "text" for part in content):
            raise ValueError(self._no_images())
        return "".join(part["text"] for part in content)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **options: Any) -> Any:
        """Write only the tokenizer's files, so that the folder remains that of a text-only model."""
        return self.tokenizer.save_pretrained(save_directory, push_to_hub=push_to_hub, **options)
