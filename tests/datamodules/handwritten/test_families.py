"""Answers of all families recomputed from what the pictures show.

The digits of these tests are drawn as codes of four squares that a program reads off the finished pictures.
"""

import re

import numpy as np
import pytest

from datamodules.files import read_jsonl
from datamodules.handwritten.digits import DigitPool
from datamodules.handwritten.families import FAMILIES, FAMILY_OF_BENCHMARK, position_sum_variants, two_hop_group
from datamodules.handwritten.statements import write_statements
from datamodules.images import open_image
from datamodules.process.rows import read_rows

POSITIONS = ["top left", "top right", "bottom left", "bottom right"]
# Centres (row, column) of the four squares of a digit in its cell of 16 x 16 pixels: bits 8, 4, 2 and 1.
SQUARES = [(4, 4), (4, 12), (12, 4), (12, 12)]


@pytest.fixture(scope="module")
def pool():
    images = []
    for digit in range(10):
        bits = [float(bit) for bit in f"{digit:04b}"]
        images.append(np.kron(np.array(bits).reshape(2, 2), np.ones((4, 4))))
    return DigitPool(np.array(images, dtype=np.float32), np.arange(10))


def cells(image):
    pixels = np.asarray(image)[..., 0] / 255
    return [pixels[row : row + 16, column : column + 16] for row in (0, 16) for column in (0, 16)]


def read_digit(cell):
    bits = [cell[row - 2 : row + 2, column - 2 : column + 2].mean() > 0.5 for row, column in SQUARES]
    return sum(bit * weight for bit, weight in zip(bits, (8, 4, 2, 1), strict=True))


def read_operator(cell):
    """Strokes towards the corners make a times, towards top and bottom a plus, to the sides alone a minus."""
    is_ink, is_outer = cell > 0.65, np.abs(np.arange(16) - 7.5) >= 3
    if is_ink[np.ix_(is_outer, is_outer)].sum() >= 2:
        return "*"
    return "+" if is_ink[np.ix_(is_outer, ~is_outer)].sum() >= 3 else "-"


def option_of(result, options):
    """Letter of the range that holds a number."""
    letters = []
    for letter, text in zip("ABCD", options, strict=True):
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        if text.startswith("below"):
            holds = result < numbers[0]
        elif text.endswith("or more"):
            holds = result >= numbers[0]
        else:
            holds = numbers[0] <= result <= numbers[1]
        letters += [letter] if holds else []
    assert len(letters) == 1, f"{result} is in {len(letters)} of the ranges {options}"
    return letters[0]


def counting_answer(question, values):
    name = re.fullmatch(r"How many of the digits are (.*)\?", question)[1]
    if name in ("even", "odd"):
        return sum(value % 2 == (name == "odd") for value in values)
    direction, limit = re.fullmatch(r"(greater|less) than (\d)", name).groups()
    return sum(value > int(limit) if direction == "greater" else value < int(limit) for value in values)


def answer_of(family, question, options, pictures):
    """The answer to a question text about pictures, independent of how the family makes its questions."""
    if family == "text_only":
        a, b, c = map(int, re.fullmatch(r"Start with (\d), add (\d), then take away (\d+)\.", question).groups())
        return a + b - c
    if family == "vision_only":
        assert question == "Answer the question shown in the picture."
        a, b = read_digit(pictures[0][0]), read_digit(pictures[0][1])
        return {"+": a + b, "-": a - b, "*": a * b}[read_operator(pictures[0][2])]
    values = [[read_digit(cell) for cell in picture] for picture in pictures]
    a, b, c, d = values[0]
    if family == "grid_arithmetic":
        totals = {"Add the sums of the two rows.": a + b + c + d}
        totals["How far apart are the sums of the two rows?"] = abs(a + b - c - d)
        return totals[question]
    if family == "counting":
        return counting_answer(question, values[0])
    if family == "position_sum":
        places = re.fullmatch(r"Add the (.*) digit and the (.*) digit\.", question).groups()
        assert places[0] != places[1]
        return sum(values[0][POSITIONS.index(place)] for place in places)
    if family == "two_hop":
        which = re.fullmatch(r"What is the sum of (.*)\?", question)[1]
        return option_of({"the top row": a + b, "the bottom row": c + d, "both rows": a + b + c + d}[which], options)
    if family == "largest":
        extreme = {"Where is the largest digit?": max, "Where is the smallest digit?": min}[question](values[0])
        assert values[0].count(extreme) == 1
        assert list(options) == POSITIONS
        return "ABCD"[values[0].index(extreme)]
    assert family == "two_pictures"
    place = re.fullmatch(r"Add the (.*) digits of <image> and <image>", question)[1]
    total = sum(of_picture[POSITIONS.index(place)] for of_picture in values)
    return option_of(total, options) if options else total


