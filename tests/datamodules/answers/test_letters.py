"""Option letters in cuts: hand-worked verdicts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples

from datamodules.answers.letters import extract_letters, extract_option


@pytest.mark.parametrize(
    ("answer", "letters"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B.", "B"),
        ("**C**", "C"),
        ("B, D", "BD"),
        ("B and D", "BD"),
        ("BD", "BD"),
        ("(A), (C)", "AC"),
        ("Options A and C", "AC"),
        ("B. 12 cm", "B"),
        ("B) 12 cm", "B"),
        ("C: the third", "C"),
        ("B, because it is larger", "B"),
        ("the option (B)", "B"),
        ("option B looks right", "B"),
        ("so it must be, B", "B"),
        ("A triangle", ""),
        ("A = 5", ""),
        ("I think so", ""),
        ("f(A)", ""),
        ("vitamin A", ""),
        ("BEACHED", ""),
        ("ABCDE", ""),
        ("12", ""),
        ("J", ""),
        ("", ""),
    ],
)
def test_letters(answer, letters):
    assert extract_letters(answer, "ABCDEFGHI") == frozenset(letters)


@given(st.sets(st.sampled_from("ABCDEFGHI"), min_size=1), st.sampled_from([", ", " and ", ",", " ", "; "]))
@settings(max_examples=examples(60))
def test_separated_letters_are_all_found(letters, separator):
    assert extract_letters(separator.join(sorted(letters)), "ABCDEFGHI") == frozenset(letters)


OPTIONS = {"A": "40°", "B": "60 cm", "C": "No correct answer", "D": "vitamin A"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("D.", "D"),
        ("60 cm", "B"),
        ("60cm", "B"),
        (r"40^\circ", "A"),
        ("no correct answer", "C"),
        ("vitamin A", "D"),
        ("B 60 cm", "B"),
        ("B. 60 cm", "B"),
        ("A or B", None),
        ("E", None),
        ("60", "B"),
        ("40", "A"),
        ("60 m", None),
        ("41", None),
        ("", None),
    ],
)
def test_option_by_letter_text_or_number(answer, letter):
    assert extract_option(answer, OPTIONS, "ABCD") == letter


def test_option_texts_that_are_letters_or_repeat_are_not_confused():
    assert extract_option("B", {"A": "B", "B": "A"}, "AB") == "B"
    assert extract_option("b", {"A": "b", "B": "a"}, "AB") == "A"
    assert extract_option("7", {"A": "7", "B": "7"}, "AB") is None


def test_a_number_that_two_options_have_names_none():
    assert extract_option("5", {"A": "5 cm", "B": "5 m", "C": "6 m"}, "ABC") is None
    assert extract_option("6", {"A": "5 cm", "B": "5 m", "C": "6 m"}, "ABC") == "C"
