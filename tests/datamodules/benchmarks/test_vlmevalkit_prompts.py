"""What VLMEvalKit asks, written out: `InternVLChat.build_prompt` and `generate_v2`, config InternVL2_5-8B-BoN-8."""

import base64
import io
import logging

import pytest
from PIL import Image
from released_benchmarks import HUBS, TABLES, cell, shade

from datamodules.benchmarks import BENCHMARKS, VISUAL_BENCHMARKS
from datamodules.benchmarks.question import BenchmarkQuestion, SourceRow
from datamodules.benchmarks.table import write_table
from datamodules.benchmarks.vlmevalkit_prompts import ask, load
from datamodules.policy.benchmark_prompts import benchmark_prompts

REASONING = (
    "If you are uncertain or the problem is too complex, make a reasoned guess based on the information provided. "
    "Avoid repeating steps indefinitely—provide your best guess even if unsure. "
    "Think step by step logically, considering all relevant information before answering."
)
FORMAT = "The last line of your response should follow this format: "
LETTER = (
    f"Answer the preceding multiple choice question. {FORMAT}'Answer: \\boxed{{$LETTER}}' (without quotes), where "
    f"LETTER is one of the options. {REASONING}"
)
ANSWER = (
    f"Answer the preceding question. {FORMAT}'Answer: \\boxed{{$FINAL_ANSWER}}' (without quotes), where 'FINAL_ANSWER' "
    f"is your conclusion based on the reasoning provided. {REASONING}"
)
EXPECTED = {
    # Placeholders of the table stay as text, and the options' request for a direct answer is gone.
    "MMMU/validation_Art_1": (
        "Image-1: <image>\nImage-2: <image>\nImage-3: <image>\nImage-4: <image>\n"
        f"<image 2> and <image 1>: which is older?\nA. <image 3>\nB. <image 2>\n{LETTER}"
    ),
    # An open question keeps its request, and is asked for a letter all the same.
    "MMMU/validation_Math_15": (
        f"<image>\nHow many turns does it make? <image 1>\nAnswer the question directly.\n{LETTER}"
    ),
    "MathVista/2": f"<image>\nHint: integer\nQuestion: How heavy? (Unit: g)\n{ANSWER}",
    "MathVista/3": f"<image>\nQuestion: Is it?\nChoices:\n(A) Yes\n(B) No\n{ANSWER}",
    # The table's text alone: what it does not list is not asked.
    "MathVision/8": f"<image>\nHow long is it? <image1>\n{ANSWER}",
    "MathVerse-VO/5": (
        "<image>\nAccording to the question shown in the image, please provide the correct option letter, e.g., A, B, "
        f"C, D.\n{ANSWER}"
    ),
    "DynaMath/2-3": f"<image>\nSum? choices: (A) 3 (B) 0\n{ANSWER}",
    "WeMath/1-2steps_1": f"<image>\nWhat is the area?\nA. 12\nB. 24\nC. 36\nD. No correct answer\n{LETTER}",
    "LogicVista/v1_2": f"<image>\nWhich two? Select from (A-D)\n{ANSWER}",
}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for write in TABLES.values():
        write(folder)
    return {prompt.prompt_id: prompt for prompt in benchmark_prompts(folder, prompts_as="vlmevalkit")}


def test_prompts_of_the_seven_benchmarks(prompts):
    assert {name: prompts[name].policy_text for name in EXPECTED} == EXPECTED
    assert {name.partition("/")[0] for name in EXPECTED} == set(VISUAL_BENCHMARKS)


def test_pictures_in_the_order_of_the_file(prompts):
    """Also one that is never named, and one that is named twice; the first of MMMU is twice as large."""
    pictures = prompts["MMMU/validation_Art_1"].load_images()
    assert [shade(picture) for picture in pictures] == [11, 12, 13, 14]
    width, height = pictures[1].size
    assert [picture.size for picture in pictures] == [(2 * width, 2 * height), *[(width, height)] * 3]
    assert prompts["MathVista/3"].load_images()[0].size == (width, height)


def test_the_first_picture_is_enlarged_bilinearly():
    picture = Image.effect_noise((20, 12), 60).convert("RGB")
    row = SourceRow("Which? <image 1>", "", {"A": "x", "B": "y"}, [picture], True)
    (enlarged,) = load(ask(BenchmarkQuestion("MMMU", "1", "Which? <image>", [picture], ("A",), row=row)))
    assert enlarged.tobytes() == picture.resize((40, 24), Image.Resampling.BILINEAR).tobytes()


