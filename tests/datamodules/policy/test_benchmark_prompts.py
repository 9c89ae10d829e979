import json

from released_benchmarks import mathvision_table

from datamodules.benchmarks import VISUAL_BENCHMARKS, BenchmarkOptions
from datamodules.benchmarks.base import POLICY_INSTRUCTION
from datamodules.policy.benchmark_prompts import benchmark_prompts


def test_benchmark_prompts_of_the_world(tiny_world):
    """The world's true solution of every question is graded right, and a solution of another answer wrong."""
    prompts = benchmark_prompts(tiny_world / "benchmarks")
    truth = [json.loads(line) for line in (tiny_world / "truth.jsonl").read_text().splitlines()]
    by_id = {f"{row['benchmark']}/{row['question_id']}": row for row in truth}
    assert {prompt.prompt_id for prompt in prompts} == set(by_id)
    assert len(prompts) == len(by_id) == 5 * 10 + 10 + 9
    assert {prompt.source for prompt in prompts} == set(VISUAL_BENCHMARKS)
    for prompt in prompts:
        assert prompt.grade("\n\n".join(by_id[prompt.prompt_id]["steps"])).is_correct
        assert not prompt.grade("Answer: \\boxed{777}").is_correct
        assert len(prompt.load_images()) == (2 if prompt.source == "MMMU" else 1)


def test_what_the_policy_reads_of_a_benchmark(tiny_world):
    """The instruction is the benchmark's own, another one, or none; the reward model never reads it."""
    for instruction, ending in ((None, f"\n{POLICY_INSTRUCTION}"), ("Be quick.", "\nBe quick."), ("", "")):
        prompt = benchmark_prompts(tiny_world / "benchmarks", ["MMMU"], instruction)[0]
        assert prompt.policy_text == prompt.question + ending
        assert POLICY_INSTRUCTION not in prompt.question


def test_rules_and_order_of_options_go_with_the_prompts(tmp_path):
    answers = {"Correct Answer": "x"} | {f"Incorrect Answer {n}": f"y{n}" for n in (1, 2, 3)}
    (tmp_path / "gpqa").mkdir()
    (tmp_path / "gpqa" / "gpqa_diamond.jsonl").write_text(json.dumps({"Question": "q", "Record ID": "r", **answers}))
    (prompt,) = benchmark_prompts(tmp_path, rules="official")
    assert prompt.prompt_id == "GPQA-Diamond/r"
    assert prompt.load_images() == []
    assert prompt.details["rules"] == "official"
    order = prompt.details["option_order"]
    texts = ["x", "y1", "y2", "y3"]
    assert prompt.question == "\n".join(["q", *(f"{'ABCD'[n]}. {texts[place]}" for n, place in enumerate(order))])
    assert prompt.answer == "ABCD"[order.index(0)]


def test_rules_and_splits_of_prompts(tmp_path):
    mathvision_table(tmp_path)
    options = {"MathVision": BenchmarkOptions(split="testmini")}
    for rules, is_correct in (("ours", True), ("official", False)):
        prompts = benchmark_prompts(tmp_path, ["MathVision"], rules=rules, options=options)
        assert [prompt.prompt_id for prompt in prompts] == ["MathVision/7", "MathVision/8"]
        assert prompts[0].grade("It would be 007").is_correct is is_correct


def test_some_benchmarks(tiny_world):
    prompts = benchmark_prompts(tiny_world / "benchmarks", ["WeMath"])
    assert {prompt.source for prompt in prompts} == {"WeMath"}
