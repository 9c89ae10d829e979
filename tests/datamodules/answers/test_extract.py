"""Final answers and option letters: hand-worked verdicts."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.answers.extract import (
    ExtractedAnswer,
    clean,
    extract_final_answer,
)


@pytest.mark.parametrize(
    ("response", "text", "status"),
    [
        (r"Steps.\n\nAnswer: \boxed{42}", "42", "boxed"),
        (r"First \boxed{1}, then \boxed{2}.", "2", "boxed"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "boxed"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right.", "boxed"),
        (r"\boxed{\text{B}}", "B", "boxed"),
        (r"\boxed{\textbf{B}}.", "B", "boxed"),
        (r"\boxed{5 \text{ cm}}", r"5   cm", "boxed"),
        (r"\fbox{7}", "7", "boxed"),
        (r"$\boxed 5$ is it", "5", "boxed"),
        (r"So \boxed{3} but then \boxed{\frac{1", "3", "boxed"),
        (r"\boxed{\boxed{3}}", "3", "boxed"),
        (r"\boxed{3} and $\boxed{x^{2}}$", "3, x^{2}", "boxed"),
        (r"\boxed{3} + 2 = \boxed{5}", "5", "boxed"),
        ("\\boxed{3}\n\nThe final answer is 4.", "4", "marker"),
        ("\\boxed{3}\n\nThe final answer is in metres.", "3", "boxed"),
        ("The final answer is 4.\n\n\\boxed{3}", "3", "boxed"),
        ("\\boxed{3} <answer>4</answer>", "4", "tag"),
        ("<think>5</think>", "5", "last_line"),
        ("<think>\\boxed{5}</think> 6", "6", "last_line"),
        (r"\boxed{} The answer is 8.", "8", "marker"),
        ("think <answer>B</answer>", "B", "tag"),
        ("<answer> 3 </answer> <answer>4</answer>", "4", "tag"),
        ("The final answer is: **12**.", "12", "marker"),
        ("The answer is 5. This follows from the sum.", "5", "marker"),
        ("Answer: 3\nAnswer: 4", "4", "marker"),
        ("**Final Answer**\n\n(C)", "(C)", "marker"),
        ("The answer is:\n\n$x = 2$", "x = 2", "marker"),
        ("The correct option is B.", "B", "marker"),
        ("We look for the answer to this.\n\nIt is 14", "14", "last_line"),
        ("2 + 3 = 5", "5", "last_line"),
        ("So the total is 42.\n\n", "42", "last_line"),
        ("Paris", "Paris", "last_line"),
        ("", "", "none"),
        (" \n\t\n", "", "none"),
        (r"\boxed{", r"\boxed{", "last_line"),
    ],
)
def test_final_answer(response, text, status):
    assert extract_final_answer(response) == ExtractedAnswer(text, status)


def test_a_sentence_in_the_last_line_is_no_short_answer():
    cut = "This line goes on about the triangle and never comes to an end"
    assert extract_final_answer(cut).short_text is None
    assert extract_final_answer(f"Answer: {cut}").short_text == cut
    assert extract_final_answer("").short_text is None


@given(st.text(alphabet="ab\\{}$*\"'. text()1", max_size=40))
def test_clean_is_idempotent(text):
    assert clean(clean(text)) == clean(text)


@given(st.text(max_size=200))
def test_any_response_gives_an_answer(response):
    extracted = extract_final_answer(response)
    assert (extracted.status == "none") == (extracted.text == "")


@given(st.integers(), st.text(alphabet="xyz \n{}", max_size=30))
def test_a_box_wins_over_what_is_around_it(number, noise):
    balanced = noise.replace("{", "").replace("}", "")
    response = f"Answer: 1\n{balanced}\\boxed{{{number}}}\n{noise}"
    assert extract_final_answer(response).text == str(number)


@pytest.mark.parametrize("piece", ["\\boxed{", "\\text{", "<answer>", "answer is ", "\n", "= ", "{", "\\"])
def test_degenerate_repetition_stays_fast(piece):
    began = time.process_time()
    extract_final_answer(piece * 5000)
    assert time.process_time() - began < 5.0
