"""What a server is asked about a conversation: one chat completion for each step.

The chat ends before the assistant turn that judges the step, so that the probabilities of the next token are the
judgement. The chat of a step begins with that of the step before, which the server's prefix cache has read already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.conversation.encoder import Conversation, ConversationEncoder
from lightning_modules.scoring.class_logprobs import ClassLogprobs
from lightning_modules.servers.messages import PictureEncoder

Chat = list[dict[str, Any]]


def step_chats(encoder: ConversationEncoder, conversation: Conversation, pictures: PictureEncoder) -> list[Chat]:
    """The chat of each step, as an OpenAI-compatible server reads it.

    Args:
        encoder: Of the model.
        conversation: Its steps are judged.
        pictures: Encodes its pictures.

    Returns:
        For each step, the messages up to the user turn that holds it.

    Raises:
        ValueError: See :meth:`ConversationEncoder.messages`.
    """
    messages = [{**each, "content": _joined(each["content"])} for each in encoder.messages(conversation)]
    chat = pictures.chat(messages, conversation.images)
    return [chat[: index + 1] for index, message in enumerate(chat) if message["role"] == "user"]


def _joined(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring texts as one: some servers put line breaks between parts."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        if joined and joined[-1]["type"] == part["type"] == "text":
            joined[-1] = {"type": "text", "text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(dict(part))
    return joined


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
