"""The five benchmarks whose unit is a question: rows in released shapes and hand-worked verdicts."""

import numpy as np
import pytest
from PIL import Image

from datamodules.benchmarks import BENCHMARKS
from datamodules.benchmarks.table import encode_image, encode_images, write_table

PICTURES = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (10, 20, 30)]
IMAGE = encode_image(PICTURES[0])


def read(name, tmp_path, rows, **options):
    benchmark = BENCHMARKS[name](**options)
    rows = [{"index": str(number), "image": IMAGE, **row} for number, row in enumerate(rows)]
    write_table(tmp_path / benchmark.file_name, rows)
    return benchmark, benchmark.read(tmp_path)


def verdicts(benchmark, question, responses):
    return [(grade.is_correct, grade.extracted_answer) for grade in (benchmark.grade(question, r) for r in responses)]


# ---- MMMU

MMMU_ROW = {
    "A": "<image 2>",
    "B": "a cat",
    "answer": "B",
    "split": "validation",
    "category": "Art",
    "l2-category": "Art & Design",
}


def test_mmmu_interleaves_pictures_and_drops_dev_rows(tmp_path):
    rows = [
        MMMU_ROW | {"question": "Is <image 3> like <image 1>?", "image": encode_images(PICTURES)},
        MMMU_ROW | {"question": "dev", "split": "dev", "A": "x"},
        MMMU_ROW | {"question": "No name", "A": "x", "hint": "Look.", "image": encode_images(PICTURES[:2])},
    ]
    _, questions = read("MMMU", tmp_path, rows)
    assert [q.question_id for q in questions] == ["0", "2"]
    assert questions[0].question == "Is <image> like <image>?\nA. <image>\nB. a cat"
    assert [image.getpixel((0, 0))[0] for image in questions[0].images] == [30, 10, 20]
    assert questions[1].question == "Look.\nNo name\nA. x\nB. a cat"
    assert [image.getpixel((0, 0))[0] for image in questions[1].images] == [10, 20]


def test_mmmu_names_a_picture_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"MMMU_DEV_VAL\.tsv:2 \(index 0\).*<image 2>, but there are 1"):
        read("MMMU", tmp_path, [MMMU_ROW | {"question": "q"}])


def test_mmmu_letters_reach_i(tmp_path):
    options = {letter: f"text {letter.lower()}" for letter in "ABCDEFGHI"}
    benchmark, (question,) = read("MMMU", tmp_path, [MMMU_ROW | options | {"question": "q", "answer": "I"}])
    responses = [r"\boxed{I}", "The answer is (I).", r"\boxed{text i}", "I think it is hard to say.", r"\boxed{A}", ""]
    assert verdicts(benchmark, question, responses) == [
        (True, "I"),
        (True, "I"),
        (True, "I"),
        (False, None),
        (False, "A"),
        (False, None),
    ]


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("1.06", ["1.06", "1.061", "1.06 m"], ["1.07", "1", "about"]),
        ("1/64", ["1/64", r"\frac{1}{64}", "0.015625"], ["0.02"]),
        ("Transformation", ["transformation"], ["Transform", ""]),
        ("['24/7', '3.429']", ["24/7", "3.43", "3.429"], ["3.4"]),
        ("['$MgS$', 'MgS']", ["MgS", "$MgS$"], ["Mg"]),
        ("C", ["C"], ["A", "vitamin C"]),
    ],
)
def test_mmmu_open_questions(tmp_path, answer, right, wrong):
    row = {"question": "q", "answer": answer, "split": "validation", "A": "", "B": ""}
    benchmark, (question,) = read("MMMU", tmp_path, [row])
    assert question.options == {}
    assert [benchmark.grade(question, rf"\boxed{{{text}}}").is_correct for text in right] == [True] * len(right)
    assert [benchmark.grade(question, rf"\boxed{{{text}}}").is_correct for text in wrong] == [False] * len(wrong)


def test_mmmu_gold_outside_of_the_options(tmp_path):
    with pytest.raises(ValueError, match=r"column 'answer' is 'D', but the options are A, B"):
        read("MMMU", tmp_path, [MMMU_ROW | {"question": "q", "A": "x", "answer": "D"}])


