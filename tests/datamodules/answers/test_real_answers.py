"""Cases that were distilled from released responses, and released golds fed back as the last line of a response.

See :mod:`real_files` for where the files lie; without them these tests are skipped.
"""

import ast
import json
import os

import pytest
from letter_forms import LETTER_FORMS
from real_files import REAL

from datamodules.answers.compare import answers_equal
from datamodules.benchmarks import BENCHMARKS
from datamodules.benchmarks.base import BenchmarkQuestion

if not REAL.is_dir():
    pytest.skip(f"no released files in {REAL}", allow_module_level=True)


def rows(name):
    path = REAL / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def question(benchmark, gold, options=(), answer_type="letter", text="?"):
    lettered = dict(zip("ABCDEFGHI", options, strict=False))
    return BenchmarkQuestion(benchmark, "1", text, (), (gold,), lettered, answer_type, metadata={"has_precision": True})


STRIDE = int(os.environ.get("VISUALPRM_REAL_STRIDE", "5"))
"""Every how manieth question is asked; all of them take minutes."""

CASES = [pytest.param(case, id=case["id"]) for case in rows("answer_cases.jsonl")]


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    asked = question(case["benchmark"], case["gold"], case["options"], case["question_type"])
    grade = BENCHMARKS[case["benchmark"]](rules=case["rules"]).grade(asked, case["response_tail"])
    assert grade.is_correct is case["right_verdict"], f"{case['reason']}; read {grade.extracted_answer!r}"


@pytest.mark.parametrize("pair", rows("equal_pairs.jsonl"), ids=lambda pair: f"{pair['prediction']} | {pair['gold']}")
def test_pair_in_both_directions(pair):
    assert answers_equal(pair["prediction"], pair["gold"]) is pair["equal"]
    assert answers_equal(pair["gold"], pair["prediction"]) is pair["equal"]


def mathvision_choices():
    found = []
    for row in rows("mathvision/test.jsonl"):
        if row["options"]:
            found.append(question("MathVision", row["answer"], row["options"], text=row["question"]))
    return found


def test_option_texts_as_the_last_line_name_their_option():
    benchmark = BENCHMARKS["MathVision"]()
    missed, count = [], 0
    for asked in mathvision_choices()[::STRIDE]:
        keys = [text.replace(" ", "").strip("$").lower() for text in asked.options.values()]
        for letter, text in asked.options.items():
            if (
                keys.count(text.replace(" ", "").strip("$").lower()) > 1
                or text.strip("() ") in asked.options
                or "\\\\" in text
            ):
                continue  # two options read the same, the texts are letters, or have a stray line break
            count += 1
            for response in (f"We look at the picture.\n\n{text}", rf"So \boxed{{{text.strip('$')}}}"):
                if (read := benchmark.grade(asked, response).extracted_answer) != letter:
                    missed.append((letter, read, dict(asked.options), response))
    assert count > 4000 // STRIDE
    assert missed == []


def test_letter_forms_name_no_other_option():
    benchmark = BENCHMARKS["MathVision"]()
    wrong, unread, count = [], 0, 0
    for number, asked in enumerate(mathvision_choices()[::STRIDE]):
        letter = "ABCDE"[number % len(asked.options)]
        for form in LETTER_FORMS:
            count += 1
            read = benchmark.grade(asked, form.format(letter)).extracted_answer
            unread += read is None
            if read not in (None, letter):
                wrong.append((form, letter, read, dict(asked.options)))
    assert wrong == []
    assert unread == 0, f"{unread} of {count}"


def free_form_golds():
    path = REAL / "mathverse" / "testmini_text_only.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    golds = [("MathVerse-VO", row["answer"].strip()) for row in entries if row["question_type"] == "free-form"]
    golds += [("MathVision", row["answer"]) for row in rows("mathvision/test.jsonl") if not row["options"]]
    return list(dict.fromkeys(golds))


def test_golds_as_the_last_line_are_accepted():
    golds = free_form_golds()
    missed = []
    for benchmark, gold in golds:
        asked = question(benchmark, gold, answer_type="expression")
        for response in (f"We look at the picture.\n\n{gold}", f"Answer: {gold}", rf"\boxed{{{gold.strip('$')}}}"):
            if "\n" in gold and not response.startswith("\\boxed"):
                continue  # a last line is one line
            if not BENCHMARKS[benchmark]().grade(asked, response).is_correct:
                missed.append((gold, response))
    assert len(golds) > 400
    assert missed == []


def test_mmmu_golds_are_accepted():
    path = REAL / "mmmu" / "answer_dict_val.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    open_golds = [row["ground_truth"] for row in entries.values() if row["question_type"] != "multiple-choice"]
    texts = [text for gold in open_golds for text in (gold if isinstance(gold, list) else [gold])]
    texts = [item for text in texts for item in (ast.literal_eval(text) if text.startswith("['") else [text])]
    assert [text for text in texts if not answers_equal(text, text)] == []
