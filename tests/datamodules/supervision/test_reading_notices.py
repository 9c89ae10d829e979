"""What a model does not read as it stands in the rows is said, and a system turn can be taken from them."""

import pytest

from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.instructions import INSTRUCTIONS, with_template
from datamodules.conversation.reading_rules import ReadingRules
from datamodules.supervision.reading_notices import report_reading, system_prompt_of
from datamodules.supervision.rows import read_rows

FIRST = "### Question:\nHow many?\n\n### Solution Process:\nI see two."


def conversation_row(system=None, first=FIRST):
    turns = [("human", first), ("gpt", "+"), ("human", "So 3."), ("gpt", "-")]
    turns = [("system", system), *turns] if system is not None else turns
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


@pytest.fixture
def read(tmp_path, pictures, write_lines):
    def make(lines):
        return read_rows([write_lines(tmp_path / "rows.jsonl", lines)], cache_dir=tmp_path / "cache")

    return make


@pytest.fixture
def encoder_with(tiny_processor):
    def make(system_prompt="Judge.", **rules):
        return ConversationEncoder(tiny_processor, system_prompt, ("+", "-"), rules=ReadingRules(**rules))

    return make


def test_questions_with_an_instruction(read, raw_row, encoder_with, caplog):
    asked = with_template("<image>\nHow many?", INSTRUCTIONS["boxed"])
    table = read([raw_row(question=asked, question_orig="How many?"), raw_row(question=asked), raw_row()])
    assert table["question"][:2] == [asked, asked]
    assert table["question_bare"][:] == ["How many?", "<image>\nHow many?", "How many digits are larger than 4?"]
    report_reading(table, "rows", encoder_with(question_text="bare"))
    assert "2 of 3 questions come with the instruction" in caplog.text
    assert "rows.jsonl:1" in caplog.text
    caplog.clear()
    report_reading(table, "rows", encoder_with(question_text="as_asked"))
    assert "1 of 3 questions come without an instruction" in caplog.text
    assert "rows.jsonl:3" in caplog.text


def test_an_original_question_with_other_images_is_not_taken(read, raw_row):
    (row,) = read([raw_row(question="How many?", question_orig="<image> and <image>: how many?")])
    assert row["question_bare"] == "How many?"


def test_a_system_turn_is_taken_or_its_replacement_is_said(read, encoder_with, caplog):
    table = read([conversation_row("You check.")] * 2)
    assert system_prompt_of(table) == "You check."
    report_reading(table, "rows", encoder_with("You check."))
    assert "system" not in caplog.text
    report_reading(table, "rows", encoder_with("Judge."))
    assert (
        "2 of 2 rows have a system turn of their own, which the model's system prompt 'Judge.' replaces" in caplog.text
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([conversation_row("a"), conversation_row("b")], "2 different system turns.*rows.jsonl:2"),
        ([conversation_row("a"), conversation_row()], "1 of 2 rows have no system turn .*rows.jsonl:2"),
    ],
)
def test_rows_without_one_common_system_turn(read, lines, message):
    with pytest.raises(ValueError, match=message):
        system_prompt_of(read(lines))


def test_blank_steps(read, raw_row, encoder_with, caplog):
    """The released annotator keeps blank pieces; by our rules they and their scores are left out, and counted."""
    steps = [
        {"step": "\n", "score": 1.0, "num_mc_correct": 4, "num_mc_total": 4},
        {"step": "First.", "score": 0.75, "num_mc_correct": 3, "num_mc_total": 4},
        {"step": "", "score": 0.5},
    ]
    table = read([raw_row(), raw_row(steps_with_score=steps)])
    report_reading(table, "rows", encoder_with())
    assert "2 blank steps in 1 of 2 rows joined their neighbours" in caplog.text
    assert "rows.jsonl:2" in caplog.text
    caplog.clear()
    report_reading(table, "rows", encoder_with(white_space="released"))
    report_reading(read([raw_row()]), "rows", encoder_with())
    assert "blank" not in caplog.text
