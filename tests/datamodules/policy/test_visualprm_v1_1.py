"""The released annotation's answer check: verdicts worked out by hand from a description of it."""

import logging

import pytest

from datamodules.policy.prompt_rows import read_prompts
from datamodules.policy.visualprm_v1_1 import checks_of, grade_as_released, has_inverted_check

LONG = "We look at the picture, and find it there. "


def is_right(gold, source, answer):
    return grade_as_released(gold, source)(f"{LONG}\\boxed{{{answer}}}").is_correct


@pytest.mark.parametrize(
    ("source", "gold", "answer", "verdict"),
    [
        # Charts and some geometry: within 5 %.
        ("chartqa_trainval_30k", "100", "104.9", True),
        ("chartqa_trainval_30k", "100", "105.1", False),
        ("chartqa_trainval_30k", "12%", "12.5", True),
        ("chartqa_trainval_30k", "2010", "2011", False),  # a year
        ("chartqa_trainval_30k", "Yes", "yes", True),
        ("chartqa_trainval_30k", "red", "the red", False),  # no words there
        ("geos_en_20240402", "100", "104.9", True),
        ("geometry3k", "100", "104.9", True),
        ("CLEVR_math_en", "100", "104.9", True),
        # Others: 0.1 %, some units aside.
        ("ai2d", "1000", "1000.9", True),
        ("ai2d", "1000", "1002", False),
        ("ai2d", "40°", "40 degrees", True),
        ("ai2d", "12 cm", "12", True),
        ("ai2d", "12 m", "12 s", True),  # math-verify compares the numbers that it finds
        ("ai2d", "12 m", "13 m", False),
        ("chartqa", "0", "0.0001", False),  # no share of nothing
        # Words.
        ("vqa", "two dogs", "The 2 dogs.", True),
        ("vqa", "none", "0", True),
        ("vqa", "don't know", "dont know", True),
        ("vqa", "red/blue", "red blue", True),
        ("vqa", "cat", "concatenate", False),
        ("vqa", "?", "!", False),  # nothing but punctuation
        # Options.
        ("ai2d", "B", "(B) the wolf", True),
        ("ai2d", "b", "B. the wolf", True),
        ("ai2d", "B", "C", False),
        ("ai2d", "B", "Because", False),
        # Mathematics.
        ("ai2d", r"\frac{1}{2}", "0.5", True),
        ("ai2d", r"$2\sqrt{3}$", r"\sqrt{12}", True),
        ("ai2d", r"2\sqrt{3}", r"3\sqrt{2}", False),
        # Documents: the edit distance in place of the similarity.
        ("docvqa_train", "Smith", "Smith", True),
        ("docvqa_train", "Smith", "Smyth", False),
        ("docvqa_train", "Smith", "zzzzzzzz", True),
        ("infographics_vqa", "Smith", "qqqqq", True),
    ],
)
def test_checks(source, gold, answer, verdict):
    assert is_right(gold, source, answer) is verdict


@pytest.mark.parametrize(
    ("response", "verdict", "status"),
    [
        (r"\boxed{12} so it is", False, "none"),  # twenty characters at most
        (r"\boxed{3} no, rather \boxed{12}", True, "boxed"),
        (r"Long enough: \boxed{\frac{24}{2}}", True, "boxed"),
        (r"Long enough, but \boxed{12", False, "response"),  # braces that do not close: the whole response
        ("It is 12, or so it would seem to be.", True, "response"),  # math-verify finds it
        ("It is 13, or so it would seem to be.", False, "response"),
    ],
)
def test_where_the_answer_is(response, verdict, status):
    grade = grade_as_released("12", "ai2d")(response)
    assert (grade.is_correct, grade.status) == (verdict, status)


def test_sources_by_the_words_in_their_names():
    assert checks_of("docvqa_train_10k") == ("edit distance",)
    assert checks_of("mmpr_geometry3k")[0] == "within 5 %"
    assert checks_of("GEOS") == checks_of("anything")  # words are compared with their case
    assert [has_inverted_check(source) for source in ("docvqa", "infographics", "chartqa")] == [True, True, False]


def test_prompts_are_graded_by_their_source(tmp_path, write_lines, caplog):
    rows = [
        {"question": "q", "answer": "100", "source": "chartqa"},
        {"question": "q", "answer": "100", "source": "ai2d"},
        {"question": "q", "answer": "Smith", "source": "docvqa"},
    ]
    path = write_lines(tmp_path / "prompts.jsonl", rows)
    response = f"{LONG}\\boxed{{104}}"
    with caplog.at_level(logging.WARNING):
        assert [prompt.grade(response).is_correct for prompt in read_prompts(path)] == [False, False, False]
        assert not caplog.records
        prompts = read_prompts(path, grading="visualprm_v1_1")
    assert [prompt.grade(response).is_correct for prompt in prompts[:2]] == [True, False]
    assert "takes answers of docvqa (1 prompts) for right that are unlike the gold answer" in caplog.text
    with pytest.raises(ValueError, match="grading must be one of ours, visualprm_v1_1, got 'theirs'"):
        read_prompts(path, grading="theirs")
