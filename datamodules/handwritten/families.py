"""Question families of the miniature world; each generates questions with one step-by-step solution.

:data:`FAMILY_OF_BENCHMARK` names the family of each benchmark. To add one, write a function of the same signature and
add it to :data:`FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datamodules.handwritten.digits import OPERATORS, DigitPool, draw_picture, without_look_alikes
from datamodules.handwritten.question import OPTION_LETTERS, WorldQuestion

CODE_LETTERS = "ABCDEFGHI"
POSITIONS = ("top left", "top right", "bottom left", "bottom right")
DYNAMATH_VARIANTS = 10
"""Variants of a question of DynaMath, as in the release."""
PLAIN_DIGITS = 3
"""Handwritten digits that most variants of a question of DynaMath show."""


@dataclass(frozen=True)
class Scene:
    """One picture of four digits: their values, in reading order, and the picture itself."""

    values: tuple[int, int, int, int]
    cells: list[np.ndarray | str | None]

    @property
    def reading_steps(self) -> list[str]:
        """Four steps, one per digit."""
        return [f"{name.capitalize()}: {value}." for name, value in zip(POSITIONS, self.values, strict=True)]


def draw_scene(pool: DigitPool, generator: np.random.Generator) -> Scene:
    """Four digits at random."""
    drawn = [pool.draw(generator) for _ in range(4)]
    a, b, c, d = (value for value, _ in drawn)
    return Scene((a, b, c, d), [pixels for _, pixels in drawn])


def _boxed(answer: object) -> str:
    return f"Answer: \\boxed{{{answer}}}"


ONES_DIGITS = ("0 or 1", "2 or 3", "4 or 5", "6 or 7", "8 or 9")
"""Options of the multiple-choice questions. A sum that is off by a little is in another one of them, most of the time;
among ranges of numbers it would often be in the right one, and a wrong solution would look right."""


def _ones_digit_letter(result: int) -> str:
    return OPTION_LETTERS[result % 10 // 2]


def digit_order(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """The four digits written in another order than they are read."""
    scene = draw_scene(pool, generator)
    a, b, c, d = scene.values
    question, ordered = [
        ("Write the digits backwards. <image>", (d, c, b, a)),
        ("Write the digits column by column. <image>", (a, c, b, d)),
        ("Write the digits clockwise. <image>", (a, b, d, c)),
    ][int(generator.integers(3))]
    answer = "".join(map(str, ordered))
    return WorldQuestion(
        question_id,
        "digit_order",
        (draw_picture(scene.cells, generator),),
        question,
        (),
        answer,
        (*scene.reading_steps, _boxed(answer)),
        metadata={"subject": "order"},
    )


def row_sums(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """The sums of the two rows, one after the other; the answer depends on all four digits."""
    scene = draw_scene(pool, generator)
    top, bottom, step = _add_rows(scene)
    answer = f"{top}{bottom}"
    return WorldQuestion(
        question_id,
        "row_sums",
        (draw_picture(scene.cells, generator),),
        "Write the sum of the top row and then the sum of the bottom row. <image>",
        (),
        answer,
        (*scene.reading_steps, step, _boxed(answer)),
        metadata={"subject": "arithmetic", "level": 3},
    )


def _add_rows(scene: Scene) -> tuple[int, int, str]:
    """Sums of the top and of the bottom row, and the step that computes them."""
    a, b, c, d = scene.values
    return a + b, c + d, f"{a} + {b} = {a + b} and {c} + {d} = {c + d}."


def vision_only(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """The whole question is in the picture: two digits, and below them the operator sign."""
    (a, first), (b, second) = pool.draw(generator), pool.draw(generator)
    operator = OPERATORS[int(generator.integers(3))]
    if operator == "*" and 0 in (a, b):
        operator = "+"  # A product with zero does not depend on the other digit.
    if operator == "-" and a < b:
        (a, first), (b, second) = (b, second), (a, first)
    result = {"+": a + b, "-": a - b, "*": a * b}[operator]
    steps = (f"Top left: {a}.", f"Top right: {b}.", f"{a} {operator} {b} = {result}.", _boxed(result))
    return WorldQuestion(
        question_id,
        "vision_only",
        (draw_picture([first, second, operator, None], generator),),
        "Answer the question shown in the picture. <image>",
        (),
        str(result),
        steps,
        metadata={"subject": "expressions"},
    )


def position_sum(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """The sum of two digits named by their positions."""
    scene = draw_scene(pool, generator)
    first, second = sorted(int(index) for index in generator.permutation(4)[:2])
    return _position_sum(question_id, scene, first, second, generator, {})


def _position_sum(
    question_id: str,
    scene: Scene,
    first: int,
    second: int,
    generator: np.random.Generator,
    metadata: dict[str, object],
) -> WorldQuestion:
    a, b = scene.values[first], scene.values[second]
    reads = scene.reading_steps
    return WorldQuestion(
        question_id,
        "position_sum",
        (draw_picture(scene.cells, generator),),
        f"Add the {POSITIONS[first]} digit and the {POSITIONS[second]} digit. <image>",
        (),
        str(a + b),
        (reads[first], reads[second], f"{a} + {b} = {a + b}.", _boxed(a + b)),
        metadata={"subject": "arithmetic", "level": 1, **metadata},
    )


def position_sum_variants(
    seed_id: int, pool: DigitPool, generator: np.random.Generator, variants: int = DYNAMATH_VARIANTS
) -> list[WorldQuestion]:
    """One question asked of ``variants`` pictures, as DynaMath does; metadata holds seed, variant and level.

    The level of a seed is 1, 2 or 3: of its variants none, the first, or the first two may show any digit. The others
    show :data:`PLAIN_DIGITS` handwritten digits of the seed, in changing places and turned otherwise, which are neither
    misread nor what others are taken for. With new digits in each of ten variants nobody is right in all of them.
    """
    first, second = sorted(int(index) for index in generator.permutation(4)[:2])
    level = 1 + (seed_id - 1) % 3
    plain = without_look_alikes(pool)
    few = generator.permutation(len(plain.labels))[:PLAIN_DIGITS]
    plain = DigitPool(plain.images[few], plain.labels[few])
    return [
        _position_sum(
            f"{seed_id}-{variant}",
            draw_scene(pool if variant < level else plain, generator),
            first,
            second,
            generator,
            {"seed": seed_id, "variant": variant, "level": level},
        )
        for variant in range(1, variants + 1)
    ]


def two_hop_group(group_id: int, pool: DigitPool, generator: np.random.Generator) -> list[WorldQuestion]:
    """Two one-step questions and the two-step question they lead to, about one picture, as We-Math groups them."""
    scene = draw_scene(pool, generator)
    a, b, c, d = scene.values
    top, bottom, add_rows = _add_rows(scene)
    left, right = top % 10, bottom % 10
    picture = draw_picture(scene.cells, generator)
    reads = scene.reading_steps
    add_both = f"{add_rows[:-1]}, so {left} + {right} = {left + right}."
    parts = [
        ("2steps_1", "the sum of the top row", top, [*reads[:2], f"{a} + {b} = {top}."]),
        ("2steps_2", "the sum of the bottom row", bottom, [*reads[2:], f"{c} + {d} = {bottom}."]),
        ("2steps_multi", "the sum of the ones digits of both row sums", left + right, [*reads, add_both]),
    ]
    return [
        WorldQuestion(
            f"{group_id}-{number}",
            "two_hop",
            (picture,),
            f"What is the ones digit of {asked}? <image>",
            ONES_DIGITS,
            _ones_digit_letter(result),
            (*steps, _boxed(_ones_digit_letter(result))),
            metadata={"group": group_id, "key": key, "number": number, "subject": "row sums"},
        )
        for number, (key, asked, result, steps) in enumerate(parts, start=1)
    ]


def two_hop(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """One question of a two-hop group."""
    chosen = two_hop_group(0, pool, generator)[int(generator.integers(3))]
    return WorldQuestion(**{**vars(chosen), "question_id": question_id})


def letter_code(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """The digits of the top row in a code: A for 1, B for 2, up to I for 9; the answer is a set of letters."""
    scene = draw_scene(pool, generator)
    while 0 in scene.values[:2]:
        scene = draw_scene(pool, generator)
    first, second = (CODE_LETTERS[value - 1] for value in scene.values[:2])
    answer = ", ".join(sorted({first, second}))
    return WorldQuestion(
        question_id,
        "letter_code",
        (draw_picture(scene.cells, generator),),
        "A is 1, B is 2, and so on. Which letters are in the top row? <image>",
        (),
        answer,
        (*scene.reading_steps[:2], f"Letters: {first} and {second}.", _boxed(answer)),
        metadata={"subject": "code"},
    )


def two_pictures(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """The sum of the digits of two pictures; half of the questions are open."""
    (a, first), (b, second) = pool.draw(generator), pool.draw(generator)
    is_open = bool(generator.integers(2))
    question, options, answer = (
        ("Add the digits of <image> and <image>", (), str(a + b))
        if is_open
        else ("What is the ones digit of the sum of <image> and <image>", ONES_DIGITS, _ones_digit_letter(a + b))
    )
    steps = (
        "Look at both pictures.",
        f"First picture: {a}.",
        f"Second picture: {b}.",
        f"{a} + {b} = {a + b}.",
        _boxed(answer),
    )
    return WorldQuestion(
        question_id,
        "two_pictures",
        tuple(draw_picture([pixels, None, None, None], generator) for pixels in (first, second)),
        question,
        options,
        answer,
        steps,
        neutral_steps=frozenset({0}),
        metadata={"subject": "two pictures"},
    )


def text_only(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """Arithmetic without a picture."""
    del pool
    a, b, c = (int(value) for value in generator.integers(1, 10, size=3))
    c = min(c, a + b)
    steps = (f"{a} + {b} = {a + b}.", f"{a + b} - {c} = {a + b - c}.", _boxed(a + b - c))
    return WorldQuestion(
        question_id,
        "text_only",
        (),
        f"Start with {a}, add {b}, then take away {c}.",
        (),
        str(a + b - c),
        steps,
        metadata={"subject": "arithmetic"},
    )


Family = Callable[[str, DigitPool, np.random.Generator], WorldQuestion]

FAMILIES: dict[str, Family] = {
    "row_sums": row_sums,
    "digit_order": digit_order,
    "vision_only": vision_only,
    "position_sum": position_sum,
    "two_hop": two_hop,
    "letter_code": letter_code,
    "two_pictures": two_pictures,
    "text_only": text_only,
}

FAMILY_OF_BENCHMARK: dict[str, str] = {
    "MMMU": "two_pictures",
    "MathVista": "digit_order",
    "MathVision": "row_sums",
    "MathVerse-VO": "vision_only",
    "DynaMath": "position_sum",
    "WeMath": "two_hop",
    "LogicVista": "letter_code",
}
