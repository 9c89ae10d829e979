import json

import numpy as np
import pytest
from PIL import Image
from released_benchmarks import mathvision_table

from datamodules.benchmarks import VISUAL_BENCHMARKS, BenchmarkOptions
from datamodules.benchmarks.base import POLICY_INSTRUCTION
from datamodules.policy.prompts import (
    ChatRenderer,
    Prompt,
    PromptCollator,
    benchmark_prompts,
    grade_by_answer,
    read_prompts,
    render_prompt,
    with_other_images,
)
from datamodules.storage.images import ImageError


@pytest.fixture
def prompt_file(tmp_path, write_lines, pictures):
    """Writes rows; the pictures a.png, b.png and c.png are in the folder ``pictures`` beside the file."""
    for number, name in enumerate("bc"):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(pictures / f"{name}.png")
    return lambda rows: write_lines(tmp_path / "annotations.jsonl", rows)


ROWS = [
    {"question": "Why?", "answer": "2", "response": "3 + 4\n\nAnswer: \\boxed{2}"},
    {"id": "x", "source": "s", "image": "pictures/a.png", "question": "How many?", "answer": "7", "response": "So 7"},
    {
        "id": 5,
        "image": ["pictures/b.png", "pictures/c.png"],
        "question": "Is <image> larger than <image> ?",
        "answer": "A",
        "response": "The digits are 3",
    },
]


def test_rows(prompt_file):
    path = prompt_file([*ROWS, "", {"question": "q", "answer": "1", "image": "", "id": None, "response": None}])
    prompts = read_prompts(path)
    assert [prompt.prompt_id for prompt in prompts] == ["annotations-1", "x", "5", "annotations-5"]
    assert [prompt.source for prompt in prompts] == ["annotations", "s", "annotations", "annotations"]
    names = [(), ("pictures/a.png",), ("pictures/b.png", "pictures/c.png"), ()]
    assert [prompt.image_names for prompt in prompts] == names
    assert [prompt.response for prompt in prompts] == [*(row["response"] for row in ROWS), None]
    assert [len(prompt.load_images()) for prompt in prompts] == [0, 1, 2, 0]
    assert prompts[1].load_images()[0].getpixel((0, 0)) == (200, 0, 0)
    assert prompts[1].grade("It is 3 + 4.\n\nAnswer: \\boxed{7.0}").is_correct
    assert not prompts[1].grade("Answer: \\boxed{8}").is_correct


def test_another_image_root(prompt_file, tmp_path):
    path = prompt_file([{"image": "a.png", "question": "q", "answer": "1"}])
    (prompt,) = read_prompts(path, tmp_path / "pictures")
    assert prompt.load_images()[0].size == (24, 24)


GOOD = {"question": "q", "answer": "1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, "field 'question' is missing; the row has"),
        ({"question": "q"}, "field 'answer' is missing; the row has"),
        ({**GOOD, "question": 5}, "field 'question' must be a string, got 5"),
        ({**GOOD, "question": " \n"}, "field 'question' must be a string that is not blank"),
        ({**GOOD, "answer": None}, "field 'answer' must be a string, got None"),
        ({**GOOD, "answer": 2}, "field 'answer' must be a string, got 2"),
        ({**GOOD, "image": 7}, "field 'image' must be a path, a list of paths, or absent, got 7"),
        ({**GOOD, "image": ["a.png", 7]}, "field 'image' must be a path"),
        ({**GOOD, "image": ["a.png", ""]}, "field 'image' must be a path"),
        ({**GOOD, "response": ["a"]}, r"field 'response' must be a string, got \['a'\]"),
        ({**GOOD, "response": ""}, "field 'response' must be a string that is not blank"),
        ({**GOOD, "question": "<image>"}, "field 'question' has 1 <image> placeholders for 0 images"),
        ({**GOOD, "question": "<image>", "image": ["a", "b"]}, "field 'question' has 1 <image> placeholders for 2"),
        ({**GOOD, "id": "x"}, "field 'id' repeats 'x'; ids key the random numbers and must be unique"),
        ("{broken", "not valid JSON"),
        ("[1, 2]", "expected a JSON object, got list"),
    ],
)
def test_a_bad_row_is_named(prompt_file, row, message):
    path = prompt_file([{**GOOD, "id": "x"}, "", row])
    with pytest.raises(ValueError, match=f"^{path}:3: {message}"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["missing.png", "broken.png", "text.png"])
def test_a_bad_picture_is_named(prompt_file, name):
    path = prompt_file([GOOD, {**GOOD, "image": f"pictures/{name}"}])
    prompts = read_prompts(path)
    with pytest.raises(ImageError, match=f"^{path}:2: field 'image': .*{name}.* cannot be opened as an image"):
        prompts[1].load_images()


def test_grades():
    grade = grade_by_answer("3/4")
    assert grade("So \\boxed{0.75}").is_correct
    assert grade("So \\boxed{\\frac{3}{4}}").is_correct
    wrong = grade("So \\boxed{0.7}")
    assert (wrong.is_correct, wrong.extracted_answer, wrong.status) == (False, "0.7", "boxed")
    empty = grade("")
    assert (empty.is_correct, empty.extracted_answer, empty.status) == (False, None, "none")


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


def test_instruction_of_prompt_rows(prompt_file):
    path = prompt_file(ROWS)
    assert read_prompts(path)[0].policy_text == f"Why?\n{POLICY_INSTRUCTION}"
    assert read_prompts(path, instruction="Box it.")[0].policy_text == "Why?\nBox it."
    assert read_prompts(path, instruction="")[0].policy_text == read_prompts(path)[0].question == "Why?"


def test_prompt_collator(prompt_file, tiny_processor):
    prompts = read_prompts(prompt_file(ROWS), instruction="")
    batch = PromptCollator(ChatRenderer(tiny_processor))(prompts)
    assert batch.prompts == prompts
    assert [len(images) for images in batch.images] == [0, 1, 2]
    assert [render_prompt(tiny_processor, messages) for messages in batch.messages] == [
        "<|user|>Why?<|end|><|assistant|>",
        "<|user|><IMG_CONTEXT>How many?<|end|><|assistant|>",
        "<|user|>Is <IMG_CONTEXT> larger than <IMG_CONTEXT> ?<|end|><|assistant|>",
    ]


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
