"""True and false statements about pictures, on which the miniature base model is pretrained.

A downloaded multimodal model can tell a true caption from a false one. The miniature base model starts from random
weights, so it learns this first, on the digit images of the policy's demonstrations. The statements hold no solution of
a policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.conversation.steps import STEP_SEPARATOR
from datamodules.handwritten.digits import OPERATORS, DigitPool, draw_picture
from datamodules.handwritten.families import FAMILIES, POSITIONS, draw_scene
from datamodules.storage.files import atomic_write_jsonl

ANNOTATIONS = "annotations.jsonl"
"""The rows of a split, beside the folder of their pictures."""

PICTURES = ("first picture", "second picture")

Statement = tuple[str, bool]
"""What is stated, and whether it is true."""


def readings(truth: Mapping[str, int], generator: np.random.Generator) -> list[Statement]:
    """One statement per digit, in the words of a solution's reading step; half of them are false.

    Statements about large digits are false more often, and false claims are small more often. If both were uniform,
    neither the shown nor the claimed digit alone would be informative, and gradient descent would take long to learn
    their comparison (functions without a staircase of simpler parts are learned late, Abbe et al. 2022, arXiv
    2202.08658).

    Args:
        truth: Digit by place in the picture.
        generator: Source of the random choice of false statements.
    """
    statements = []
    for place, value in truth.items():
        is_true = bool(generator.random() < (0.65 if value < 5 else 0.35))
        claimed = value if is_true else min(int(value + draw) % 10 for draw in generator.integers(1, 10, size=2))
        statements.append((f"{place.capitalize()}: {claimed}.", is_true))
    return statements


def calculations(count: int, generator: np.random.Generator) -> list[Statement]:
    """Statements such as ``7 + 6 = 13.`` in the words of a solution's steps; half of them are false, by up to five."""
    statements = []
    for _ in range(count):
        operator = OPERATORS[int(generator.integers(3))]
        a, b = int(generator.integers(19 if operator == "-" else 10)), int(generator.integers(10))
        if operator == "-":
            a, b = max(a, b), min(a, b)
        result = {"+": a + b, "-": a - b, "*": a * b}[operator]
        claimed = result
        is_true = bool(generator.integers(2))
        while claimed == result and not is_true:
            claimed = max(0, result + int(generator.integers(-5, 6)))
        statements.append((f"{a} {operator} {b} = {claimed}.", is_true))
    return statements


def statement_row(row_id: str, images: list[str], question: str, statements: list[Statement]) -> dict[str, Any]:
    """A raw process row whose steps are the statements, with score 1 or 0."""
    image = {"image": images[0] if len(images) == 1 else images} if images else {}
    return {
        "id": row_id,
        "source": "statements",
        **image,
        "question": question,
        "answer": "",
        "response": STEP_SEPARATOR.join(text for text, _ in statements),
        "steps_with_score": [{"step": text, "score": float(is_true)} for text, is_true in statements],
    }


def draw_subject(
    family: str, pool: DigitPool, generator: np.random.Generator
) -> tuple[dict[str, int], list[Image.Image]]:
    """Draw a subject of statements: digits by place, and the pictures that show them.

    A question of the family decides between one picture and two. Of one picture, all four digits are stated, or two of
    them.
    """
    if family == "two_pictures":
        drawn = [pool.draw(generator) for _ in PICTURES]
        truth = {place: value for place, (value, _) in zip(PICTURES, drawn, strict=True)}
        return truth, [draw_picture([pixels, None, None, None], generator) for _, pixels in drawn]
    scene = draw_scene(pool, generator)
    told = range(4) if generator.integers(2) else sorted(int(index) for index in generator.permutation(4)[:2])
    return {POSITIONS[index]: scene.values[index] for index in told}, [draw_picture(scene.cells, generator)]


def write_statements(count: int, pool: DigitPool, folder: Path, generator: np.random.Generator) -> None:
    """Write ``annotations.jsonl`` (raw process rows) and ``images/``.

    Half of the rows are about pictures, three in ten about a description in words instead of pictures, two in ten are
    arithmetic. Comparing words with words is learned first, and helps to learn comparing words with pictures; without
    descriptions this takes several times as long.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    # Rows of before must not be left with some of these pictures if this process is killed.
    (folder / ANNOTATIONS).unlink(missing_ok=True)
    families = [name for name in FAMILIES if name != "text_only"]
    rows = []
    for index in range(count):
        row_id, kind = f"statements-{index:05d}", int(generator.integers(10))
        if kind >= 8:
            rows.append(statement_row(row_id, [], "Calculate.", calculations(4, generator)))
            continue
        family = families[index % len(families)]
        truth, pictures = draw_subject(family, pool, generator)
        statements = readings(truth, generator)
        if kind >= 5:
            description = " ".join(f"{place.capitalize()}: {value}." for place, value in truth.items())
            rows.append(statement_row(row_id, [], description, statements))
            continue
        images = [f"images/{row_id}_{number}.png" for number in range(len(pictures))]
        for name, picture in zip(images, pictures, strict=True):
            picture.save(folder / name)
        question = FAMILIES[family]("", pool, generator).question_with_options
        rows.append(statement_row(row_id, images, question, statements))
    atomic_write_jsonl(folder / ANNOTATIONS, rows)