@pytest.mark.parametrize(
    ("benchmark", "pictures", "tiles"),
    # 64 over all pictures: 64 / 5 = 12.8, 64 / 7 = 9.1; 64 / 10 = 6.4, 64 / 11 = 5.8
    [("MMMU", 1, 12), ("MMMU", 5, 12), ("MMMU", 7, 9), ("MathVista", 1, 6), ("WeMath", 10, 6), ("LogicVista", 11, 5)],
)
def test_tiles(benchmark, pictures, tiles):
    images = [Image.new("RGB", (8, 8))] * pictures
    question = BenchmarkQuestion(benchmark, "1", "q", images, ("A",), row=SourceRow("q", "", {}, images, True))
    assert ask(question).max_tiles == tiles


@pytest.mark.parametrize("prompts_as", ["ours", "vlmevalkit"])
def test_pictures_are_converted_as_asked(tmp_path, prompts_as):
    """Transparent pixels that hide a colour: white with us, the hidden colour as released."""
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(file, "PNG")
    row = {"index": "1", "image": base64.b64encode(file.getvalue()).decode(), "question": "q", "answer": "C"}
    write_table(tmp_path / "LogicVista.tsv", [row | {"skill": "['spatial']"}])
    for pictures, colour in (("ours", (255, 255, 255)), ("released", (10, 20, 30))):
        (prompt,) = benchmark_prompts(tmp_path, prompts_as=prompts_as, pictures=pictures)
        assert prompt.load_images()[0].getpixel((0, 0)) == colour


def test_a_hint_and_chinese_characters():
    row = SourceRow("Welche?", "Look closely.", {"A": "rot", "C": " blau"}, [Image.new("RGB", (8, 8))], True)
    question = BenchmarkQuestion("WeMath", "1", "", [], ("A",), row=row)
    assert ask(question).text == f"<image>\nLook closely.\nWelche?\nA. rot\nC.  blau\n{LETTER}"
    # The Chinese request is not the one that is left out again.
    chinese = BenchmarkQuestion("WeMath", "1", "", [], ("A",), row=SourceRow("多少？", "", {"A": "1"}, [], True))
    assert ask(chinese).text == f"多少？\nA. 1\n请直接回答选项字母。\n{LETTER}"


def test_texts_with_a_placeholder_of_their_own():
    """The picture stands in front; a second placeholder would want a second picture."""
    images = [Image.new("RGB", (8, 8))]
    row = SourceRow("Is <image> red?", "", {}, images, True)
    assert ask(BenchmarkQuestion("MathVista", "1", "", images, ("A",), row=row)).text == f"<image>\nIs  red?\n{ANSWER}"


def test_what_the_reward_model_reads_is_not_changed(tmp_path, prompts):
    for write in TABLES.values():
        write(tmp_path)
    ours = {prompt.prompt_id: prompt for prompt in benchmark_prompts(tmp_path)}
    assert list(ours) == list(prompts)
    assert {name: prompt.question for name, prompt in ours.items()} == {n: p.question for n, p in prompts.items()}
    assert {prompt.max_tiles for prompt in ours.values()} == {None}


def test_other_layouts_are_asked_with_a_notice(tmp_path, caplog, prompts):
    for write in HUBS.values():
        write(tmp_path)
    found = {prompt.prompt_id: prompt.policy_text for prompt in benchmark_prompts(tmp_path, prompts_as="vlmevalkit")}
    assert "come from other files than VLMEvalKit's tables" in caplog.text
    assert [record.levelno for record in caplog.records if "VLMEvalKit" in record.message] == [logging.WARNING]
    differing = {name for name, text in found.items() if text != prompts[name].policy_text}
    assert {name.partition("/")[0] for name in differing} == {"MathVision"}
    choices = "(A) 3.0 cm\n(B) 6 cm\n(C) NA\n(D) None\n(E) $\\pi$"
    assert found["MathVision/8"] == f"<image>\nHow long is it? \nChoices:\n{choices}\n{ANSWER}"


def test_other_benchmarks_are_refused(tmp_path):
    rows = [{"index": "1", "image": cell(1), "question": "q", "answer": "A"}]
    write_table(tmp_path / "Other.tsv", rows)
    question = BenchmarkQuestion("GSM8K", "1", "q", [], ("1",), row=SourceRow("q", "", {}, [], False))
    with pytest.raises(ValueError, match=r"vlmevalkit asks the benchmarks MMMU, .*, not GSM8K; name those in"):
        ask(question)
    assert "GSM8K" in BENCHMARKS
