r"""What VLMEvalKit asks a policy of InternVL in Best-of-N (``InternVLChat``, config InternVL2_5-8B-BoN-8).

The question is the cell of its table as it is, then the request for a boxed answer reached step by step. Pictures stand
in front, also those that the text names (``<image 1>`` stays in it as text): ``<image>\n`` for one,
``Image-1: <image>\nImage-2: <image>\n`` for two. A picture is cut into at most 6 tiles (12 of MMMU) beside the whole
one, and all pictures of a question together into at most 64. The first picture of an MMMU question is enlarged to twice
its size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from datamodules.benchmarks.question import IMAGE_PLACEHOLDER, BenchmarkQuestion
from datamodules.conversation.instructions import INSTRUCTIONS, QUESTION

CHOICE, OPEN = "boxed_letter", "boxed"
"""Names of the instructions for multiple-choice and for other questions."""

TEMPLATES = {
    "MMMU": CHOICE,  # its open questions, too
    "MathVista": OPEN,
    "MathVision": OPEN,
    "MathVerse-VO": OPEN,
    "DynaMath": OPEN,
    "WeMath": CHOICE,
    "LogicVista": OPEN,
}
"""Benchmark to the name of its instruction."""

MAX_TILES, MAX_TILES_OF_MMMU, MAX_TILES_TOGETHER = 6, 12, 64

_DIRECTLY = "Answer with the option's letter from the given choices directly."
_DIRECTLY_WITHOUT_OPTIONS = "Answer the question directly."
_DIRECTLY_ZH, _DIRECTLY_WITHOUT_OPTIONS_ZH = "请直接回答选项字母。", "请直接回答问题。"
_CHINESE = re.compile("[\u4e00-\u9fff]")


@dataclass(frozen=True)
class AskedQuestion:
    """What a policy is asked.

    Attributes:
        text: With an ``<image>`` for each picture.
        images: Its pictures, RGB, possibly decoded at access.
        enlarges_first: Whether the first picture is shown at twice its size.
        max_tiles: Most tiles of each picture, the whole one not counted.
    """

    text: str
    images: Sequence[Image.Image]
    enlarges_first: bool
    max_tiles: int


def ask(question: BenchmarkQuestion) -> AskedQuestion:
    """A question as VLMEvalKit asks it.

    Args:
        question: Of one of the benchmarks in :data:`TEMPLATES`.

    Raises:
        ValueError: If VLMEvalKit does not ask this benchmark.
    """
    if question.benchmark not in TEMPLATES or question.row is None:
        raise ValueError(
            f"prompts_as: vlmevalkit asks the benchmarks {', '.join(TEMPLATES)}, not {question.benchmark}; name "
            f"those in benchmark_names"
        )
    images = question.row.images
    is_mmmu = question.benchmark == "MMMU"
    name = TEMPLATES[question.benchmark]
    text = INSTRUCTIONS[name].replace(QUESTION, _choice_text(question) if name == CHOICE else _open_text(question))
    # A literal placeholder would stand for a picture that the text in front already has.
    text = _in_front(len(images)) + text.replace(IMAGE_PLACEHOLDER, "")
    most = MAX_TILES_OF_MMMU if is_mmmu else MAX_TILES
    share = max(1, min(most, MAX_TILES_TOGETHER // max(1, len(images))))
    return AskedQuestion(text, images, is_mmmu, share)


def load(
    asked: AskedQuestion, opened: Callable[[Sequence[Image.Image]], list[Image.Image]] = list
) -> list[Image.Image]:
    """The pictures of a question as they are shown.

    Args:
        asked: The question.
        opened: Opens its pictures.
    """
    images = opened(asked.images)
    if asked.enlarges_first and images:
        width, height = images[0].size
        images[0] = images[0].resize((2 * width, 2 * height), Image.Resampling.BILINEAR)
    return images


def _in_front(num_images: int) -> str:
    if num_images == 1:
        return f"{IMAGE_PLACEHOLDER}\n"
    return "".join(f"Image-{number}: {IMAGE_PLACEHOLDER}\n" for number in range(1, num_images + 1))


def _open_text(question: BenchmarkQuestion) -> str:
    assert question.row is not None
    text = question.row.question
    if question.benchmark == "MathVision" and not question.row.is_table:
        return question.question  # the authors' rows list the options apart
    if question.benchmark == "MathVerse-VO":
        text = text.replace("please directly answer the question and", "please")
    return text


def _choice_text(question: BenchmarkQuestion) -> str:
    """Hint, question and options; a request for a direct answer is added, of which one wording is left out again."""
    row = question.row
    assert row is not None
    lines = [row.hint] if row.hint else []
    text = "\n".join([*lines, row.question, *(f"{letter}. {option}" for letter, option in row.options.items())])
    if _CHINESE.search(text):
        request = _DIRECTLY_ZH if row.options else _DIRECTLY_WITHOUT_OPTIONS_ZH
    else:
        request = _DIRECTLY if row.options else _DIRECTLY_WITHOUT_OPTIONS
    return f"{text}\n{request}".replace(_DIRECTLY, "").strip()
