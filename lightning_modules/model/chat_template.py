"""A chat template that opens conversations with the system prompt that a reward model was trained with.

It serves programs that do not use this package. This package always gives the system prompt as a turn of its own, so it
removes the opening when it loads a processor; an empty prompt then means no system turn.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from transformers import ProcessorMixin

from datamodules.conversation.chat_layout import ChatLayout
from datamodules.conversation.messages import build_messages
from lightning_modules.model.text_processor import TextProcessor

# The plus keeps the newline that may follow.
_BEGIN = "{# The system prompt of this reward model, where a conversation has none. +#}"
_END = "{# The template of the base model. +#}"


def opened_with(processor: ProcessorMixin, layout: ChatLayout) -> str | None:
    """The processor's template, with the layout's system prompt added to conversations without a system turn.

    Args:
        processor: Processor with its own template.
        layout: Layout of conversations with that processor.

    Returns:
        The changed template. None if there is no system prompt, if the template has no system turn, or if there is more
        than one template.
    """
    template = template_holder(processor).chat_template
    if not layout.system_prompt or layout.folds_system_prompt or not isinstance(template, str):
        return None
    literal = _jinja_literal(layout.system_prompt)
    for content in (f"[{{'type': 'text', 'text': {literal}}}]", literal):
        changed = (
            f"{_BEGIN}{{%- if messages[0]['role'] != 'system' %}}"
            f"{{%- set messages = [{{'role': 'system', 'content': {content}}}] + messages %}}{{%- endif +%}}"
            f"{_END}{template}"
        )
        if _writes_the_same(processor, layout, changed):
            return changed
    return None


def without_opening(processor: ProcessorMixin) -> ProcessorMixin:
    """Undo :func:`opened_with` in the processor's templates, in place; returns the processor."""
    for holder in (processor, getattr(processor, "tokenizer", None)):
        template = getattr(holder, "chat_template", None)
        if isinstance(template, str) and template.startswith(_BEGIN):
            holder.chat_template = template.partition(_END)[2]  # type: ignore[union-attr]
    return processor


def require_template(processor: ProcessorMixin, name: object) -> ProcessorMixin:
    """Return the processor if it has a chat template.

    Raises:
        ValueError: If it has none; names the checkpoint ``name``.
    """
    # A multimodal processor does not fall back on the template of its tokenizer, which would know no images.
    holder: Any = processor.tokenizer if isinstance(processor, TextProcessor) else processor
    if not holder.chat_template:
        raise ValueError(
            f"{name}: the checkpoint has no chat template, so that it cannot be told how conversations are written; "
            f"take one that was tuned for conversations, or put its template into the folder as chat_template.jinja"
        )
    return processor


def template_holder(processor: ProcessorMixin) -> Any:
    """The object with the chat template: the processor, or its tokenizer if only that has one."""
    return processor if getattr(processor, "chat_template", None) else processor.tokenizer


def _writes_the_same(processor: ProcessorMixin, layout: ChatLayout, template: str) -> bool:
    """Whether the changed template without a system turn writes the same text as the present one with it."""
    for num_images, steps in ((0, ["2"]), (0, ["2", "3"]), (1, ["2"])):
        try:
            with_turn = build_messages("1", num_images, steps, layout.system_prompt, layout.class_tokens[0])
            for messages in (with_turn, with_turn[:-1]):
                options = {"tokenize": False, "add_generation_prompt": messages[-1]["role"] == "user"}
                expected = processor.apply_chat_template(messages, **options)
                if processor.apply_chat_template(messages[1:], chat_template=template, **options) != expected:
                    return False
        except (TemplateError, TypeError):  # contents of the other kind
            return False
        except ValueError:
            # A text-only processor refuses the image whatever the template.
            if not num_images:
                raise
    return True


def _jinja_literal(text: str) -> str:
    """A text as a Jinja string literal in ASCII, in which braces and percent signs cannot open or close a tag."""
    escaped = text.encode("unicode_escape").decode("ascii").replace("'", "\\'")
    for character in "{}%#":
        escaped = escaped.replace(character, f"\\x{ord(character):02x}")
    return f"'{escaped}'"
