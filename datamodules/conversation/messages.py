"""The conversation in which a reward model judges steps, and the only place of its texts.

User turn 1 holds the image(s), the question and step 0. Each later user turn holds one step. Every assistant turn holds
the placeholder, which is the first class token; in training it can hold the label instead. The logits that predict it
are the judgement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from datamodules.storage import fields

DEFAULT_CLASS_TOKENS = ("+", "-")
"""Texts of the classes of a step, right and wrong, unless the objective or the user says otherwise."""
STEP_LABELS = ("+", "=", "-")
"""What an assistant turn of VisualPRM400K may hold: better or right, equal, worse or wrong."""
PLACEHOLDER = DEFAULT_CLASS_TOKENS[0]
IMAGE_PLACEHOLDER = "<image>"
ImageLayout = Literal["first", "in_question"]
"""Where images stand whose question has no placeholders: before all text, or where VisualPRM-8B has them."""
DEFAULT_SYSTEM_PROMPT = "You check solutions step by step. Answer + when a step is right and - when it is wrong."
QUESTION_HEADER = "### Question:\n"
SOLUTION_HEADER = "\n\n### Solution Process:\n"


def question_content(text: str, num_images: int, before: str = "", after: str = "") -> list[dict[str, Any]]:
    """Typed content parts of a user turn.

    Args:
        text: May hold one ``<image>`` per image, at the image's place; without placeholders the images come first.
            Where there are no images, ``<image>`` is ordinary text.
        num_images: Number of images.
        before: Text before ``text``; a ``<image>`` in it is ordinary text.
        after: Text after ``text``; a ``<image>`` in it is ordinary text.

    Raises:
        ValueError: If there are placeholders, but not one per image.
    """
    pieces = text.split(IMAGE_PLACEHOLDER) if num_images else [text]
    image = {"type": "image"}
    if len(pieces) == 1:
        return [image.copy() for _ in range(num_images)] + [{"type": "text", "text": before + text + after}]
    if len(pieces) - 1 != num_images:
        raise ValueError(f"the question has {len(pieces) - 1} {IMAGE_PLACEHOLDER} placeholders for {num_images} images")
    pieces[0] = before + pieces[0]
    pieces[-1] += after
    content: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        if number:
            content.append(image.copy())
        if piece:
            content.append({"type": "text", "text": piece})
    return content


def place_images(question: str, num_images: int) -> str:
    r"""Add image placeholders to a question as the released VisualPRM scorer does.

    A question with placeholders is not changed. One image goes before the question, after its header. Several are
    numbered as in InternVL's training and evaluation (``Image-1: <image>\n``); the released scorer refuses such a
    question.
    """
    if IMAGE_PLACEHOLDER in question or not num_images:
        return question
    if num_images == 1:
        return f"{IMAGE_PLACEHOLDER}\n{question}"
    return "".join(f"Image-{n}: {IMAGE_PLACEHOLDER}\n" for n in range(1, num_images + 1)) + question


def build_messages(
    question: str,
    num_images: int,
    steps: Sequence[str],
    system_prompt: str,
    verdicts: str | Sequence[str] = PLACEHOLDER,
) -> list[dict[str, Any]]:
    """Messages of the conversation about a solution, for a chat template.

    Args:
        question: See :func:`question_content`.
        num_images: Number of images of the question.
        steps: At least one.
        system_prompt: Empty for no system turn.
        verdicts: Text of every assistant turn, or one text for each of them.

    Raises:
        ValueError: If there are no steps, or placeholders and images do not match.
    """
    if not steps:
        raise ValueError("a conversation needs at least one step")
    first = question_content(question, num_images, QUESTION_HEADER, SOLUTION_HEADER + steps[0])
    turns = [first, *([_text(step)] for step in steps[1:])]
    messages = [{"role": "system", "content": [_text(system_prompt)]}] if system_prompt else []
    for content, verdict in zip(turns, [verdicts] * len(turns) if isinstance(verdicts, str) else verdicts, strict=True):
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [_text(verdict)]})
    return messages


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@dataclass(frozen=True)
class ConversationRow:
    """A parsed conversation row of VisualPRM400K.

    Attributes:
        question: Question without header and leading image placeholders.
        steps: At least one step; the released annotator makes blank ones, too.
        labels: The assistant's class token for each step.
        system_prompt: System prompt of the row; None if it has no system turn.
    """

    question: str
    steps: list[str]
    labels: list[str]
    system_prompt: str | None


def parse_conversation_row(row: Mapping[str, Any], where: str = "row") -> ConversationRow:
    """Parse a conversation row of VisualPRM400K.

    Args:
        row: Row with ``conversations: [{"from": "system" | "human" | "gpt", "value": str}, ...]``.
        where: ``file:line`` for error messages.

    Raises:
        ValueError: If turns are missing, out of order, of the wrong type or empty; names file, line and field.
    """
    turns = [
        _turn(turn, f"conversations[{i}]", where) for i, turn in enumerate(fields.items(row, "conversations", where))
    ]
    system_prompt = turns.pop(0)[1] if turns[0][0] == "system" else None
    speakers = [speaker for speaker, _ in turns]
    if not turns or len(turns) % 2 or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError(f"{where}: field 'conversations' must alternate between human and gpt, got {speakers}")
    steps = [value for _, value in turns[::2]]
    labels = [value.strip() for _, value in turns[1::2]]
    for number, label in enumerate(labels):
        if label not in STEP_LABELS:
            raise ValueError(
                f"{where}: field 'conversations': the gpt turn of step {number} must be + or -, got {label!r}"
            )
    question, steps[0] = _first_turn(steps[0], where)
    return ConversationRow(question, steps, labels, system_prompt)


def _turn(turn: Any, name: str, where: str) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise fields.wrong_field(where, name, "an object", turn)
    return fields.text(turn, "from", where, f"{name}."), fields.text(turn, "value", where, f"{name}.", blank=True)


def _first_turn(value: str, where: str) -> tuple[str, str]:
    """Question and step 0 of the first human turn; image placeholders before the header mean "images first"."""
    leading, header, rest = value.partition(QUESTION_HEADER)
    question, separator, step = rest.partition(SOLUTION_HEADER)
    if not header or not separator or leading.replace(IMAGE_PLACEHOLDER, "").strip():
        raise ValueError(
            f"{where}: field 'conversations': the first human turn must read "
            f"{QUESTION_HEADER + '...' + SOLUTION_HEADER + '...'!r}, got {value[:80]!r}"
        )
    if IMAGE_PLACEHOLDER in leading and IMAGE_PLACEHOLDER in question:
        raise ValueError(
            f"{where}: field 'conversations': {IMAGE_PLACEHOLDER} stands before the question and inside of it"
        )
    if not question.strip():
        raise ValueError(f"{where}: field 'conversations': the question is blank")
    return question, step
