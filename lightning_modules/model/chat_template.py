"""A chat template that opens conversations with the system prompt a reward model was trained with.

It is for programs that know nothing of this package. Here the prompt is always given as a turn of its own, so the
opening is taken off when a processor is loaded: an empty prompt then means no system turn, as it says.
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
    """The processor's template, changed so that a conversation without system turn gets the layout's system prompt.

    Args:
        processor: With its own template.
        layout: Of conversations with that processor.

    Returns:
        None where there is nothing to change (no system prompt), or where this cannot be done: the template knows no
        system turn, or there is more than one template.
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
    """The processor, its templates as they were before :func:`opened_with`; it is changed in place."""
    for holder in (processor, getattr(processor, "tokenizer", None)):
        template = getattr(holder, "chat_template", None)
        if isinstance(template, str) and template.startswith(_BEGIN):
            holder.chat_template = template.partition(_END)[2]  # type: ignore[union-attr]
    return processor


def require_template(processor: ProcessorMixin, name: object) -> ProcessorMixin:
    """The processor, if it can write conversations.

    Raises:
        ValueError: If it has no chat template; names the checkpoint ``name``.
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
    """What the chat template belongs to: the processor, or its tokenizer where only that has one."""
    return processor if getattr(processor, "chat_template", None) else processor.tokenizer


def _writes_the_same(processor: ProcessorMixin, layout: ChatLayout, template: str) -> bool:
    """Whether the changed template without system turn writes what the present one writes with it."""
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
    """A text as a string of the template language, in ASCII; braces and percent signs cannot open or close a tag."""
    escaped = text.encode("unicode_escape").decode("ascii").replace("'", "\\'")
    for character in "{}%#":
        escaped = escaped.replace(character, f"\\x{ord(character):02x}")
    return f"'{escaped}'"
