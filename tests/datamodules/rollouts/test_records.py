import json

import pytest

from datamodules.rollouts.records import Rollout, read_rollouts, write_rollouts
from datamodules.storage.bad_rows import BadRows


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
    unknown = dict.fromkeys(("temperature", "top_p", "max_new_tokens", "seed"))
    rollouts = [
        rollout(
            rules="official",
            option_order=(2, 0, 1),
            verdict_digest="0123456789abcdef",
            extraction="B",
            prompt="<image>\nHow many?\nThink.",
            top_k=50,
        ),
        rollout(sample_index=1, extracted_answer=None, is_correct=False, response="", **unknown),
    ]
    write_rollouts(path, rollouts)
    found = read_rollouts(path)
    assert [{**vars(entry), "where": ""} for entry in found] == [{**vars(entry), "where": ""} for entry in rollouts]
    assert [entry.where for entry in found] == [f"{path}:1", f"{path}:2"]
    write_rollouts(tmp_path / "again.jsonl", found)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()
    assert set(json.loads(path.read_text().splitlines()[0])) == set(Rollout.__dataclass_fields__)
    assert "extraction" not in json.loads(path.read_text().splitlines()[1])  # as older readers expect
    assert len(read_rollouts(tmp_path)) == 4
    assert [(entry.rules, entry.option_order) for entry in found] == [("official", (2, 0, 1)), (None, None)]


def test_older_files_do_not_have_the_optional_fields(tmp_path, write_lines):
    optional = ("rules", "option_order", "verdict_digest", "extraction")
    row = {name: value for name, value in vars(rollout()).items() if name not in optional}
    (found,) = read_rollouts(write_lines(tmp_path / "r.jsonl", [row]))
    assert [getattr(found, name) for name in optional] == [None, None, None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmark": 1}, "field 'benchmark' must be a string, got 1"),
        ({"question_id": 17}, "field 'question_id' must be a string, got 17"),
        ({"sample_index": -1}, r"field 'sample_index' must be an integer in \[0, 99999\], got -1"),
        ({"sample_index": "0"}, r"field 'sample_index' must be an integer in \[0, 99999\], got '0'"),
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
def test_bad_rollouts_are_named(tmp_path, write_lines, caplog, change, message):
    good = rollout().__dict__
    path = write_lines(tmp_path / "r.jsonl", [good, {**good, **change}])
    with pytest.raises(ValueError, match=message) as error:
        read_rollouts(path, BadRows("error"))
    assert str(error.value).startswith(f"{path}:2: ")
    assert [entry.where for entry in read_rollouts(path)] == [f"{path}:1"]
    assert f"{path}: 1 rows cannot be used and are left out: {path}:2: field {next(iter(change))!r}" in caplog.text


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
