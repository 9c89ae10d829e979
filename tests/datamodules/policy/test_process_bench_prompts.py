"""Solutions of VisualProcessBench as prompts of `predict`."""

import pytest

from datamodules.policy.process_bench_prompts import process_bench_prompts
from datamodules.prompts_datamodule import PromptDataModule

ROW = {
    "image": ["a.png"],
    "question": "How many?",
    "answer": "2",
    "response": {"steps": ["one", "two\n\nparts"], "process_correctness": [1, -1]},
    "policy_model": "p",
    "data_source": "MMMU",
}


@pytest.fixture
def bench(pictures, write_lines):
    write_lines(pictures / "test.jsonl", [ROW, {**ROW, "image": [], "data_source": "WeMath"}])
    return pictures


def test_solutions_come_with_their_prompts(bench):
    data = PromptDataModule(visual_process_bench=str(bench))
    data.setup("predict")
    assert data.prompt_ids == ["VisualProcessBench/1", "VisualProcessBench/2"]
    assert list(data.prompt_sources.values()) == ["MMMU", "WeMath"]
    first, second = process_bench_prompts(bench)
    assert first.solutions == (("one", "two\n\nparts"),)
    assert [image.size for image in first.load_images()] == [(24, 24)]
    assert second.load_images() == []
    with pytest.raises(NotImplementedError, match="are judged"):
        first.grade("2")


def test_other_steps_are_another_prompt(bench, write_lines):
    before = [prompt.digest for prompt in process_bench_prompts(bench)]
    response = {"steps": ["one", "three"], "process_correctness": [1, -1]}
    write_lines(bench / "test.jsonl", [ROW, {**ROW, "image": [], "data_source": "WeMath", "response": response}])
    after = [prompt.digest for prompt in process_bench_prompts(bench)]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_prompts_of_another_kind_beside_it(bench):
    with pytest.raises(ValueError, match="give 'visual_process_bench' alone"):
        PromptDataModule(visual_process_bench=str(bench), benchmarks="x")
