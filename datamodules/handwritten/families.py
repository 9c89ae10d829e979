"""The question families of the miniature world; each makes questions with one step-by-step solution.

A family that belongs to a benchmark carries that benchmark's name in :data:`FAMILY_OF_BENCHMARK`. To add one, write a
function of the same signature and enter it in :data:`FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datamodules.handwritten.digits import OPERATORS, DigitPool, draw_picture
from datamodules.handwritten.question import OPTION_LETTERS, WorldQuestion

POSITIONS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Scene:
    """One picture of four digits: their values, in reading order, and the picture itself."""

    values: tuple[int, int, int, int]
    cells: list[np.ndarray | str | None]

    @property
    def reading_steps(self) -> list[str]:
        """Four steps, one a digit."""
        return [f"{name.capitalize()}: {value}." for name, value in zip(POSITIONS, self.values, strict=True)]


def draw_scene(pool: DigitPool, generator: np.random.Generator) -> Scene:
    """Four digits at random."""
    drawn = [pool.draw(generator) for _ in range(4)]
    a, b, c, d = (value for value, _ in drawn)
    return Scene((a, b, c, d), [pixels for _, pixels in drawn])


def _boxed(answer: object) -> str:
    return f"Answer: \\boxed{{{answer}}}"


def _range_options(value: int, bounds: tuple[int, int, int]) -> tuple[tuple[str, ...], str]:
    """Four ranges of numbers that the bounds separate, and the letter of the one that holds ``value``."""
    low, middle, high = bounds
    options = (f"below {low}", f"{low} to {middle - 1}", f"{middle} to {high - 1}", f"{high} or more")
    return options, OPTION_LETTERS[sum(value >= bound for bound in bounds)]


def grid_arithmetic(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """A number computed from all four digits: their sum, or the difference of the row sums."""
    scene = draw_scene(pool, generator)
    a, b, c, d = scene.values
    top, bottom = a + b, c + d
    kind = generator.integers(2)
    if kind == 0:
        question, result = "Add the sums of the two rows. <image>", top + bottom
        last = f"{top} + {bottom} = {result}."
    else:
        question, result = "How far apart are the sums of the two rows? <image>", abs(top - bottom)
        last = f"{max(top, bottom)} - {min(top, bottom)} = {result}."
    steps = [*scene.reading_steps, f"{a} + {b} = {top} and {c} + {d} = {bottom}, so {last}"]
    return WorldQuestion(
        question_id,
        "grid_arithmetic",
        (draw_picture(scene.cells, generator),),
        question,
        (),
        str(result),
        (*steps, _boxed(result)),
        metadata={"subject": "arithmetic", "level": 3 + int(kind)},
    )


def counting(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """How many of the four digits have a property."""
    scene = draw_scene(pool, generator)
    limit = int(generator.integers(3, 7))
    name, has_property = [
        (f"greater than {limit}", lambda value: value > limit),
        (f"less than {limit}", lambda value: value < limit),
        ("even", lambda value: value % 2 == 0),
        ("odd", lambda value: value % 2 == 1),
    ][int(generator.integers(4))]
    chosen = [value for value in scene.values if has_property(value)]
    listed = ", ".join(map(str, chosen)) if chosen else "none"
    steps = [*scene.reading_steps, f"{name.capitalize()}: {listed}.", _boxed(len(chosen))]
    return WorldQuestion(
        question_id,
        "counting",
        (draw_picture(scene.cells, generator),),
        f"How many of the digits are {name}? <image>",
        (),
        str(len(chosen)),
        tuple(steps),
        metadata={"subject": "counting"},
    )


def vision_only(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """The whole question is in the picture: two digits, and below them the operator sign."""
    (a, first), (b, second) = pool.draw(generator), pool.draw(generator)
    operator = OPERATORS[int(generator.integers(3))]
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
    steps = (*scene.reading_steps, f"{a} + {b} = {a + b}.", _boxed(a + b))
    return WorldQuestion(
        question_id,
        "position_sum",
        (draw_picture(scene.cells, generator),),
        f"Add the {POSITIONS[first]} digit and the {POSITIONS[second]} digit. <image>",
        (),
        str(a + b),
        steps,
        metadata={"subject": "arithmetic", "level": 1, **metadata},
    )


def position_sum_variants(
    seed_id: int, pool: DigitPool, generator: np.random.Generator, variants: int = 10
) -> list[WorldQuestion]:
    """One question asked of ``variants`` pictures, as DynaMath does; metadata holds ``seed`` and ``variant``."""
    first, second = sorted(int(index) for index in generator.permutation(4)[:2])
    return [
        _position_sum(
            f"{seed_id}-{variant}",
            draw_scene(pool, generator),
            first,
            second,
            generator,
            {"seed": seed_id, "variant": variant},
        )
        for variant in range(1, variants + 1)
    ]


def two_hop_group(group_id: int, pool: DigitPool, generator: np.random.Generator) -> list[WorldQuestion]:
    """Two one-step questions and the two-step question they lead to, about one picture, as We-Math groups them."""
    scene = draw_scene(pool, generator)
    a, b, c, d = scene.values
    top, bottom = a + b, c + d
    picture = draw_picture(scene.cells, generator)
    reads = scene.reading_steps
    add_top, add_bottom = f"{a} + {b} = {top}.", f"{c} + {d} = {bottom}."
    add_both = f"{a} + {b} = {top} and {c} + {d} = {bottom}, so {top} + {bottom} = {top + bottom}."
    parts = [
        ("2steps_1", "What is the sum of the top row? <image>", top, (6, 9, 12), [*reads, add_top]),
        ("2steps_2", "What is the sum of the bottom row? <image>", bottom, (6, 9, 12), [*reads, add_bottom]),
        ("2steps_multi", "What is the sum of both rows? <image>", top + bottom, (14, 18, 22), [*reads, add_both]),
    ]
    questions = []
    for number, (key, question, result, bounds, steps) in enumerate(parts, start=1):
        options, letter = _range_options(result, bounds)
        questions.append(
            WorldQuestion(
                f"{group_id}-{number}",
                "two_hop",
                (picture,),
                question,
                options,
                letter,
                (*steps, _boxed(letter)),
                metadata={"group": group_id, "key": key, "number": number, "subject": "row sums"},
            )
        )
    return questions


def two_hop(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """One question of a two-hop group."""
    chosen = two_hop_group(0, pool, generator)[int(generator.integers(3))]
    return WorldQuestion(**{**vars(chosen), "question_id": question_id})


def largest(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """Where the largest (or smallest) digit is; scenes with ties are drawn again."""
    kind, extreme = (("largest", max), ("smallest", min))[int(generator.integers(2))]
    while True:
        scene = draw_scene(pool, generator)
        value = extreme(scene.values)
        if scene.values.count(value) == 1:
            break
    position = scene.values.index(value)
    letter = OPTION_LETTERS[position]
    steps = (*scene.reading_steps, f"{kind.capitalize()}: {value}, {POSITIONS[position]}.", _boxed(letter))
    return WorldQuestion(
        question_id,
        "largest",
        (draw_picture(scene.cells, generator),),
        f"Where is the {kind} digit? <image>",
        POSITIONS,
        letter,
        steps,
        metadata={"subject": "comparison"},
    )


def two_pictures(question_id: str, pool: DigitPool, generator: np.random.Generator) -> WorldQuestion:
    """The sum of a digit of the first picture and a digit of the second; half of the questions are open."""
    scenes = [draw_scene(pool, generator), draw_scene(pool, generator)]
    position = int(generator.integers(4))
    a, b = scenes[0].values[position], scenes[1].values[position]
    is_open = bool(generator.integers(2))
    options, letter = ((), str(a + b)) if is_open else _range_options(a + b, (6, 9, 12))
    steps = (
        "Look at both pictures.",
        f"First picture: {a}.",
        f"Second picture: {b}.",
        f"{a} + {b} = {a + b}.",
        _boxed(letter),
    )
    return WorldQuestion(
        question_id,
        "two_pictures",
        tuple(draw_picture(scene.cells, generator) for scene in scenes),
        f"Add the {POSITIONS[position]} digits of <image> and <image>",
        options,
        letter,
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
    "grid_arithmetic": grid_arithmetic,
    "counting": counting,
    "vision_only": vision_only,
    "position_sum": position_sum,
    "two_hop": two_hop,
    "largest": largest,
    "two_pictures": two_pictures,
    "text_only": text_only,
}

FAMILY_OF_BENCHMARK: dict[str, str] = {
    "MMMU": "two_pictures",
    "MathVista": "counting",
    "MathVision": "grid_arithmetic",
    "MathVerse-VO": "vision_only",
    "DynaMath": "position_sum",
    "WeMath": "two_hop",
    "LogicVista": "largest",
}
