"""Equality of final answers: hand-worked verdicts and properties."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples

from datamodules.answers.compare import answers_equal

EQUAL = [
    ("42", "42"),
    ("42.0", "42"),
    ("1,000", "1000"),
    (r"1{,}000", "1000"),
    ("1/2", "0.5"),
    (r"\dfrac{1}{2}", r"\frac12"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"$\frac{\sqrt{3}}{2}$", r"\sqrt{3}/2"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    ("2π", r"2\pi"),
    (r"\frac{2\pi}{3}", "2.0943951"),
    ("50\\%", "50"),
    (r"90^\circ", "90"),
    ("5 cm", "50 mm"),
    ("x=5", "5"),
    ("5", "x = 5"),
    ("x = 5", "x = 5.0"),
    ("y = 2x+1", "1+2x"),
    (r"\angle ABC = 40°", "40"),
    ("(1, 2)", "(1,2)"),
    ("(1/2, 3)", "(0.5, 3.0)"),
    ("[0, 1)", "[0,1)"),
    (r"\left(0, \frac{1}{2}\right]", "(0, 0.5]"),
    ("1, -2", "-2, 1"),
    ("x = 1 or x = 2", "2, 1"),
    (r"\{1, 2\}", r"\{2, 1\}"),
    (r"\{1, 2\}", "1, 2"),
    ("2x", "x*2"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"x \le 3", r"x \leq 3"),
    ("Sep", "sep"),
    (r"\text{Yes}", "yes."),
    ("the red car", "Red car"),
    ("B", "b"),
    ("red,  blue", "blue, red"),
    ("3 million", "3000000"),
    ("3k", "3,000"),
    ("twenty-one", "21"),
    ("two thousand and five", "2005"),
    ("second", "2"),
    ("4th", "4"),
    ("three quarters", "0.75"),
    ("10:30 a.m.", "10:30 am"),
    ("10:30", "10:30 pm"),
    ("3 : 4 : 5", "3:4:5"),
    ("7:32", "S_{MN}:S=7:32"),
    (r"\frac{AB}{CD}=\frac{1}{2}", "0.5"),
    (r"\sin 30^\circ", r"\frac12"),
    (r"\infty", "infinity"),
    ("5=s", "5"),
    ("=7/4", r"\frac{7}{4}"),
    ("x^2+(y+4)^2=16", "x^2+(y+4)^2=4^2"),
    ("2x+4y=6", "x = 3 - 2y"),
    ("p=5,q=2;p=7,q=2", "(5,2),(7,2)"),
    ("4.40米", "4.4 m"),
    (r"1 + \frac{1}{\mathrm{e}}", r"\frac{1}{e} + 1"),
    ("x = 1 + 2 = 3", "3"),
]

DIFFERENT = [
    ("42", "43"),
    ("0.333", "1/3"),
    ("2x", "2"),
    ("x^2", "x^3"),
    ("(1,2)", "(2,1)"),
    ("[1,2)", "[1,2]"),
    ("(1,2)", "(1,2,3)"),
    ("1, 1, 2", "1, 2, 2"),
    ("5 m", "5 cm"),
    ("5!", "5"),
    ("1/0", "1"),
    ("A", "B"),
    ("cat", "dog"),
    ("reading", "read"),
    ("a b", "b"),
    ("1 2", "12"),
    ("2 1/2", "21/2"),
    ("x = 5", "y = 5"),
    ("24/7", "3.429"),
    ("", "5"),
    ("5", ""),
    ("", ""),
    ("__import__('os').getcwd()", "5"),
    ("9^{9^{9^9}}", "5"),
    ("10:30 am", "10:30 pm"),
    ("1:05", "2:10"),
    ("2:4", "1:2"),
    ("3 million", "3"),
    ("3 million", "3 billion"),
    ("n!", "n"),
    ("f'(x)=2x", "f(x)=2x"),
    (r"\sum_{k=1}^{n} k", r"\sum_{k=1}^{n} k^2"),
    (r"\prod_{k=1}^{n} k", r"\prod_{k=1}^{n} 2k"),
    (r"\int_0^1 x dx", r"\int_0^1 x^2 dx"),
    (r"1 + \frac{1}{\mathrm{e}}", r"1 - \frac{1}{\mathrm{e}}"),
    (r"1:4:9:\ldots", r"1:2:3:\ldots"),
    ("1+2+\\ldots+n", "1+3+\\ldots+n"),
    ("1011_2", "1011_3"),
    ("x^2+y^2=1", "1"),
    ("x+z=1", "1"),
    ("x^2+y^2=1", "x^2+y^2=2"),
    ("5x cm", "5x km"),
    (r"x \equiv 1 \pmod 3", r"x \equiv 2 \pmod 3"),
    ("x = 3 or 4", "3"),
    ("5-2-3", "5-3-2"),
]


@pytest.mark.parametrize(("prediction", "gold"), EQUAL)
def test_equal(prediction, gold):
    assert answers_equal(prediction, gold)
    assert answers_equal(gold, prediction)


@pytest.mark.parametrize(("prediction", "gold"), DIFFERENT)
def test_different(prediction, gold):
    assert not answers_equal(prediction, gold)
    assert not answers_equal(gold, prediction)


@given(st.text(min_size=1, max_size=30))
@settings(max_examples=examples(200), deadline=None)
def test_an_answer_that_is_more_than_decoration_equals_itself(text):
    if any(character.isalnum() for character in text.replace("a", "")) and "\\" not in text:
        assert answers_equal(text, text)


@given(st.fractions(max_denominator=60, min_value=-1000, max_value=1000), st.integers(1, 9))
@settings(max_examples=examples(200), deadline=None)
def test_fractions_equal_their_multiples_and_nothing_near(value, factor):
    written = f"{value.numerator * factor}/{value.denominator * factor}"
    assert answers_equal(written, rf"\frac{{{value.numerator}}}{{{value.denominator}}}")
    assert not answers_equal(f"{value.numerator + 1}/{value.denominator}", written)


@given(st.permutations([r"\frac{1}{2}", "3", "x", "-7.5"]))
@settings(max_examples=examples(24), deadline=None)
def test_order_counts_in_tuples_only(items):
    original = r"0.5, 3, x, -7.5"
    assert answers_equal(", ".join(items), original)
    in_order = list(items) == [r"\frac{1}{2}", "3", "x", "-7.5"]
    assert answers_equal(f"({', '.join(items)})", f"({original})") is in_order


@pytest.mark.parametrize(
    "text", ["(" * 400 + "1,2" + ")" * 400, "[" * 300 + ",", "1," * 400, "-" * 900, "{" * 999, "1" * 900]
)
def test_hostile_answers_are_harmless_and_fast(text):
    began = time.process_time()
    assert not answers_equal(text, "5")
    assert not answers_equal(text, "(5, 6)")
    assert time.process_time() - began < 5.0


def test_long_answers_are_compared_as_text():
    assert answers_equal("word " * 500, "word  " * 500)
    assert not answers_equal("word " * 500, "word " * 501)