def test_mmmu_secondary_metrics(tmp_path):
    rows = [
        MMMU_ROW | {"question": "q", "A": "x"},
        {"question": "q", "answer": "5", "category": "Math", "split": "validation"},
    ]
    benchmark, questions = read("MMMU", tmp_path, rows)
    assert benchmark.secondary_metrics(questions, np.array([True, False])) == {
        "subject/Art": 1.0,
        "subject/Math": 0.0,
        "domain/Art and Design": 1.0,
        "domain/Science": 0.0,
        "multiple_choice": 1.0,
        "open": 0.0,
    }


# ---- MathVista

FREE = {
    "question": "q",
    "question_type": "free_form",
    "choices": "[]",
    "answer_option": "",
    "precision": "",
    "skills": "['arithmetic']",
}


@pytest.mark.parametrize(
    ("row", "cases"),
    [
        (
            {"answer_type": "integer", "answer": "14"},
            [
                ("14", True, "14"),
                ("14.0", True, "14"),
                ("14 g", True, "14"),
                ("14.9", True, "14"),
                ("15", False, "15"),
                ("many", False, None),
            ],
        ),
        (
            {"answer_type": "integer", "answer": "1000"},
            [("1,000", True, "1000"), (r"\$1000", True, "1000"), ("1000.0%", True, "1000")],
        ),
        (
            {"answer_type": "float", "answer": "1.4", "precision": "1.0"},
            [
                ("1.4", True, "1.4"),
                ("1.449", True, "1.4"),
                ("1.46", False, "1.5"),
                ("7/5", True, "1.4"),
                ("", False, None),
            ],
        ),
        ({"answer_type": "float", "answer": "0.25"}, [("0.254", True, "0.25"), ("0.3", False, "0.3")]),
        (
            {"answer_type": "list", "answer": "[1, 2.5]"},
            [
                ("[1, 2.5]", True, "[1, 2.5]"),
                ("1.0, 2.5", True, "[1.0, 2.5]"),
                ("[2.5, 1]", False, "[2.5, 1]"),
                ("[1", False, None),
            ],
        ),
        ({"answer_type": "text", "answer": "Yes"}, [("yes", True, "yes"), ("no", False, "no")]),
    ],
)
def test_mathvista_answer_types(tmp_path, row, cases):
    benchmark, (question,) = read("MathVista", tmp_path, [FREE | row])
    expected = [(is_correct, answer) for _, is_correct, answer in cases]
    assert verdicts(benchmark, question, [rf"So \boxed{{{text}}}" for text, _, _ in cases]) == expected


@pytest.mark.parametrize("answer_option", ["B", ""])
def test_mathvista_multiple_choice_by_letter_or_exact_text(tmp_path, answer_option):
    row = FREE | {"question_type": "multi_choice", "choices": "['Yes', 'No']", "answer": "No", "answer_type": "text"}
    benchmark, (question,) = read("MathVista", tmp_path, [row | {"answer_option": answer_option}])
    responses = [r"\boxed{B}", r"\boxed{(B) No}", r"\boxed{no}", r"\boxed{A}", r"\boxed{Nope}", r"\boxed{C}"]
    assert verdicts(benchmark, question, responses) == [(True, "B")] * 3 + [(False, "A"), (False, None), (False, None)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer_type": "number", "answer": "1"}, "column 'answer_type' is 'number'"),
        ({"answer_type": "float", "answer": "1", "precision": "one"}, "column 'precision' is 'one'"),
        ({"answer_type": "float", "answer": "1", "precision": "inf"}, "column 'precision' is 'inf'"),
        ({"answer_type": "integer", "answer": ""}, "column 'answer' is empty"),
        (
            {"question_type": "multi_choice", "choices": "['a', 'b']", "answer": "c", "answer_type": "text"},
            "not one of",
        ),
    ],
)
def test_mathvista_bad_rows_are_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=rf"MathVista_MINI\.tsv:2 \(index 0\): .*{message}"):
        read("MathVista", tmp_path, [FREE | row])


def test_mathvista_secondary_metrics(tmp_path):
    rows = [FREE | {"answer_type": "integer", "answer": "1", "task": "t", "skills": "['a', 'b']"}] * 2
    benchmark, questions = read("MathVista", tmp_path, rows)
    expected = {"task/t": 0.5, "skill/a": 0.5, "skill/b": 0.5, "question_type/free_form": 0.5}
    assert benchmark.secondary_metrics(questions, np.array([True, False])) == expected


# ---- MathVision


