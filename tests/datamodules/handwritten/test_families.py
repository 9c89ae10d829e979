"""Answers of all families recomputed from what the pictures show.

The digits of these tests are drawn as codes of four squares that a program reads off the finished pictures.
"""

import re

import numpy as np
import pytest

from datamodules.handwritten.digits import DigitPool, draw_picture, split_digit_pools
from datamodules.handwritten.families import FAMILIES, FAMILY_OF_BENCHMARK, position_sum_variants, two_hop_group
from datamodules.handwritten.statements import write_statements
from datamodules.storage.files import read_jsonl
from datamodules.storage.images import open_image
from datamodules.supervision.rows import read_rows

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
    """Letter of the option that names the ones digit of a number."""
    (letter,) = [letter for letter, text in zip("ABCDE", options, strict=True) if str(result)[-1] in text.split(" or ")]
    return letter


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
    if family == "row_sums":
        assert question == "Write the sum of the top row and then the sum of the bottom row."
        return f"{a + b}{c + d}"
    if family == "digit_order":
        order = re.fullmatch(r"Write the digits (.*)\.", question)[1]
        grid = np.array([[a, b], [c, d]])
        written = {"backwards": grid[::-1, ::-1], "column by column": grid.T, "clockwise": np.array([a, b, d, c])}
        return "".join(map(str, written[order].ravel()))
    if family == "position_sum":
        places = re.fullmatch(r"Add the (.*) digit and the (.*) digit\.", question).groups()
        assert places[0] != places[1]
        return sum(values[0][POSITIONS.index(place)] for place in places)
    if family == "two_hop":
        which = re.fullmatch(r"What is the ones digit of the sum of (.*)\?", question)[1]
        sums = {"the top row": a + b, "the bottom row": c + d}
        sums["the ones digits of both row sums"] = sum(int(str(row)[-1]) for row in (a + b, c + d))
        return option_of(sums[which], options)
    if family == "letter_code":
        assert question == "A is 1, B is 2, and so on. Which letters are in the top row?"
        return ", ".join(sorted({chr(ord("A") + value - 1) for value in (a, b)}))
    assert family == "two_pictures"
    assert question in (
        ["What is the ones digit of the sum of <image> and <image>"]
        if options
        else ["Add the digits of <image> and <image>"]
    )
    total = sum(of_picture[0] for of_picture in values)
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
    assert len(texts["row_sums"]) == len(texts["letter_code"]) == 1
    assert len(texts["digit_order"]) == 3
    assert len(texts["position_sum"]) == 6
    assert len(texts["two_hop"]) == 3
    assert len(texts["two_pictures"]) == 2
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


def test_later_variants_show_digits_that_are_not_misread(pool):
    """Levels 1, 2 and 3 in turn: one variant fewer shows any digits, and the others only 2 and 5."""
    shown = {}
    for seed in range(1, 91):
        variants = position_sum_variants(seed, pool, np.random.default_rng(seed))
        assert {question.metadata["level"] for question in variants} == {(1, 2, 3)[(seed - 1) % 3]}
        for question in variants:
            digits = {int(step[-2]) for step in question.steps[:2]}
            shown.setdefault((question.metadata["level"], question.metadata["variant"]), set()).update(digits)
    for (level, variant), digits in shown.items():
        assert digits == (set(range(10)) if variant < level else {2, 5})


def test_later_variants_show_few_handwritten_digits(monkeypatch):
    pool = split_digit_pools({"test": 0.2})["test"]
    shown = []

    def noted(cells, generator):
        shown.append({cell.tobytes() for cell in cells if isinstance(cell, np.ndarray)})
        return draw_picture(cells, generator)

    monkeypatch.setattr("datamodules.handwritten.families.draw_picture", noted)
    position_sum_variants(1, pool, np.random.default_rng(0))
    assert len(shown) == 10
    assert len(set.union(*shown)) == 3


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


def places_of(row, folder):
    """Which digit is where, read off the pictures of a row or out of its description."""
    if "image" not in row:
        return {place.lower(): int(digit) for place, digit in re.findall(r"(\w+ \w+): (\d)\.", row["question"])}
    names = [row["image"]] if isinstance(row["image"], str) else row["image"]
    read = [[read_digit(cell) for cell in cells(open_image(folder / name, "test"))] for name in names]
    if len(read) == 2:
        return {"first picture": read[0][0], "second picture": read[1][0]}
    return dict(zip(POSITIONS, read[0], strict=True))


def test_statements_are_true_of_the_pictures_or_not(pool, tmp_path):
    write_statements(200, pool, tmp_path, np.random.default_rng(0))
    rows = [row for _, row in read_jsonl(tmp_path / "annotations.jsonl")]
    truths = []
    for row in rows:
        truth = places_of(row, tmp_path)
        for step in row["steps_with_score"]:
            truths.append(step["score"])
            if calculation := re.fullmatch(r"(\d+) ([-+*]) (\d+) = (\d+)\.", step["step"]):
                a, operator, b, claimed = calculation.groups()
                result = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operator]
                assert result >= 0
                assert step["score"] == (int(claimed) == result)
                continue
            place, claimed = re.fullmatch(r"(.*): (\d)\.", step["step"]).groups()
            assert step["score"] == (int(claimed) == truth[place.lower()])
    assert 0.3 < sum(truths) / len(truths) < 0.7
    assert {len(row["steps_with_score"]) for row in rows} == {2, 4}
    assert 60 < sum("image" not in row for row in rows) < 140
    assert 20 < sum(row["question"] == "Calculate." for row in rows) < 65
    assert 3 < sum(isinstance(row.get("image"), list) for row in rows) < 30
    assert len(read_rows([tmp_path / "annotations.jsonl"], cache_dir=tmp_path / "cache")) == 200


def test_neither_the_digit_shown_nor_the_digit_claimed_is_neutral(tmp_path):
    """The base model does not learn to compare them otherwise: each alone must tell something."""
    pool = DigitPool(np.zeros((10, 8, 8), np.float32), np.arange(10))
    write_statements(400, pool, tmp_path, np.random.default_rng(0))
    shown, claimed = {True: [], False: []}, {True: [], False: []}
    for _, row in read_jsonl(tmp_path / "annotations.jsonl"):
        if "image" in row or row["question"] == "Calculate.":
            continue
        truth = places_of(row, tmp_path)
        for step in row["steps_with_score"]:
            place, digit = re.fullmatch(r"(.*): (\d)\.", step["step"]).groups()
            shown[truth[place.lower()] < 5].append(step["score"])
            claimed[int(digit) < 5].append(step["score"])
    assert np.mean(shown[True]) > np.mean(shown[False]) + 0.15
    assert abs(np.mean(claimed[True]) - np.mean(claimed[False])) > 0.02
