"""Worked by hand: two questions, verdicts of a judge that now and then says nothing."""

import json

import pytest

from datamodules.rollouts.records import Rollout, write_rollouts
from lightning_modules.callbacks.candidate_scores import OutcomeScores, response_digest
from tools.rollouts import main

RESPONSES = {("MMMU", "a"): ["one\n\ntwo", "three"], ("WeMath", "b/1"): ["four"]}
# Scores of the steps; None has no verdict.
VERDICTS = {"MMMU/a/0": [1, 0], "MMMU/a/1": [None], "WeMath/b/1/0": [1, None, 1]}


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def rollouts(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    write_rollouts(
        path,
        [
            Rollout(name, number, n, text, None, False, "p", 1.0, 1.0, 64, 0)
            for (name, number), texts in RESPONSES.items()
            for n, text in enumerate(texts)
        ],
    )
    return str(path)


def judged(path, verdicts):
    def step(score):
        counts = {"num_mc_correct": 0, "num_mc_total": 0} if score is None else {}
        return {"step": "s", "score": float(score or 0), **counts}

    texts = {f"{name}/{number}/{n}": t for (name, number), each in RESPONSES.items() for n, t in enumerate(each)}
    return lines(
        path,
        [
            {"id": row_id, "response": texts[row_id].replace("\n\n", "\n"), "steps_with_score": [*map(step, scores)]}
            for row_id, scores in verdicts
        ],
    )


def test_scores_of_a_judge(rollouts, tmp_path, capsys):
    output = tmp_path / "scores.jsonl"
    rows = judged(tmp_path / "judged.jsonl", VERDICTS.items())
    assert main(["scores", rows, "--rollouts", rollouts, "--output", str(output)]) == 0
    assert "scores of 3 rollouts; 2 of 6 steps have no verdict" in capsys.readouterr().out
    found = OutcomeScores(output)
    # The mean of 1 and 0; no opinion; the mean of two verdicts.
    assert found.of("MMMU", "a", [response_digest(text) for text in RESPONSES["MMMU", "a"]]) == [0.5, 0.5]
    assert found.of("WeMath", "b/1", [response_digest("four")]) == [1.0]
    with pytest.raises(ValueError, match="another response"):
        found.of("WeMath", "b/1", [response_digest("five")])


def test_a_rollout_without_verdicts_is_an_error(rollouts, tmp_path, capsys):
    rows = judged(tmp_path / "judged.jsonl", list(VERDICTS.items())[:1])
    assert main(["scores", rows, "--rollouts", rollouts, "--output", str(tmp_path / "scores.jsonl")]) == 2
    assert "2 of 3 rollouts were not judged, the first is 'MMMU/a/1'" in capsys.readouterr().err
    assert not (tmp_path / "scores.jsonl").exists()


def test_other_rollouts_than_were_judged(rollouts, tmp_path, capsys):
    rows = judged(tmp_path / "judged.jsonl", VERDICTS.items())
    file = tmp_path / "rollouts.jsonl"
    file.write_text(file.read_text().replace("four", "fourteen"))
    assert main(["scores", rows, "--rollouts", rollouts, "--output", str(tmp_path / "scores.jsonl")]) == 2
    assert (
        "1 of 3 rollouts have another response than was judged, the first is 'WeMath/b/1/0'" in capsys.readouterr().err
    )


def test_scores_of_whole_responses(rollouts, tmp_path, capsys):
    texts = {f"{name}/{number}/{n}": t for (name, number), each in RESPONSES.items() for n, t in enumerate(each)}
    rows = [
        {"id": row_id, "response": text, "scores": {"mean": -1.0 * n, "sum": 2.0 * n}}
        for n, (row_id, text) in enumerate(texts.items())
    ]
    file, output = lines(tmp_path / "rows.jsonl", rows), tmp_path / "scores.jsonl"
    digests = [response_digest(text) for text in RESPONSES["MMMU", "a"]]
    for options, expected in ([], [0.0, -1.0]), (["--score", "sum", "--overwrite"], [0.0, 2.0]):
        assert main(["scores", file, "--rollouts", rollouts, "--output", str(output), *options]) == 0
        assert OutcomeScores(output).of("MMMU", "a", digests) == expected
    assert main(["scores", file, "--rollouts", rollouts, "--output", str(tmp_path / "x"), "--score", "max"]) == 2
    assert "rows.jsonl:1: field 'scores' has no 'max'; it has mean, sum" in capsys.readouterr().err
