"""The question in a prompt and the text of a completion, which are plain texts or chat messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.conversation.messages import IMAGE_PLACEHOLDER

Chat = Sequence[Mapping[str, Any]]


def question_of(prompt: str | Chat, where: str, argument: str) -> str:
    """The text of a prompt's only user turn; a prompt that is a text is the question.

    A system turn is left out: the reward model has its own. Pictures that stand behind text have a placeholder there.

    Args:
        prompt: A text, or a chat.
        where: Of the row, for errors.
        argument: What names a column with the question, for errors.

    Raises:
        ValueError: If there is not one user turn, or it is no chat.
    """
    if isinstance(prompt, str):
        return prompt
    turns = [message for message in _messages(prompt, where) if message["role"] != "system"]
    roles = [str(message["role"]) for message in turns]
    if roles != ["user"]:
        raise ValueError(
            f"{where}: the prompt has the turns [{', '.join(roles)}], but a reward model reads one question; name the "
            f"column that holds it: {argument}"
        )
    parts = _parts(turns[0], where)
    leading = next((index for index, part in enumerate(parts) if part["type"] != "image"), len(parts))
    if all(part["type"] != "image" for part in parts[leading:]):
        parts = parts[leading:]
    return "".join(IMAGE_PLACEHOLDER if part["type"] == "image" else part["text"] for part in parts)


def pictures_in(prompt: str | Chat, where: str) -> list[Any]:
    """What the picture parts of a prompt hold, in their order; None for a part without content.

    Raises:
        ValueError: If it is neither a text nor a chat.
    """
    if isinstance(prompt, str):
        return []
    parts = [part for message in _messages(prompt, where) for part in _parts(message, where)]
    return [_content_of(part) for part in parts if part["type"] == "image"]


def _content_of(part: Mapping[str, Any]) -> Any:
    return next((part[name] for name in ("image", "url", "path") if part.get(name) is not None), None)


def completion_text(completion: str | Chat, where: str) -> str:
    """The text of a completion: that of its assistant turns, with a blank line between them.

    Raises:
        ValueError: If it is neither a text nor a chat.
    """
    if isinstance(completion, str):
        return completion
    turns = [message for message in _messages(completion, where) if message["role"] == "assistant"]
    texts = [[part["text"] for part in _parts(turn, where) if part["type"] == "text"] for turn in turns]
    return "\n\n".join("".join(of_turn) for of_turn in texts)


def _messages(chat: Any, where: str) -> list[Mapping[str, Any]]:
    messages = list(chat) if isinstance(chat, Sequence) or type(chat).__name__ == "ndarray" else [chat]
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message:
            raise ValueError(f"{where}: must be a text, or messages with 'role' and 'content', got {message!r:.80}")
    return messages


def _parts(message: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    content = message.get("content") or ""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") not in ("text", "image"):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"{where}: a part of a message must be of type 'text' or 'image', got {kind!r}")
    return list(content)
