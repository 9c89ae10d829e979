"""The rules of reading: their values, and questions with and without instructions."""

import pytest

from datamodules.conversation.instructions import INSTRUCTIONS, with_template
from datamodules.conversation.reading_rules import ReadingRules


@pytest.mark.parametrize("name", ["question_text", "pictures", "white_space", "past_verdicts"])
def test_unknown_values_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'other'"):
        ReadingRules(**{name: "other"})


def test_the_question_that_is_read():
    asked = with_template("How many?", INSTRUCTIONS["final_answer"])
    assert ReadingRules(question_text="as_asked").question(asked, "How many?") == asked
    assert ReadingRules(question_text="as_asked").question("How many?") == "How many?"
    assert ReadingRules(question_text="bare").question(asked, "How many?") == "How many?"
    assert ReadingRules(question_text="bare").question(asked) == "How many?"
