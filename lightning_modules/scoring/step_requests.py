"""What a server is asked about a conversation: one chat completion for each step.

The chat ends before the assistant turn that judges the step, so that the probabilities of the next token are the
judgement. The chat of a step begins with that of the step before, which the server's prefix cache has read already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datamodules.conversation.encoder import Conversation, ConversationEncoder
from lightning_modules.scoring.class_logprobs import ClassLogprobs

Chat = list[dict[str, Any]]


def step_chats(encoder: ConversationEncoder, conversation: Conversation, image_urls: Sequence[str]) -> list[Chat]:
    """The chat of each step, as an OpenAI-compatible server reads it.

    Args:
        encoder: Of the model.
        conversation: Its steps are judged.
        image_urls: URL of each picture.

    Returns:
        For each step, the messages up to the user turn that holds it.

    Raises:
        ValueError: See :meth:`ConversationEncoder.messages`.
    """
    urls = iter(image_urls)
    messages = [
        {"role": message["role"], "content": _served_content(message["content"], urls)}
        for message in encoder.messages(conversation)
    ]
    ends = [index + 1 for index, message in enumerate(messages) if message["role"] == "user"]
    return [messages[:end] for end in ends]


def _served_content(parts: Sequence[dict[str, Any]], urls: Iterator[str]) -> str | list[dict[str, Any]]:
    """Parts of a message in the server's form; neighbouring texts are one, as servers may put line breaks between."""
    served: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == "image":
            served.append({"type": "image_url", "image_url": {"url": next(urls)}})
        elif served and served[-1]["type"] == "text":
            served[-1] = {"type": "text", "text": served[-1]["text"] + part["text"]}
        else:
            served.append(dict(part))
    return served[0]["text"] if [part["type"] for part in served] == ["text"] else served


def layout_of(chat: Chat) -> tuple[str, ...]:
    """The kinds of parts in a chat's first user turn: texts and pictures in their order."""
    content = next(message["content"] for message in chat if message["role"] == "user")
    return ("text",) if isinstance(content, str) else tuple(part["type"] for part in content)


def step_body(model: str, chat: Chat, classes: ClassLogprobs, tiling: Mapping[str, Any]) -> dict[str, Any]:
    """The request about a step.

    Args:
        model: Its name at the server.
        chat: See :func:`step_chats`.
        classes: How class probabilities are asked for.
        tiling: Arguments of the processor that bound the tiles of a picture; empty for its own number.
    """
    body = {"model": model, "messages": chat, **classes.parameters}
    return {**body, "mm_processor_kwargs": dict(tiling)} if tiling else body
