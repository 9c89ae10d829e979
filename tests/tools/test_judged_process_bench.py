"""Worked by hand: two solutions with five labelled steps, and what a judge says of them."""

import json

import pytest

from lightning_modules.callbacks.step_scores import STEP_SCORES, read_step_scores
from tools.judged_process_bench import main

SOLUTIONS = [(["one", "two\n\nmore", "three"], [1, -1, 0]), (["four", "five", "six"], [1, 1, -1])]


@pytest.fixture
def bench(tmp_path, write_lines):
    folder = tmp_path / "bench"
    rows = [
        {
            "question": "Why?",
            "answer": "7",
            "response": {"steps": steps, "process_correctness": labels},
            "policy_model": "p",
            "data_source": "MMMU",
        }
        for steps, labels in SOLUTIONS
    ]
    write_lines(folder / "test.jsonl", rows)
    return folder


def judged(path, write_lines, scores):
    def step(text, score):
        return {"step": text, "score": score or 0.0, **({} if score is not None else {"num_mc_total": 0})}

    rows = [
        {
            "id": f"VisualProcessBench/{line}/0",
            "response": "\n\n".join(steps),
            "steps_with_score": [step(*pair) for pair in zip(steps, given, strict=True)],
        }
        for line, ((steps, _), given) in enumerate(zip(SOLUTIONS, scores, strict=True), start=1)
    ]
    return str(write_lines(path, rows))


def test_step_f1_of_a_judge(bench, tmp_path, write_lines, capsys):
    rows = judged(tmp_path / "judged.jsonl", write_lines, [[0.9, 0.2, 0.7], [0.6, None, 0.8]])
    arguments = [rows, "--visual-process-bench", str(bench), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "out/process_bench_test.json").read_text())
    # Labels + - | + + -, judged + - | + - (no verdict) +: of the correct ones 2 of 3 found, 2 of 3 judged so; of the
    # wrong ones 1 of 2 found, 1 of 2 judged so.
    assert report["overall"]["correct_f1"] == pytest.approx(2 / 3)
    assert report["overall"]["wrong_f1"] == pytest.approx(1 / 2)
    assert report["overall"]["macro_f1"] == pytest.approx(7 / 12)
    assert report["steps_without_verdict"] == 1
    assert "1 of 6 steps have no verdict" in (tmp_path / "out/process_bench_test.md").read_text()
    assert [row.step_scores for row in read_step_scores(tmp_path / "out" / STEP_SCORES)] == [
        [0.9, 0.2, 0.7],
        [0.6, 0.0, 0.8],
    ]
    assert main(arguments) == 2
    assert "holds a report already" in capsys.readouterr().err


def test_solutions_that_were_not_judged(bench, tmp_path, write_lines, capsys):
    rows = judged(tmp_path / "judged.jsonl", write_lines, [[1, 1, 1], [1, 1, 1]])
    file = tmp_path / "judged.jsonl"
    arguments = [rows, "--visual-process-bench", str(bench), "--output", str(tmp_path / "out")]
    file.write_text(file.read_text().replace("five", "nine"))
    assert main(arguments) == 2
    assert "1 of 2 solutions have other steps than were judged, the first is" in capsys.readouterr().err
    file.write_text(file.read_text().splitlines()[0] + "\n")
    assert main(arguments) == 2
    assert "1 of 2 solutions were not judged" in capsys.readouterr().err
