"""Statements about pictures, true and false: what the miniature base model is pretrained on.

A multimodal model that one downloads has learned to look at pictures and to tell a true caption from a false one. The
miniature base model starts from random weights, so it is taught that much first, on the digit images that the policy's
demonstrations use. The statements are about pictures alone; no policy's solution is among them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import atomic_write_jsonl
from datamodules.handwritten.digits import DigitPool, draw_picture
from datamodules.handwritten.families import FAMILIES, POSITIONS, draw_scene


def statement_row(
    row_id: str, image: str, question: str, values: tuple[int, int, int, int], generator: np.random.Generator
) -> dict[str, Any]:
    """A raw process row whose steps are statements about one picture, each false with probability one half.

    Args:
        row_id: Unique.
        image: Path of the picture.
        question: Stands before the statements and has nothing to do with their truth.
        values: The digits of the picture, in reading order.
        generator: Decides which statements are false, and how.
    """
    steps: list[dict[str, Any]] = []
    for position, value in zip(POSITIONS, values, strict=True):
        is_true = bool(generator.integers(2))
        claimed = value if is_true else int(value + generator.integers(1, 10)) % 10
        steps.append({"step": f"{position.capitalize()}: {claimed}.", "score": float(is_true)})
    return {
        "id": row_id,
        "source": "statements",
        "image": image,
        "question": question,
        "answer": "",
        "response": "\n\n".join(step["step"] for step in steps),
        "steps_with_score": steps,
    }


def write_statements(count: int, pool: DigitPool, folder: Path, generator: np.random.Generator) -> None:
    """Write ``annotations.jsonl`` (raw process rows) and ``images/``."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    # Questions about two pictures hold placeholders for them, those without a picture are about no digits.
    names = [name for name in FAMILIES if name not in ("two_pictures", "text_only")]
    rows = []
    for index in range(count):
        scene = draw_scene(pool, generator)
        name = f"images/statements-{index:05d}.png"
        draw_picture(scene.cells, generator).save(folder / name)
        question = FAMILIES[names[index % len(names)]]("", pool, generator).question
        rows.append(statement_row(f"statements-{index:05d}", name, question, scene.values, generator))
    atomic_write_jsonl(folder / "annotations.jsonl", rows)
