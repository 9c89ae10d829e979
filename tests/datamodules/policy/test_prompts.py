import json
import re

import pytest
from PIL import Image
from released_benchmarks import mathvision_table

from datamodules.benchmarks import VISUAL_BENCHMARKS, BenchmarkOptions
from datamodules.benchmarks.base import POLICY_INSTRUCTION
from datamodules.policy.prompt_rows import read_prompts
from datamodules.policy.prompts import (
    ChatRenderer,
    Prompt,
    PromptCollator,
    benchmark_prompts,
    render_prompt,
    with_other_images,
)
from datamodules.storage.images import ImageError

# ------------------------------------------------------------------ rendering


def test_prompts_written_out(tiny_processor):
    plain = ChatRenderer(tiny_processor)
    assert plain.prompt("Why?", 0) == "<|user|>Why?<|end|><|assistant|>"
    full = ChatRenderer(tiny_processor, "Think.")
    context = "<IMG_CONTEXT>"
    assert (
        full.prompt("Why?\nBox it.", 1) == f"<|system|>Think.<|end|><|user|>{context}Why?\nBox it.<|end|><|assistant|>"
    )
    assert full.prompt("Is <image> or <image> larger?", 2) == (
        f"<|system|>Think.<|end|><|user|>Is {context} or {context} larger?<|end|><|assistant|>"
    )
    assert plain.conversation("Why?", 0, "So.") == "<|user|>Why?<|end|><|assistant|>So.<|end|>"


def test_instruction_of_prompt_rows(prompt_file, prompt_rows):
    path = prompt_file(prompt_rows)
    assert read_prompts(path)[0].policy_text == f"Why?\n{POLICY_INSTRUCTION}"
    assert read_prompts(path, instruction="Box it.")[0].policy_text == "Why?\nBox it."
    assert read_prompts(path, instruction="")[0].policy_text == read_prompts(path)[0].question == "Why?"


def test_prompt_collator(prompt_file, prompt_rows, tiny_processor):
    prompts = read_prompts(prompt_file(prompt_rows), instruction="")
    batch = PromptCollator(ChatRenderer(tiny_processor))(prompts)
    assert batch.prompts == prompts
    assert [len(images) for images in batch.images] == [0, 1, 2]
    assert [render_prompt(tiny_processor, messages) for messages in batch.messages] == [
        "<|user|>Why?<|end|><|assistant|>",
        "<|user|><IMG_CONTEXT>How many?<|end|><|assistant|>",
        "<|user|>Is <IMG_CONTEXT> larger than <IMG_CONTEXT> ?<|end|><|assistant|>",
    ]


def test_a_picture_that_cannot_be_used_is_replaced(prompt_file, tiny_processor):
    """The batch keeps its prompts, and says whose answers do not count."""
    rows = [
        {"id": "good", "question": "q", "answer": "1", "image": "pictures/a.png"},
        {
            "id": "cut",
            "question": "<image> or <image>",
            "answer": "1",
            "image": ["pictures/a.png", "pictures/broken.png"],
        },
    ]
    prompts = read_prompts(prompt_file(rows))
    renderer = ChatRenderer(tiny_processor)
    batch = PromptCollator(renderer, "skip")(prompts)
    assert [len(images) for images in batch.images] == [1, 2]
    assert list(batch.left_out) == ["cut"]
    assert re.search(r"annotations\.jsonl:2: field 'image': .*broken\.png' cannot be opened", batch.left_out["cut"])
    with pytest.raises(ImageError, match=r"annotations\.jsonl:2: field 'image'"):
        PromptCollator(renderer)(prompts)


def test_a_picture_that_the_processor_refuses(prompt_file, pictures):
    """As some families do for pictures that are far too wide."""

    class Processor:
        def image_processor(self, images, return_tensors):
            if images[0].width / images[0].height > 200:
                raise ValueError("absolute aspect ratio must be smaller than 200, got 210.0")

    for name, size in (("wide", (2100, 10)), ("long", (600, 10))):
        Image.new("RGB", size).save(pictures / f"{name}.png")
    rows = [{"id": name, "question": "q", "answer": "1", "image": f"pictures/{name}.png"} for name in ("wide", "long")]
    batch = PromptCollator(ChatRenderer(Processor()), "skip")(read_prompts(prompt_file(rows)))
    assert list(batch.left_out) == ["wide"]
    assert re.search(
        r":1: a picture of 2100 x 10 pixels cannot be used with this model: .* ratio", batch.left_out["wide"]
    )


# ----------------------------------------------------------------- benchmarks


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


def test_other_images_come_from_half_the_list_away():
    def prompt(name, source, images):
        return Prompt(name, "q", (f"{name}.png",), "1", source, lambda: images, None)

    prompts = [prompt(str(i), "a", [i]) for i in range(4)] + [prompt("b", "b", [7]), prompt("text", "a", [])]
    changed = with_other_images(prompts)
    assert [p.load_images() for p in changed] == [[2], [3], [0], [1], [7], []]
    assert [p.prompt_id for p in changed] == ["0", "1", "2", "3", "b", "text"]
    assert all(p.image_names == () for p in changed)
