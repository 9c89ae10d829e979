"""Questions with and without the instructions that policies are asked with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.conversation.instructions import (
    INSTRUCTIONS,
    SHORT_ANSWER_INSTRUCTIONS,
    with_template,
    without_instruction,
)

QUESTIONS = st.text(st.characters(blacklist_characters="<{"), min_size=1).map(str.strip).filter(bool)


@pytest.mark.parametrize("name", INSTRUCTIONS)
@given(question=QUESTIONS, images=st.sampled_from(["", "<image>\n", "<image>", "<image>\n<image>\n"]))
def test_a_question_comes_back_out_of_every_template(name: str, question: str, images: str) -> None:
    asked = with_template(images + question, INSTRUCTIONS[name])
    assert asked.startswith(images)
    assert without_instruction(asked) == images + question


def test_released_texts_are_read_without_their_instructions() -> None:
    r"""Written out as the released pipeline makes them: `<image>\n`, then the template with the question in it."""
    final_answer = (
        "<image>\nYour task is to answer the question below. Give step by step reasoning before you answer, and when "
        'you\'re ready to answer, please use the format "Final answer: .."\n\nQuestion:\n\nHow many bars are there?'
    )
    assert without_instruction(final_answer) == "<image>\nHow many bars are there?"
    boxed = (
        "<image>\nHow many bars?\nAnswer the preceding question. The last line of your response should follow this "
        "format: 'Answer: \\boxed{$FINAL_ANSWER}' (without quotes), where 'FINAL_ANSWER' is your conclusion based on "
        "the reasoning provided. If you are uncertain or the problem is too complex, make a reasoned guess based on "
        "the information provided. Avoid repeating steps indefinitely—provide your best guess even if unsure. Think "
        "step by step logically, considering all relevant information before answering."
    )
    assert without_instruction(boxed) == "<image>\nHow many bars?"


@pytest.mark.parametrize("ending", SHORT_ANSWER_INSTRUCTIONS)
def test_requests_for_short_answers_are_left_out(ending: str) -> None:
    assert without_instruction(f"Is it red?\n{ending}") == "Is it red?"
    assert without_instruction(ending) == ending  # nothing would be left


@pytest.mark.parametrize("question", ["How many?", " How many? ", "<image>\n How many?\n", "Question:\n\nWhat?"])
def test_other_questions_are_not_changed(question: str) -> None:
    assert without_instruction(question) == question


@pytest.mark.parametrize("template", ["Think.", "{question}{question}"])
def test_a_template_holds_the_question_once(template: str) -> None:
    with pytest.raises(ValueError, match="once"):
        with_template("How many?", template)
