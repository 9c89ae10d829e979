import logging

import pytest

from datamodules.conversation.instructions import INSTRUCTIONS
from datamodules.policy.prompt_rows import grade_by_answer
from datamodules.policy.prompts import Prompt
from datamodules.policy.released_annotation import as_asked, template_of, tiles_of, with_choices

# File and number, as in the list of the released script.
RELEASED_FILES = {
    1: ["nlvr2_en_20240910"],
    6: [
        "CLEVR_math_en_20240402_extracted",
        "geos_en_20240402_extracted",
        "geometry3k_en_20240402_extracted",
        "scienceqa_multi_choice_en_20240402_extracted",
        "m3cot_train_extracted",
        "ai2d_train_12k_en_20240410_extracted",
        "dvqa_en_20240402_extracted_int_only",
        "iconqa_train_extracted",
        "geoqa+_en_20240402_extracted_open_ended_only",
        "unigeo_calc_en_20240402_extracted_open_ended_only",
        "geomverse_extracted",
        "geo170k_extracted_full",
        "koniq10k_en_20240403",
        "study_com_en_20240619",
        "mavis_function_abs",
        "super_clevr_en_20240402_yorn",
        "vqav2_en_20240402_int",
        "cocorem_exist_yorn_en_20241016",
        "mavis_geo_depth3_text_dominant_vision_dominant_en",
        "MathV360K_prompts",
    ],
    12: [
        "SROIE_information_extraction_multi_turn_20240620_extracted",
        "chartqa_trainval_30k_w_csv_en_20240402_extracted",
        "mapqa_suv_en_20240402_extracted",
        "figureqa_en_20240402_extracted",
    ],
    18: ["docvqa_train_56k_en_20240402_extracted"],
    24: ["infographics_20240403_qa_20240407_v2_extracted"],
}


@pytest.mark.parametrize("tiles", RELEASED_FILES)
def test_tiles_of_the_released_files(tiles):
    assert {tiles_of(name) for name in RELEASED_FILES[tiles]} == {tiles}


BOXED = (
    "Answer the preceding question. The last line of your response should follow this format: "
    "'Answer: \\boxed{$FINAL_ANSWER}' (without quotes), where 'FINAL_ANSWER' is your conclusion based on the "
    "reasoning provided. If you are uncertain or the problem is too complex, make a reasoned guess based on the "
    "information provided. Avoid repeating steps indefinitely—provide your best guess even if unsure. Think step by "
    "step logically, considering all relevant information before answering."
)


@pytest.mark.parametrize(
    ("question", "pictures", "expected"),
    [
        ("<image>\nHow many?", 1, f"<image>\nHow many?\n{BOXED}"),
        ("How many?", 1, f"<image>\nHow many?\n{BOXED}"),
        # A picture inside of the text comes to the front.
        ("How many in <image> here?", 1, f"<image>\nHow many in  here?\n{BOXED}"),
        ("<image>\nIs it?\nPlease answer Yes or No.", 1, f"<image>\nIs it?\n{BOXED}"),
        (
            "<image>\nWhich?\nA. x\nAnswer with the option's letter from the given choices directly.",
            1,
            f"<image>\nWhich?\nA. x\n{BOXED}",
        ),
        (
            "<image>\nWhat? Please answer the question and put the final answer within \\boxed{}.",
            1,
            f"<image>\nWhat?\n{BOXED}",
        ),
        # In the middle it is a part of the question.
        ("Please answer Yes or No. Is it?", 1, f"<image>\nPlease answer Yes or No. Is it?\n{BOXED}"),
        ("<image>\n<image>\nSame?", 2, f"<image>\n<image>\nSame?\n{BOXED}"),
        ("Same?", 2, f"<image>\n<image>\nSame?\n{BOXED}"),
        ("How many?", 0, f"How many?\n{BOXED}"),
        ("What does <image> mean in HTML?", 0, f"What does <image> mean in HTML?\n{BOXED}"),
    ],
)
def test_questions_in_the_boxed_instruction(question, pictures, expected):
    assert as_asked(question, pictures, template_of("boxed", "m3cot")) == expected


def test_several_pictures_stay_inside_an_instruction_that_begins_with_text():
    """The released program moves a single placeholder to the front, and no others."""
    template = INSTRUCTIONS["final_answer"]
    assert as_asked("<image>\nHow many?", 1, template).startswith("<image>\nYour task is to answer")
    assert as_asked("<image>\n<image>\nSame?", 2, template).endswith("Question:\n\n<image>\n<image>\nSame?")


def test_chinese_sources_are_asked_in_chinese():
    assert template_of("boxed", "geoqa+_zh_20240402") == INSTRUCTIONS["boxed_zh"]
    assert template_of("boxed", "geoqa+_en_20240402") == INSTRUCTIONS["boxed"]
    assert template_of("boxed_zh", "geoqa+_zh_20240402") == INSTRUCTIONS["boxed_zh"]
    assert as_asked("<image>\n多少？", 1, template_of("boxed", "a_zh_b")).startswith(
        "<image>\n多少？\n请回答上述问题。"
    )
    with pytest.raises(ValueError, match=r"instruction_template must be one of ours, .*, got 'blunt'"):
        template_of("blunt", "m3cot")


def prompt(source, question="How many?\nPlease answer Yes or No."):
    return Prompt(source, question, ("a.png",), "2", source, list, grade_by_answer("2"), text="asked")


def test_choices_of_prompts(caplog):
    prompts = [prompt("chartqa_en"), prompt("docvqa_train"), prompt("infographics_v2"), prompt("geos_en")]
    chosen = with_choices(prompts, "boxed", "visualprm_v1_1", ["docvqa", "infographics"])
    assert [(p.source, p.max_tiles, p.policy_text) for p in chosen] == [
        ("chartqa_en", 12, f"<image>\nHow many?\n{BOXED}"),
        ("geos_en", 6, f"<image>\nHow many?\n{BOXED}"),
    ]
    # The row's own question is kept, the short answer that it asks for included.
    assert {p.question for p in chosen} == {"How many?\nPlease answer Yes or No."}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == "without_sources leaves out docvqa_train (1 prompts), infographics_v2 (1 prompts)"
    assert {p.max_tiles for p in with_choices(prompts, max_tiles=4)} == {4}
    with pytest.raises(ValueError, match=r"without_sources \['qa'\] leaves no prompt: docvqa_train \(1 prompts\)"):
        with_choices(prompts[1:2], without_sources=["qa"])


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    # `lines[::max(count // most, 1)][:most]` of each file: 10 // 4 = 2, 10 // 7 = 1
    [(10, 4, [0, 2, 4, 6]), (10, 7, list(range(7))), (10, 10, list(range(10))), (3, 5, [0, 1, 2]), (9, 2, [0, 4])],
)
def test_at_most_so_many_of_a_source(count, most, expected):
    numbered = [prompt(source, f"{source} {n}") for n in range(count) for source in ("a", "b")]
    kept = with_choices(numbered, max_prompts_per_source=most)
    assert [p.question for p in kept] == [f"{source} {n}" for n in expected for source in ("a", "b")]


def test_by_default_nothing_is_changed():
    prompts = [prompt("chartqa_en"), prompt("docvqa_train")]
    assert with_choices(prompts) == prompts
