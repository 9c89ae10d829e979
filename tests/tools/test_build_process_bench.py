import json
import sys

import numpy as np
import pytest
from PIL import Image

from datamodules.benchmarks import BENCHMARKS
from datamodules.process_bench.solutions import VisualProcessBenchDataset
from datamodules.rollouts.records import Rollout, write_rollouts
from datamodules.storage.images import open_image
from lightning_modules.checkpointing.run_lock import RunLock
from tools import build_process_bench


def rollout(benchmark, question_id, response, sample_index=0):
    return Rollout(
        benchmark=benchmark,
        question_id=question_id,
        sample_index=sample_index,
        response=response,
        extracted_answer=None,
        is_correct=False,
        policy="a policy",
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=8,
        seed=0,
    )


@pytest.fixture
def truth(tiny_world):
    rows = [json.loads(line) for line in (tiny_world / "truth.jsonl").read_text().splitlines()]
    return {(row["benchmark"], row["question_id"]): row["steps"] for row in rows}


def test_labels_and_pictures(tiny_world, truth, tmp_path, monkeypatch, capsys):
    two_pictures, expression = truth["MMMU", "2"], truth["MathVerse-VO", "5"]
    rollouts = [
        rollout("MMMU", "2", "\n\n".join(two_pictures)),
        rollout("MMMU", "2", "a second sample\n\nis not taken", sample_index=1),
        rollout("MathVerse-VO", "5", "\n\n".join(["Top left: 99.", *expression[1:], "One more."])),
        rollout("MathVision", "1", " \n\n "),  # no steps
        rollout("MathVista", "1", "not one of the five\n\nsources"),
        rollout("DynaMath", "1-3", "nonsense"),
    ]
    write_rollouts(tmp_path / "rollouts.jsonl", rollouts)
    output = tmp_path / "bench"
    arguments = ["--world", tiny_world, "--rollouts", tmp_path / "rollouts.jsonl", "--output", output]
    monkeypatch.setattr(sys, "argv", ["build_process_bench", *map(str, arguments)])
    build_process_bench.main()
    assert f"{output}: 3 samples" in capsys.readouterr().out
    rows = [json.loads(line) for line in (output / "test.jsonl").read_text().splitlines()]
    assert [row["data_source"] for row in rows] == ["MMMU", "MathVerse", "DynaMath"]
    # The first step of a question about two pictures states nothing.
    assert rows[0]["response"] == {"steps": two_pictures, "process_correctness": [0, 1, 1, 1, 1]}
    assert rows[1]["response"]["process_correctness"] == [-1, 1, 1, 1, -1]
    assert rows[2]["response"] == {"steps": ["nonsense"], "process_correctness": [-1]}
    assert {row["policy_model"] for row in rows} == {"a policy"}
    questions = [BENCHMARKS[name]().read(tiny_world / "benchmarks") for name in ("MMMU", "MathVerse-VO", "DynaMath")]
    chosen = [next(q for q in of if q.question_id == i) for of, i in zip(questions, ("2", "5", "1-3"), strict=True)]
    samples = VisualProcessBenchDataset(output)
    assert len(samples) == 3
    for sample, question, row in zip(samples, chosen, rows, strict=True):
        assert sample.question == row["question"] == question.question
        assert row["answer"] == question.gold[0]
        assert list(sample.steps) == row["response"]["steps"]
        assert list(sample.correctness) == row["response"]["process_correctness"]
        assert len(sample.images) == len(question.images) == len(row["image"])


def test_pictures_are_those_of_the_questions(tiny_world, truth, tmp_path):
    write_rollouts(tmp_path / "rollouts.jsonl", [rollout("MMMU", "1", "\n\n".join(truth["MMMU", "1"]))])
    assert build_process_bench.build_process_bench(tiny_world, tmp_path / "rollouts.jsonl", tmp_path / "bench") == 1
    question = BENCHMARKS["MMMU"]().read(tiny_world / "benchmarks")[0]
    for number, image in enumerate(question.images):
        written = open_image(tmp_path / "bench" / "images" / f"MMMU_1_{number}.png", "test")
        assert np.array_equal(np.asarray(written), np.asarray(image))


def test_samples_that_are_replaced_in_part_are_not_left(tiny_world, truth, tmp_path, monkeypatch):
    write_rollouts(tmp_path / "rollouts.jsonl", [rollout("MMMU", "1", "\n\n".join(truth["MMMU", "1"]))])
    arguments = tiny_world, tmp_path / "rollouts.jsonl", tmp_path / "bench"
    build_process_bench.build_process_bench(*arguments)

    def stopped(image, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_process_bench.build_process_bench(*arguments)
    assert [path.name for path in (tmp_path / "bench").iterdir()] == ["images"]


def test_another_command_writes_there(tiny_world, tmp_path, monkeypatch, capsys):
    write_rollouts(tmp_path / "rollouts.jsonl", [rollout("MMMU", "1", "a step")])
    arguments = ["--world", tiny_world, "--rollouts", tmp_path / "rollouts.jsonl", "--output", tmp_path / "bench"]
    monkeypatch.setattr(sys, "argv", ["build_process_bench", *map(str, arguments)])
    with RunLock(tmp_path / "bench").held():
        assert build_process_bench.main() == 2
    assert f"{tmp_path / 'bench'}: another run writes here now" in capsys.readouterr().err
    assert build_process_bench.main() == 0
