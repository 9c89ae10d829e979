import json
from dataclasses import replace

import pytest

from datamodules.rollouts import Rollout, group_by_question, read_rollouts, write_rollouts


def rollout(question_id="1", sample_index=0, **fields):
    values = {
        "benchmark": "MathVision",
        "question_id": question_id,
        "sample_index": sample_index,
        "response": "So \\boxed{2}.",
        "extracted_answer": "2",
        "is_correct": True,
        "policy": "tiny",
        "temperature": 0.7,
        "top_p": 1.0,
        "max_new_tokens": 64,
        "seed": 0,
    }
    return Rollout(**values | fields)


def test_rollouts_come_back(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    rollouts = [
        rollout(rules="official", option_order=(2, 0, 1)),
        rollout(sample_index=1, extracted_answer=None, is_correct=False, response=""),
    ]
    write_rollouts(path, rollouts)
    found = read_rollouts(path)
    assert [entry.where for entry in found] == [f"{path}:1", f"{path}:2"]
    write_rollouts(tmp_path / "again.jsonl", found)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()
    assert set(json.loads(path.read_text().splitlines()[0])) == set(Rollout.__dataclass_fields__)
    assert len(read_rollouts(tmp_path)) == 4
    assert [(entry.rules, entry.option_order) for entry in found] == [("official", (2, 0, 1)), (None, None)]


def test_older_files_do_not_have_the_optional_fields(tmp_path, write_lines):
    row = {name: value for name, value in vars(rollout()).items() if name not in ("rules", "option_order")}
    (found,) = read_rollouts(write_lines(tmp_path / "r.jsonl", [row]))
    assert (found.rules, found.option_order) == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmark": 1}, "field 'benchmark' must be a string, got 1"),
        ({"question_id": 17}, "field 'question_id' must be a string, got 17"),
        ({"sample_index": -1}, "field 'sample_index' must be an integer of at least 0, got -1"),
        ({"sample_index": "0"}, "field 'sample_index' must be an integer of at least 0, got '0'"),
        ({"response": None}, "field 'response' must be a string, got None"),
        ({"extracted_answer": 2}, "field 'extracted_answer' must be a string, got 2"),
        ({"is_correct": 1}, "field 'is_correct' must be true or false, got 1"),
        ({"temperature": float("nan")}, "field 'temperature' must be a finite number of at least 0, got nan"),
        ({"top_p": 1.5}, r"field 'top_p' must be a finite number in \[0, 1\], got 1.5"),
        ({"max_new_tokens": 0}, "field 'max_new_tokens' must be an integer of at least 1, got 0"),
        ({"seed": 0.5}, "field 'seed' must be an integer, got 0.5"),
        ({"option_order": [0, 2]}, r"field 'option_order' must be an order of the numbers 0 to 1, got \[0, 2\]"),
        ({"rules": 1}, "field 'rules' must be a string, got 1"),
    ],
)
def test_bad_rollouts_are_named(tmp_path, write_lines, change, message):
    good = rollout().__dict__
    path = write_lines(tmp_path / "r.jsonl", [good, {**good, **change}])
    with pytest.raises(ValueError, match=message) as error:
        read_rollouts(path)
    assert str(error.value).startswith(f"{path}:2: ")


def test_other_bad_files(tmp_path, write_lines):
    row = dict(rollout().__dict__)
    row.pop("is_correct")
    with pytest.raises(ValueError, match=r"r.jsonl:1: field 'is_correct' is missing"):
        read_rollouts(write_lines(tmp_path / "r.jsonl", [row]))
    with pytest.raises(ValueError, match=r"r.jsonl:1: not valid JSON"):
        read_rollouts(write_lines(tmp_path / "r.jsonl", ["{"]))
    with pytest.raises(ValueError, match="holds no rollouts"):
        read_rollouts(write_lines(tmp_path / "r.jsonl", []))
    with pytest.raises(FileNotFoundError, match=r"missing.jsonl"):
        read_rollouts(tmp_path / "missing.jsonl")


def test_grouping():
    rollouts = [rollout("b", 1), rollout("a", 0), rollout("b", 0), rollout("a", 1), rollout("a", 0, benchmark="MMMU")]
    groups = group_by_question(rollouts)
    assert list(groups) == [("MathVision", "b"), ("MathVision", "a"), ("MMMU", "a")]
    assert [entry.sample_index for entry in groups["MathVision", "b"]] == [0, 1]
    assert [len(group) for group in group_by_question(rollouts, 1).values()] == [1, 1, 1]


def test_repeated_and_missing_samples(tmp_path):
    rollouts = [rollout("a", 0), rollout("b", 0), rollout("a", 0, response="other")]
    write_rollouts(tmp_path / "r.jsonl", rollouts)
    with pytest.raises(ValueError, match="question 'a' of MathVision has two rollouts with index 0") as error:
        group_by_question(read_rollouts(tmp_path / "r.jsonl"))
    assert str(error.value).startswith(f"{tmp_path}/r.jsonl:3: field 'sample_index'")
    assert str(error.value).endswith("r.jsonl:1")
    rollouts[2] = replace(rollouts[2], sample_index=2)
    with pytest.raises(
        ValueError, match=r"question 'a' of MathVision has the rollouts \[0, 2\], but \[1\] are missing"
    ):
        group_by_question(rollouts)
    with pytest.raises(ValueError, match=r"question 'b' of MathVision has the rollouts \[0\], but \[1\] are missing"):
        group_by_question([rollout("b", 0)], 2)
    assert len(group_by_question(rollouts, 1)) == 2
