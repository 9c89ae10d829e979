"""The files that the authors released, and the verdicts that they published on real responses."""

import csv
import json

import numpy as np
import pytest
from real_files import REAL, needs_real_files

from datamodules.benchmarks import BENCHMARKS, benchmarks_in

pytestmark = needs_real_files


def read(name, folder, rules="ours"):
    benchmark = BENCHMARKS[name](rules=rules)
    return benchmark, {question.question_id: question for question in benchmark.read(REAL / folder)}


@pytest.mark.parametrize(
    ("name", "folder", "split", "count"),
    [
        ("MathVision", "mathvision", "test", 3040),
        ("MathVista", "mathvista", "testmini", 1000),
        ("WeMath", "wemath", "testmini", 1740),
        ("LogicVista", "logicvista", "test", 447),  # and one row without an answer
        ("DynaMath", "dynamath", "seeds", 501),
        ("MathVerse-VO", "mathverse", "testmini_text_only", 788),
        ("MMMU", "mmmu", "validation", 900),
    ],
)
def test_every_row_is_read_from_the_folder_itself_and_from_the_one_above(name, folder, split, count):
    for place in (folder, ""):
        benchmark, questions = read(name, place)
        assert (benchmark.split, len(questions), benchmark.mismatches) == (split, count, [])
        assert set(benchmark.excluded.values()) <= {1}
    assert name in benchmarks_in(REAL)


def test_wemath_groups_and_option_texts_that_do_not_split():
    benchmark, questions = read("WeMath", "wemath")
    assert len(benchmark.unit_scores(list(questions.values()), np.ones(1740))) == 525
    ((_, places),) = benchmark.notes.items()
    assert len(places) == 10
    found = questions["2steps_94-2steps_1"]
    assert (found.gold, list(found.options)) == (("A",), list("ABCF"))
    found = questions["3steps_38-3steps_1"]
    assert found.options == {"A": "45°", "B": "60°", "C": "120°", "D": "No correct answer"}
    assert benchmark.grade(found, "\\boxed{A}").is_correct


def test_mathvista_equal_choices_are_equal_answers():
    benchmark, questions = read("MathVista", "mathvista")
    asked = questions["781"]
    grades = {text: benchmark.grade(asked, text) for text in ("C", "D", "18", "B", "12")}
    assert {text for text, grade in grades.items() if grade.is_correct} == {"C", "D", "18"}
    assert {grades[text].extracted_answer for text in ("C", "D", "18")} == {"C"}  # one answer
    assert "Choices:\n(A) 9\n(B) 12\n(C) 18\n(D) 18" in asked.question
    assert "(Unit: g)" in questions["2"].question


def test_mathverse_answers_that_are_the_text_of_an_option():
    benchmark, questions = read("MathVerse-VO", "mathverse")
    for number, letter, text in (("339", "A", "090^\\circ T"), ("429", "B", "False"), ("430", "A", "False")):
        right = [benchmark.grade(questions[number], answer).is_correct for answer in (letter, f"Answer: {text}")]
        assert right == [True, True]
        wrong = "AB".replace(letter, "")
        assert not benchmark.grade(questions[number], wrong).is_correct
    assert benchmark.grade(questions["440"], "\\boxed{C, D}").is_correct
    assert not benchmark.grade(questions["440"], "\\boxed{C}").is_correct
    assert benchmark.grade(questions["517"], "\\boxed{C}").is_correct  # the file says (C)


# ---- published verdicts


@pytest.mark.parametrize("model", ["Gemini-Pro-CoT", "LLaVA-v1.5-7B", "Qwen-VL-Max"])
def test_mathvision_official(model):
    benchmark, questions = read("MathVision", "mathvision", "official")
    lines = [json.loads(line) for line in (REAL / "mathvision" / f"{model}.jsonl").open(encoding="utf-8")]
    different = [
        line["id"]
        for line in lines
        if benchmark.grade(questions[line["id"]], line["response"]).is_correct != line["correct"]
    ]
    assert len(lines) == 3040
    assert len(different) <= 0.002 * len(lines), different


@pytest.mark.parametrize("model", ["bard", "gpt4_2shot_solution", "llava_llama_2_13b"])
def test_mathvista_official_where_the_extraction_is_given(model):
    benchmark, questions = read("MathVista", "mathvista", "official")
    entries = json.loads((REAL / "mathvista" / f"output_{model}.json").read_bytes())
    different = [
        pid
        for pid, entry in entries.items()
        if benchmark.grade(questions[pid], entry["response"], entry["extraction"]).is_correct != entry["true_false"]
    ]
    assert (len(entries), different) == (1000, [])


def test_mmmu_official():
    """README of the files: 36.67 by the authors' script."""
    benchmark, questions = read("MMMU", "mmmu", "official")
    answers = json.loads((REAL / "mmmu" / "llava1.5_13b_total_val_output.json").read_bytes())
    right = sum(benchmark.grade(questions[name], text).is_correct for name, text in answers.items())
    assert (right, round(100 * right / 900, 2)) == (330, 36.67)


def test_logicvista_official_where_the_extraction_is_given():
    benchmark, questions = read("LogicVista", "logicvista", "official")
    with (REAL / "logicvista" / "LLAVA7B-accuracy-results.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["id"] in questions]
    different = [
        row["id"]
        for row in rows
        if benchmark.grade(questions[row["id"]], row["LLAVA7B answer raw"], row["LLAVA7B answer extracted"]).is_correct
        != (row["match?"] == "1")
    ]
    assert (len(rows), different) == (447, [])
