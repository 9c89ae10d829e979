"""GSM8K, MATH-500 and GPQA-Diamond: their files, verdicts, and the order of GPQA's options."""

import csv
import hashlib
import json

import numpy as np
import pytest
from released_benchmarks import save

from datamodules.benchmarks import BENCHMARKS, VISUAL_BENCHMARKS
from datamodules.benchmarks.gpqa import option_order

GSM8K_ROWS = [
    {"question": "Janet's ducks lay 16 eggs. How much?", "answer": "She sells 9 <<16-7=9>>.\n#### 18"},
    {"question": "How far?", "answer": "Far.\n#### 1,080"},
]
MATH_ROWS = [
    {"problem": "Convert $(0,3)$.", "solution": "..", "answer": r"\left( 3, \frac{\pi}{2} \right)"}
    | {"subject": "Precalculus", "level": 2, "unique_id": "test/precalculus/807.json"},
    {"problem": "Solve.", "solution": "..", "answer": r"\frac{14}{3}", "subject": "Algebra", "level": 3}
    | {"unique_id": "test/algebra/2584.json"},
]
GPQA_ROWS = [
    {"Question": f"Which energy is right, number {number}?\n", "Correct Answer": "10^-4 eV\n"}
    | {f"Incorrect Answer {n}": f"10^-{n} J" for n in (1, 2, 3)}
    | {"Record ID": f"rec{number}", "High-level domain": "Physics"}
    for number in range(60)
]


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(name, folder):
    benchmark = BENCHMARKS[name]()
    return benchmark, benchmark.read(folder)


@pytest.mark.parametrize("layout", ["parquet", "jsonl"])
def test_gsm8k(tmp_path, layout, caplog):
    if layout == "parquet":
        save(GSM8K_ROWS, tmp_path / "gsm8k" / "main" / "test-00000-of-00001.parquet")
        save(GSM8K_ROWS[:1], tmp_path / "gsm8k" / "main" / "train-00000-of-00001.parquet")
        save(GSM8K_ROWS[:1], tmp_path / "gsm8k" / "socratic" / "test-00000-of-00001.parquet")
    else:
        write_jsonl(tmp_path / "grade-school-math" / "test.jsonl", GSM8K_ROWS)
    benchmark, questions = read("GSM8K", tmp_path)
    assert [(q.question_id, q.gold, len(q.images)) for q in questions] == [("0", ("18",), 0), ("1", ("1080",), 0)]
    assert "no picture" not in caplog.text
    assert benchmark.mismatches == ["2 scored questions, the release has 1319"]


@pytest.mark.parametrize(
    ("response", "is_correct", "status"),
    [
        (r"\boxed{1080}", True, "boxed"),
        (r"\boxed{\$1,080}", True, "boxed"),
        ("The answer is 1080 miles.", True, "marker"),
        ("So 9 * 120 = 1080", True, "last_line"),
        ("#### 1,080", True, "last_line"),
        (r"\boxed{9 * 120 = 1080 \text{ miles}}", True, "boxed"),
        ("First 1080.\nThat is it, done.", True, "last_number"),
        ("It is 1080, not 12.", False, "last_line"),
        (r"\boxed{1081}", False, "boxed"),
        ("No idea.", False, "none"),
        ("", False, "none"),
    ],
)
def test_gsm8k_verdicts(tmp_path, response, is_correct, status):
    write_jsonl(tmp_path / "gsm8k" / "test.jsonl", GSM8K_ROWS)
    benchmark, questions = read("GSM8K", tmp_path)
    grade = benchmark.grade(questions[1], response)
    assert (grade.is_correct, grade.status) == (is_correct, status)
    assert (grade.extracted_answer is None) == (status == "none")


def test_gsm8k_without_a_gold_number(tmp_path):
    write_jsonl(tmp_path / "gsm8k" / "test.jsonl", [{"question": "q", "answer": "18"}])
    with pytest.raises(ValueError, match=r"test\.jsonl: row 0 \(index 0\): column 'answer' does not end with '#### '"):
        read("GSM8K", tmp_path)


@pytest.mark.parametrize("layout", ["parquet", "jsonl"])
def test_math500(tmp_path, layout):
    if layout == "parquet":
        save(MATH_ROWS, tmp_path / "HuggingFaceH4" / "MATH-500" / "data" / "test-00000-of-00001.parquet")
    else:
        write_jsonl(tmp_path / "MATH-500" / "test.jsonl", MATH_ROWS)
    benchmark, questions = read("MATH-500", tmp_path)
    assert questions[0].metadata == {"subject": "Precalculus", "level": "2"}
    assert [q.question_id for q in questions] == ["test/precalculus/807.json", "test/algebra/2584.json"]
    for text, is_correct in ((r"(3, \pi/2)", True), (r"(\frac{\pi}{2}, 3)", False)):
        assert benchmark.grade(questions[0], rf"\boxed{{{text}}}").is_correct is is_correct
    for text, is_correct in (("14/3", True), (r"4\frac{2}{3}", True), ("4.67", False)):
        assert benchmark.grade(questions[1], rf"\boxed{{{text}}}").is_correct is is_correct
    assert benchmark.secondary_metrics(questions, np.array([1, 0])) == {
        "subject/Algebra": 0.0,
        "subject/Precalculus": 1.0,
        "level/2": 1.0,
        "level/3": 0.0,
    }


@pytest.mark.parametrize("layout", ["parquet", "csv"])
def test_gpqa(tmp_path, layout):
    folder = tmp_path / "gpqa"
    if layout == "parquet":
        save(GPQA_ROWS, folder / "gpqa_diamond" / "train-00000-of-00001.parquet")
    else:
        folder.mkdir()
        for name in ("gpqa_diamond", "gpqa_main"):
            with (folder / f"{name}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(GPQA_ROWS[0]))
                writer.writeheader()
                writer.writerows(GPQA_ROWS if name == "gpqa_diamond" else GPQA_ROWS[:3])
    benchmark, questions = read("GPQA-Diamond", tmp_path)
    assert len(questions) == 60
    for question in questions:
        (letter,) = question.gold
        assert question.options[letter] == "10^-4 eV"
        row = ["10^-4 eV", "10^-1 J", "10^-2 J", "10^-3 J"]
        assert [row[place] for place in question.option_order] == list(question.options.values())
        assert question.question.splitlines()[1:] == [f"{key}. {text}" for key, text in question.options.items()]
        assert benchmark.grade(question, rf"\boxed{{{letter}}}").is_correct
        assert benchmark.grade(question, "The answer is 10^-4 eV").is_correct
    # All places of the right answer occur, about equally often (60 draws of a quarter, within four deviations).
    counts = [sum(question.gold == (letter,) for question in questions) for letter in "ABCD"]
    assert min(counts) >= 15 - 4 * 3.36
    assert max(counts) <= 15 + 4 * 3.36
    assert benchmark.secondary_metrics(questions[:2], np.array([1, 0])) == {"domain/Physics": 0.5}


def test_the_order_of_options_depends_on_the_question_alone():
    sums = {place: hashlib.sha256(f"0/rec7/{place}".encode()).hexdigest() for place in range(4)}
    assert option_order("rec7", 4) == tuple(sorted(sums, key=lambda place: sums[place]))


def test_text_benchmarks_are_no_part_of_the_paper_mean():
    assert [name for name in BENCHMARKS if name not in VISUAL_BENCHMARKS] == ["GSM8K", "MATH-500", "GPQA-Diamond"]