def test_mathvision(tmp_path):
    rows = [
        {
            "question": "Which?\n<image1>",
            "choices": "['A', 'B', 'C', 'D', 'E']",
            "answer": "C",
            "category": "geometry",
            "level": "1",
        },
        {"question": "How long?", "choices": "['3 cm', '6 cm']", "answer": "B", "category": "geometry", "level": "2"},
        {"question": "Value?", "choices": "[]", "answer": r"\frac{\pi}{2}", "category": "algebra", "level": "2"},
        {"question": "Two <image1> and <image2>", "choices": "[]", "answer": "7", "category": "algebra", "level": "2"},
    ]
    benchmark, questions = read("MathVision", tmp_path, rows)
    assert questions[0].question.startswith("Which?\n<image>\nChoices:\n(A) A\n(B) B")
    assert questions[1].question == "How long?\nChoices:\n(A) 3 cm\n(B) 6 cm"
    assert questions[3].question == "Two  and"  # one picture cannot stand at two places
    assert verdicts(benchmark, questions[0], [r"\boxed{C}", r"\boxed{(c)}"]) == [(True, "C"), (True, "C")]
    assert verdicts(benchmark, questions[1], [r"\boxed{6 cm}", r"\boxed{6}", r"\boxed{A}"]) == [
        (True, "B"),
        (True, "B"),
        (False, "A"),
    ]
    right = [r"\pi/2", "1.5707963", r"\frac{1}{2}\pi", r"x = \frac{\pi}{2}"]
    assert all(benchmark.grade(questions[2], rf"\boxed{{{text}}}").is_correct for text in right)
    assert not benchmark.grade(questions[2], r"\boxed{1.57}").is_correct
    assert benchmark.grade(questions[3], "So it is 7.").is_correct
    assert benchmark.secondary_metrics(questions, np.array([1, 1, 0, 0])) == {
        "question_type/multiple-choice": 1.0,
        "question_type/free-form": 0.0,
        "subject/geometry": 1.0,
        "subject/algebra": 0.0,
        "level/1": 1.0,
        "level/2": pytest.approx(1 / 3),
    }


def test_mathvision_reads_another_split(tmp_path):
    row = {"question": "q", "choices": "[]", "answer": "7"}
    _, questions = read("MathVision", tmp_path, [row], table="MathVision_MINI.tsv")
    assert len(questions) == 1


# ---- MathVerse

MATHVERSE_ROW = {
    "question": "According to the question shown in the image, please directly answer the question and provide the "
    "correct option letter, e.g., A, B, C, D.",
    "question_for_eval": "Then the angle is ()\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°",
    "answer": "D",
    "problem_version": "Vision Only",
    "metadata": "{'split': 'testmini', 'source': \"Euclid's\", 'subject': 'Plane Geometry', 'subfield': 'Angle'}",
}


def test_mathverse_multiple_choice(tmp_path):
    benchmark, (question,) = read(
        "MathVerse-VO", tmp_path, [MATHVERSE_ROW, MATHVERSE_ROW | {"problem_version": "Text Lite"}]
    )
    assert "directly" not in question.question
    assert "140" not in question.question
    assert question.options == {"A": "40°", "B": "60°", "C": "120°", "D": "140°"}
    responses = [r"\boxed{D}", r"\boxed{140^\circ}", r"\boxed{D: 140°}", r"\boxed{60°}", r"\boxed{150°}"]
    assert verdicts(benchmark, question, responses) == [(True, "D")] * 3 + [(False, "B"), (False, None)]
    assert benchmark.secondary_metrics([question], np.array([1])) == {
        "question_type/multi-choice": 1.0,
        "subject/Plane Geometry": 1.0,
        "subfield/Angle": 1.0,
    }


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("0.5m", ["50 cm", "0.5", "x = 0.5 m"], ["50", "5 m"]),
        ("78°", ["78", r"78^\circ"], ["87"]),
        (r"\frac{5}{6}", ["5/6"], ["0.83"]),
        ("(-\\infty, 3]", [r"(-\infty,3]"], [r"(-\infty,3)"]),
        ("y=(x+3)^{2}", ["y = x^2 + 6x + 9", "(x+3)^2"], ["y = x^2 + 9"]),
    ],
)
def test_mathverse_free_form(tmp_path, gold, right, wrong):
    row = MATHVERSE_ROW | {"question_for_eval": "Find it.", "answer": gold}
    benchmark, (question,) = read("MathVerse-VO", tmp_path, [row])
    assert [benchmark.grade(question, rf"\boxed{{{text}}}").is_correct for text in right] == [True] * len(right)
    assert [benchmark.grade(question, rf"\boxed{{{text}}}").is_correct for text in wrong] == [False] * len(wrong)


