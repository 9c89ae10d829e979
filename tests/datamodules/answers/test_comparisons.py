"""Comparisons in words, tried on two numbers that they are about."""

from itertools import product

import pytest

from datamodules.answers.comparisons import agrees, comparison

PAIRS = [("more", "fewer"), ("greater", "less"), ("higher", "lower"), ("longer", "shorter"), ("older", "younger")]
BASE = {word: sign for pair in PAIRS for word, sign in zip(pair, (1, -1), strict=True)}


def holds(comparative, first, second):
    """Whether what is said of two numbers is true."""
    return (first - second) * BASE[comparative] > 0


@pytest.mark.parametrize(("comparatives", "is_swapped"), product(PAIRS, (False, True)))
def test_a_verdict_is_true_of_all_numbers_of_which_what_was_said_is(comparatives, is_swapped):
    names = ("plum", "pear")
    for asked_word, said_word in product(comparatives, comparatives):
        asked = comparison([names[0], asked_word, "than", names[1]])
        first, second = names[::-1] if is_swapped else names
        verdict = agrees(comparison([first, said_word, "than", second]), asked)
        for plums, pears in product(range(3), range(3)):
            said_of = (pears, plums) if is_swapped else (plums, pears)
            if holds(said_word, *said_of):
                assert verdict is holds(asked_word, plums, pears)


@pytest.mark.parametrize(
    "words",
    [
        "plum more pear",
        "more than pear",
        "plum more than",
        "plum red than pear",
        "plum more than pear than fig",
        "more plum fewer fig than pear",
        "number more than number",
    ],
)
def test_no_comparison(words):
    assert comparison(words.split()) is None


@pytest.mark.parametrize(
    ("said", "asked", "verdict"),
    [
        ("more plum than pear", "number plum greater than number pear", True),
        ("number pear less than number plum", "more plum than pear", True),
        ("more red ball box than cube", "more cube box than red ball", False),
        ("more red ball bag than cube", "more cube box than red ball", None),
        ("value lima higher than oslo", "lima higher value than oslo", True),
        ("lima higher value than oslo", "lima higher rank than oslo", None),
        ("cat dog more than bird fly", "dog cat fly more than bird", None),
        ("plum heavier than pear", "plum longer than pear", None),
        ("plum shorter than pear", "plum taller than pear", False),
    ],
)
def test_agreement(said, asked, verdict):
    assert agrees(comparison(said.split()), comparison(asked.split())) is verdict
