import json

import pytest

from lightning_modules.monte_carlo.given import GivenSolutions


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def test_solutions_of_prompts(tmp_path):
    rows = [{"id": f"a/b/{n}", "response": f"é {n}\n\nend"} for n in range(3)] + [{"id": "c/0", "response": ""}]
    given = GivenSolutions(write(tmp_path / "rows.jsonl", rows))
    assert given.of(["c", "a/b", "d"]) == {"c": [""], "a/b": [f"é {n}\n\nend" for n in range(3)], "d": []}
    assert given.digest != GivenSolutions(write(tmp_path / "other.jsonl", rows[:3])).digest


def test_rollouts_as_they_are(tmp_path):
    rows = [{"benchmark": "MMMU", "question_id": "q/1", "sample_index": n, "response": f"{n}"} for n in range(2)]
    given = GivenSolutions(write(tmp_path / "rollouts.jsonl", rows))
    assert given.of(["MMMU/q/1"]) == {"MMMU/q/1": ["0", "1"]}
    with pytest.raises(ValueError, match="which is 0 here"):
        GivenSolutions(write(tmp_path / "turned.jsonl", rows[::-1]))


def test_rollouts_of_prompts_that_are_no_benchmark(tmp_path):
    """Their ids do not begin with the name of the source, as it stands in the column of the benchmark."""
    names = [("prompts", "q"), ("prompts", "q/1"), ("GEO", "7"), ("other", "7")]
    rows = [
        {"benchmark": source, "question_id": name, "sample_index": n, "response": f"{source} {name} {n}"}
        for source, name in names
        for n in range(2)
    ]
    given = GivenSolutions(write(tmp_path / "rollouts.jsonl", rows))
    found = given.of(["q/1", "q", "GEO/7", "7"])
    assert found == {"q/1": ["prompts q/1 0", "prompts q/1 1"], "q": ["prompts q 0", "prompts q 1"]} | {
        "GEO/7": ["GEO 7 0", "GEO 7 1"],
        "7": [],  # of which source?
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a/1", "response": "x"}], r"rows.jsonl:1: field 'id' is 'a/1'; .* which is 0 here"),
        ([{"id": "a/0", "response": "x"}, {"id": "a/0", "response": "x"}], r":2: field 'id' is 'a/0'; .* is 1 here"),
        ([{"id": "0", "response": "x"}], ":1: field 'id' is '0'"),
        ([{"response": "x"}], ":1: field 'id' is missing"),
    ],
)
def test_rows_of_another_form(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        GivenSolutions(write(tmp_path / "rows.jsonl", rows))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"solutions_from: .*none\.jsonl is no file"):
        GivenSolutions(tmp_path / "none.jsonl")


def test_a_file_of_no_prompt(tmp_path):
    """An empty file, as of a failed export, and rows of other prompts would end with an empty output."""
    with pytest.raises(ValueError, match=r"solutions_from: .*empty\.jsonl holds no rows"):
        GivenSolutions(write(tmp_path / "empty.jsonl", []))
    given = GivenSolutions(write(tmp_path / "rows.jsonl", [{"id": "a/0", "response": "3"}]))
    given.require_some()
    given.of(["b", "c"])
    with pytest.raises(ValueError, match="holds no solutions of any of the 2 prompts, but of 'a' and others"):
        given.require_some()
    given.of(["a"])
    given.require_some()
