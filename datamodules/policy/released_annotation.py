"""How the released annotation of VisualPRM400K-v1.1 asks: instructions around questions, and tiles by source.

From ``visualprm_data_pieline.py`` and ``visualprm_mmpr_8b.sh`` of InternVL. How it grades is in
:mod:`datamodules.policy.visualprm_v1_1`; how it splits, continues and scores are options of
:class:`lightning_modules.annotation.MonteCarloAnnotator`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from datamodules.conversation.instructions import INSTRUCTIONS, QUESTION, SHORT_ANSWER_INSTRUCTIONS
from datamodules.conversation.messages import IMAGE_PLACEHOLDER
from datamodules.policy.prompts import Prompt

logger = logging.getLogger(__name__)

MaxTiles = int | Literal["visualprm_v1_1"]
"""Most tiles of a picture, or those of the released annotation, by source."""

_ENDINGS = (
    *SHORT_ANSWER_INSTRUCTIONS,
    "Please answer the question and put the final answer within \\boxed{}.",
)
_CHINESE = "_zh_"
_TILES = (
    (("infographics",), 24),
    (("docvqa",), 18),
    (("SROIE", "chartqa", "mapqa", "figureqa"), 12),
    (("nlvr2",), 1),
)
_TILES_OF_OTHERS = 6


def tiles_of(source: str) -> int:
    """Most tiles that pictures of a source are cut into, known by a word in its name; 6 for most sources."""
    return next((tiles for words, tiles in _TILES if any(word in source for word in words)), _TILES_OF_OTHERS)


def template_of(name: str, source: str) -> str:
    """The instruction around a source's questions: the Chinese one of that name where its name holds ``_zh_``.

    Raises:
        ValueError: If there is no such instruction.
    """
    chinese = f"{name}_zh"
    chosen = chinese if _CHINESE in source and chinese in INSTRUCTIONS else name
    if chosen not in INSTRUCTIONS:
        raise ValueError(f"instruction_template must be one of {', '.join(INSTRUCTIONS)}, got {name!r}")
    return INSTRUCTIONS[chosen]


def as_asked(question: str, num_images: int, template: str) -> str:
    r"""A question of MMPR as the released annotation asks it.

    A request for a short answer at its end is left out. A single picture stands in front of the whole text, wherever
    the question has it; several stay where the question has them.

    >>> as_asked("How many <image>? Please answer Yes or No.", 1, "{question}\nThink.")
    '<image>\nHow many ?\nThink.'

    Args:
        question: With one ``<image>`` a picture, or none.
        num_images: Number of its pictures.
        template: With ``{question}`` where the question goes.
    """
    for ending in _ENDINGS:
        if question.endswith(ending):
            question = question.removesuffix(ending).strip()
    text = template.replace(QUESTION, question)
    if not num_images:
        return text
    placeholders = text.count(IMAGE_PLACEHOLDER)
    if placeholders == 1:
        text = text.replace(f"{IMAGE_PLACEHOLDER}\n", "").replace(IMAGE_PLACEHOLDER, "")
    return text if placeholders > 1 else f"{IMAGE_PLACEHOLDER}\n" * num_images + text


def with_choices(
    prompts: Sequence[Prompt],
    instruction_template: str | None = None,
    max_tiles: MaxTiles | None = None,
    without_sources: Sequence[str] = (),
    max_prompts_per_source: int | None = None,
) -> list[Prompt]:
    """Prompts that are chosen, asked as chosen.

    Args:
        prompts: Rows of MMPR.
        instruction_template: Name in :data:`datamodules.conversation.instructions.INSTRUCTIONS`; their own text by
            default.
        max_tiles: Most tiles of a picture; the processor's own number by default.
        without_sources: Prompts of sources with one of these words in their names are left out; a notice counts them.
        max_prompts_per_source: At most so many of each source: the first, and others at equal distances, as in the
            released annotation.

    Raises:
        ValueError: If there is no such instruction, or no prompt is left.
    """
    left_out = Counter(p.source for p in prompts if any(word in p.source for word in without_sources))
    if left_out:
        counts = ", ".join(f"{source} ({count} prompts)" for source, count in sorted(left_out.items()))
        logger.warning("without_sources leaves out %s", counts)
        if left_out.total() == len(prompts):
            raise ValueError(f"without_sources {list(without_sources)} leaves no prompt: {counts}")
    kept = [prompt for prompt in prompts if prompt.source not in left_out]
    if max_prompts_per_source is not None:
        kept = at_equal_distances(kept, max_prompts_per_source)
    return [_chosen(prompt, instruction_template, max_tiles) for prompt in kept]


def at_equal_distances(prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """At most so many prompts of each source, as the released annotation chooses them: the first, and others evenly."""
    distance = {
        source: max(1, count // max(1, most)) for source, count in Counter(prompt.source for prompt in prompts).items()
    }
    seen: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        place, between = seen[prompt.source], distance[prompt.source]
        if place % between == 0 and place // between < most:
            kept.append(prompt)
        seen[prompt.source] += 1
    return kept


def _chosen(prompt: Prompt, instruction_template: str | None, max_tiles: MaxTiles | None) -> Prompt:
    text = prompt.text
    if instruction_template is not None:
        template = template_of(instruction_template, prompt.source)
        text = as_asked(prompt.question, len(prompt.image_names), template)
    most = tiles_of(prompt.source) if max_tiles == "visualprm_v1_1" else max_tiles
    return replace(prompt, text=text, max_tiles=prompt.max_tiles if most is None else most)
