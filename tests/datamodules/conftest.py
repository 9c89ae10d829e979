"""Fixtures of the data modules."""

import pytest
from PIL import Image


@pytest.fixture
def evaluation(tmp_path, pictures, write_lines):
    """Arguments that name a VisualProcessBench of one row and a benchmark of three questions."""
    from datamodules.benchmarks.table import encode_image, write_table
    from datamodules.rollouts.records import Rollout, write_rollouts

    judged = {
        "image": ["pictures/a.png"],
        "question": "How many?",
        "answer": "2",
        "response": {"steps": ["a", "b"], "process_correctness": [1, -1]},
        "policy_model": "tiny",
        "data_source": "MathVision",
    }
    write_lines(tmp_path / "test.jsonl", [judged])
    picture = encode_image(Image.new("RGB", (20, 20)))
    cells = {"image": picture, "question": "How many?", "choices": "[]", "answer": "2", "category": "c", "level": "1"}
    write_table(tmp_path / "MathVision.tsv", [{"index": str(index), **cells} for index in range(3)])
    rollouts = [
        Rollout("MathVision", str(index), sample, "a\n\nb", "2", True, "tiny", 0.7, 1.0, 64, 0)
        for index in range(3)
        for sample in range(2)
    ]
    write_rollouts(tmp_path / "rollouts.jsonl", rollouts)
    return {
        "visual_process_bench": str(tmp_path),
        "benchmarks": str(tmp_path),
        "rollouts": str(tmp_path / "rollouts.jsonl"),
        "candidates_per_question": 2,
        "questions_per_batch": 2,
    }