def check(question):
    """Answer, reading steps, sums of the steps and the boxed answer of one question."""
    pictures = [cells(image) for image in question.images]
    text = question.question.removesuffix(" <image>") if len(pictures) == 1 else question.question
    assert question.answer == str(answer_of(question.family, text, question.options, pictures))
    assert question.steps[-1] == f"Answer: \\boxed{{{question.answer}}}"
    assert question.solution == "\n\n".join(question.steps)
    for step in question.steps:
        assert step.strip() == step
        assert "\n" not in step
        for a, operator, b, result in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", step):
            a, b = int(a), int(b)
            assert int(result) == {"+": a + b, "-": a - b, "*": a * b}[operator], step
        read = re.fullmatch(r"(Top left|Top right|Bottom left|Bottom right): (\d)\.", step)
        if read:
            assert int(read[2]) == read_digit(pictures[0][POSITIONS.index(read[1].lower())]), step
    assert question.neutral_steps == (frozenset({0}) if question.family == "two_pictures" else frozenset())
    assert len(question.images) == {"text_only": 0, "two_pictures": 2}.get(question.family, 1)
    assert all(image.size == (32, 32) and image.mode == "RGB" for image in question.images)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_answers_are_true_of_the_pictures(pool, family):
    generator = np.random.default_rng(0)
    questions = [FAMILIES[family](str(number), pool, generator) for number in range(40)]
    assert [question.question_id for question in questions] == [str(number) for number in range(40)]
    assert {question.family for question in questions} == {family}
    for question in questions:
        check(question)
    assert len({question.answer for question in questions}) >= 4


def test_every_kind_of_question_occurs(pool):
    generator = np.random.default_rng(1)
    texts = {name: {make("q", pool, generator).question for _ in range(400)} for name, make in FAMILIES.items()}
    assert len(texts["grid_arithmetic"]) == len(texts["largest"]) == 2
    assert len(texts["counting"]) == 2 * 4 + 2
    assert len(texts["position_sum"]) == 6
    assert len(texts["two_hop"]) == 3
    assert len(texts["two_pictures"]) == 4
    operators = {read_operator(cells(FAMILIES["vision_only"]("q", pool, generator).images[0])[2]) for _ in range(40)}
    assert operators == {"+", "-", "*"}
    opened = [FAMILIES["two_pictures"]("q", pool, generator).options == () for _ in range(60)]
    assert 15 < sum(opened) < 45


def test_variants_ask_one_question_of_ten_pictures(pool):
    variants = position_sum_variants(3, pool, np.random.default_rng(0))
    assert [question.question_id for question in variants] == [f"3-{number}" for number in range(1, 11)]
    assert [question.metadata["variant"] for question in variants] == list(range(1, 11))
    assert {question.metadata["seed"] for question in variants} == {3}
    assert len({question.question for question in variants}) == 1
    assert len({np.asarray(question.images[0]).tobytes() for question in variants}) == 10
    for question in variants:
        check(question)


def test_a_group_is_about_one_picture(pool):
    for group in range(20):
        first, second, both = questions = two_hop_group(group, pool, np.random.default_rng(group))
        assert [question.metadata["key"] for question in questions] == ["2steps_1", "2steps_2", "2steps_multi"]
        assert {question.metadata["group"] for question in questions} == {group}
        assert first.images == second.images == both.images
        for question in questions:
            check(question)


def test_every_benchmark_has_a_family():
    assert set(FAMILY_OF_BENCHMARK.values()) <= set(FAMILIES)
    assert len(FAMILY_OF_BENCHMARK) == 7


def test_statements_are_true_of_the_pictures_or_not(pool, tmp_path):
    write_statements(60, pool, tmp_path, np.random.default_rng(0))
    truths = []
    for _, row in read_jsonl(tmp_path / "annotations.jsonl"):
        values = [read_digit(cell) for cell in cells(open_image(tmp_path / row["image"], "test"))]
        for step in row["steps_with_score"]:
            place, claimed = re.fullmatch(r"(.*): (\d)\.", step["step"]).groups()
            assert step["score"] == (int(claimed) == values[POSITIONS.index(place.lower())])
            truths.append(step["score"])
    assert 0.3 < sum(truths) / len(truths) < 0.7
    assert len(read_rows([tmp_path / "annotations.jsonl"], cache_dir=tmp_path / "cache")) == 60
