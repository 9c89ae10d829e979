import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.handwritten.digits import split_digit_pools
from datamodules.handwritten.families import FAMILIES
from datamodules.handwritten.question import WorldQuestion, true_step_labels
from datamodules.handwritten.world import WorldSize, benchmark_questions, build_world, sample_questions
from datamodules.policy.prompt_rows import read_prompts

SOLUTION = ["Look at both pictures.", "First picture: 3.", "Second picture: 4.", "3 + 4 = 7.", "Answer: \\boxed{7}"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (SOLUTION, [0, 1, 1, 1, 1]),
        # One digit misread: what follows from it is wrong too.
        (
            ["Look at both pictures.", "First picture: 3.", "Second picture: 9.", "3 + 9 = 12.", "Answer: \\boxed{12}"],
            [0, 1, -1, -1, -1],
        ),
        # The truth is found again.
        (["Look at both pictures.", "First picture: 8.", *SOLUTION[2:]], [0, -1, 1, 1, 1]),
        # A step is left out: all later steps stand in the wrong place.
        (SOLUTION[1:], [-1, -1, -1, -1]),
        # Too long, too short, white space around a step.
        ([*SOLUTION, "Answer: \\boxed{7}"], [0, 1, 1, 1, 1, -1]),
        (["  Look at both pictures.\n"], [0]),
        ([""], [-1]),
        (["Look at both pictures"], [-1]),
        ([], []),
    ],
)
def test_labels_by_hand(steps, expected):
    assert true_step_labels(steps, SOLUTION, {0}) == expected
    question = WorldQuestion("q", "two_pictures", (), "Q", (), "7", tuple(SOLUTION), frozenset({0}))
    assert question.step_correctness(steps) == expected
    assert all(label != 0 for label in true_step_labels(steps, SOLUTION, frozenset()))


def test_options_follow_the_question():
    question = WorldQuestion("q", "f", (), "Where?", ("here", "there"), "B", ("a", "b"))
    assert question.question_with_options == "Where?\nA. here\nB. there"
    assert question.solution == "a\n\nb"
    assert WorldQuestion("q", "f", (), "Where?", (), "B", ("a",)).question_with_options == "Where?"


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_world_written_twice_is_the_same(tmp_path):
    size = WorldSize(statements=8, demonstrations=16, prompts=8, validation=8, benchmark_questions=10)
    for name, seed in (("first", 5), ("second", 5), ("other", 6)):
        build_world(tmp_path / name, size, seed)
    first, second, other = (files_of(tmp_path / name) for name in ("first", "second", "other"))
    assert first == second
    # Which statements have pictures depends on the seed.
    assert {name for name in first if "statements" not in name.parts} <= set(other)
    assert all(first[name] != other[name] for name in first if name in other)


def test_a_world_that_is_replaced_in_part_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    """No rows of before beside pictures of now."""
    size = WorldSize(statements=8, demonstrations=4, prompts=4, validation=4, benchmark_questions=10)
    build_world(tmp_path, size, seed=5)
    before = files_of(tmp_path)
    save = Image.Image.save

    def stopped_in_prompts(image, path):
        if path.parts[-3] == "prompts":
            raise KeyboardInterrupt
        save(image, path)

    monkeypatch.setattr(Image.Image, "save", stopped_in_prompts)
    with pytest.raises(KeyboardInterrupt):
        build_world(tmp_path, size, seed=6)
    left = files_of(tmp_path)
    assert {str(name) for name in before.keys() - left.keys()} == {"truth.jsonl", "prompts/annotations.jsonl"}
    assert left[Path("validation/annotations.jsonl")] == before[Path("validation/annotations.jsonl")]


def test_splits(tiny_world):
    names = list(FAMILIES)
    for split, count in (("demonstrations", 64), ("prompts", 16), ("validation", 8)):
        prompts = read_prompts(tiny_world / split / "annotations.jsonl")
        assert [prompt.prompt_id for prompt in prompts] == [f"{split}-{number:05d}" for number in range(count)]
        # All families in turn.
        assert [prompt.source for prompt in prompts] == [names[number % 8] for number in range(count)]
        for prompt in prompts:
            expected = {"text_only": 0, "two_pictures": 2}.get(prompt.source, 1)
            assert len(prompt.load_images()) == expected
            if split == "demonstrations":
                assert prompt.grade(prompt.response).is_correct
            else:
                assert prompt.response is None
                assert prompt.grade(f"\\boxed{{{prompt.answer}}}").is_correct


def test_demonstrations_misread_digits_that_look_alike(tmp_path):
    """With probability 0 and 1: the same pictures, and answers in which 9 is 4, 8 is 3, 7 is 1, 6 is 0 and 5 is 3."""
    answers, pictures = [], []
    for share in (0.0, 1.0):
        folder = tmp_path / str(share)
        build_world(folder, WorldSize(8, 2, 8, 8, 10, misreadings=share), seed=4)
        _, order = read_prompts(folder / "demonstrations" / "annotations.jsonl")
        assert order.source == "digit_order"
        answers.append(order.answer)
        pictures.append([image.tobytes() for image in order.load_images()])
    assert pictures[0] == pictures[1]
    assert answers[0] != answers[1] == answers[0].translate(str.maketrans("98765", "43103"))


def test_truth(tiny_world):
    rows = [json.loads(line) for line in (tiny_world / "truth.jsonl").read_text().splitlines()]
    pools = split_digit_pools(WorldSize().digit_shares, 0)
    for name in {row["benchmark"] for row in rows}:
        questions = benchmark_questions(name, 10, pools["test"], 0)
        expected = [(q.question_id, list(q.steps), sorted(q.neutral_steps)) for q in questions]
        found = [(r["question_id"], r["steps"], r["neutral_steps"]) for r in rows if r["benchmark"] == name]
        assert found == expected


def test_benchmarks_hold_whole_groups():
    pool = split_digit_pools({"test": 0.2})["test"]
    counts = {name: len(benchmark_questions(name, 25, pool, 0)) for name in ("DynaMath", "WeMath", "MathVista")}
    assert counts == {"DynaMath": 20, "WeMath": 24, "MathVista": 25}


def test_a_longer_split_begins_as_a_shorter_one():
    pool = split_digit_pools({"test": 0.2})["test"]
    short, long = (sample_questions(count, pool, np.random.default_rng(0), "q") for count in (9, 20))
    assert [question.solution for question in long[:9]] == [question.solution for question in short]


def test_every_benchmark_has_questions():
    """A table without rows ends the command that reads it."""
    pool = split_digit_pools(WorldSize().digit_shares, 0)["test"]
    for name, count in (("DynaMath", 10), ("WeMath", 3), ("MathVision", 1)):
        assert len(benchmark_questions(name, 1, pool, 0)) == count
    with pytest.raises(ValueError, match="benchmark_questions must be at least 1, got 0"):
        WorldSize(benchmark_questions=0)