def test_mathverse_other_versions_only_and_bad_metadata(tmp_path):
    with pytest.raises(
        ValueError, match="no row is scored in split 'testmini' of MathVerse-VO: 1 of version Text Lite"
    ):
        read("MathVerse-VO", tmp_path, [MATHVERSE_ROW | {"problem_version": "Text Lite"}])
    with pytest.raises(ValueError, match=r"\(index 0\): column 'metadata' is not the text of a dictionary"):
        read("MathVerse-VO", tmp_path, [MATHVERSE_ROW | {"metadata": "{'a'"}])


# ---- LogicVista


def test_logicvista(tmp_path):
    text = "Which follow? Select from A, B, and C. (A) True (B)False (C)Insufficient Information"
    rows = [
        {"question": text, "answer": "C", "skill": "['inductive']"},
        {"question": "Which two?", "answer": "D, B", "skill": "['inductive', 'spatial']"},
        {"question": "How many?", "answer": "3", "skill": "numerical"},
        {"question": "blank", "answer": "", "skill": ""},
    ]
    benchmark, questions = read("LogicVista", tmp_path, rows)
    assert len(questions) == 3
    assert questions[0].options == {"A": "True", "B": "False", "C": "Insufficient Information"}
    assert questions[1].gold == ("B, D",)
    responses = [
        r"\boxed{C}",
        r"\boxed{insufficient information}",
        "The answer is (C).",
        r"\boxed{B, C}",
        "Hard to say",
    ]
    expected = [(True, "C")] * 3 + [(False, "B, C"), (False, None)]
    assert verdicts(benchmark, questions[0], responses) == expected
    right = [r"\boxed{B, D}", r"\boxed{DB}", r"\boxed{D and B}", "The answer is (B) and (D)."]
    assert verdicts(benchmark, questions[1], right) == [(True, "B, D")] * 4
    assert verdicts(benchmark, questions[1], [r"\boxed{B}"]) == [(False, "B")]
    assert verdicts(benchmark, questions[2], [r"\boxed{3}", r"\boxed{C}"]) == [(True, "3"), (False, "C")]
    assert benchmark.secondary_metrics(questions, np.array([1, 0, 1])) == {
        "skill/inductive": 0.5,
        "skill/numerical": 1.0,
        "skill/spatial": 0.0,
    }


# ---- all of them


def test_placeholders_must_fit_the_pictures(tmp_path):
    with pytest.raises(ValueError, match=r"\(index 0\): column 'question' has 2 <image> placeholders for 1 pictures"):
        read("LogicVista", tmp_path, [{"question": "<image> <image>", "answer": "A"}])


def test_question_without_a_picture_is_read_as_text_and_reported(tmp_path, caplog):
    _, (question,) = read("LogicVista", tmp_path, [{"question": "q", "answer": "A", "image": ""}])
    assert len(question.images) == 0
    assert "1 questions have no picture" in caplog.text


def test_rows_that_break_the_table_can_be_skipped(tmp_path, caplog):
    """A repeated index and a line cut short: the other rows stay, as they do for bad cells."""
    benchmark = BENCHMARKS["MathVista"](on_bad_row="error")
    rows = [
        FREE | {"index": index, "image": IMAGE, "answer_type": "integer", "answer": "1"} for index in ("1", "1", "2")
    ]
    write_table(tmp_path / benchmark.file_name, rows)
    with (tmp_path / benchmark.file_name).open("a", encoding="utf-8") as file:
        file.write("9\tcut short\n")
    with pytest.raises(ValueError, match=r"MathVista_MINI\.tsv:3: column 'index' repeats '1'"):
        benchmark.read(tmp_path)
    skipping = BENCHMARKS["MathVista"](on_bad_row="skip")
    assert [question.question_id for question in skipping.read(tmp_path)] == ["1", "2"]
    assert skipping.excluded == {"unusable row": 2}
    assert "MathVista_MINI.tsv:3: column 'index' repeats '1'" in caplog.text
    assert "MathVista_MINI.tsv:5: 2 cells, but the header names" in caplog.text
