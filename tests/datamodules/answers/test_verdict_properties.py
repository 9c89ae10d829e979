"""Properties of verdicts: wrappings and reasoning change nothing, and no text raises."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples
from verdict_cases import ROADS, grade

from datamodules.answers.compare import answers_equal
from datamodules.answers.extract import extract_final_answer
from datamodules.answers.letters import extract_letters
from datamodules.answers.numeric import numeric_answer
from datamodules.answers.vote import equivalence_classes

FRACTIONS = st.tuples(st.integers(-40, 40), st.integers(1, 40))
# (kind of answer, right answer, the same answer written by a policy)
ANSWERS = st.one_of(
    st.integers(-(10**9), 10**9).map(lambda n: ("free", str(n), f"{n:,}")),
    st.integers(0, 500).map(lambda n: ("integer", str(n), f"{n}.0")),
    st.decimals(-99, 99, places=2).map(lambda d: ("free", str(d), str(d))),
    st.integers(0, 99).map(lambda n: ("float1", f"{n}.2", f"{n}.2")),
    FRACTIONS.map(lambda f: ("free", f"{f[0]}/{f[1]}", rf"\frac{{{f[0]}}}{{{f[1]}}}")),
    st.integers(2, 40).map(lambda n: ("free", rf"{n}\sqrt{{3}}", rf"{n}\sqrt{{3}}")),
    st.integers(1, 20).map(lambda n: ("free", rf"\frac{{{n}\pi}}{{7}}", rf"\dfrac{{{n}\pi}}{{7}}")),
    st.integers(1, 180).map(lambda n: ("free", str(n), rf"{n}^\circ")),
    st.integers(1, 99).map(lambda n: ("free", f"{n} cm", rf"{n} \text{{ cm}}")),
    st.integers(1, 99).map(lambda n: ("free", rf"{n}\%", rf"{n}\%")),
    st.sampled_from("ABCDEFGHI").map(lambda letter: ("letter", letter, letter)),
    st.sampled_from("ABCDEFGHI").map(lambda letter: ("letter", letter, f"({letter})")),
    st.sets(st.sampled_from("ABCDE"), min_size=1, max_size=3).map(
        lambda letters: ("letters", ", ".join(sorted(letters)), ", ".join(sorted(letters)))
    ),
    st.lists(st.integers(-9, 9), min_size=2, max_size=4).map(lambda items: ("list", str(items), str(items))),
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map(lambda pair: ("free", str(pair), str(pair))),
    st.sampled_from(["north", "isosceles triangle", "Sep", "yes"]).map(lambda word: ("free", word, word.capitalize())),
)
WRAPPINGS = st.sampled_from(
    [
        r"\boxed{%s}",
        r"$\boxed{%s}$.",
        r"Answer: \boxed{%s}",
        r"**Answer:** \(\boxed{%s}\)",
        "\\[\n\\boxed{%s}\n\\]",
        "Answer: %s",
        "**Answer**: %s",
        "The answer is %s.",
        "Therefore, the final answer is **%s**.",
        "The correct answer is: $%s$",
        "Final Answer: %s",
        "### Final Answer\n\n%s",
        "The final answer is:\n$$\n%s\n$$",
        "<answer>%s</answer>",
        "<think>It could be 3 or \\boxed{-77}.</think>\n<answer> %s </answer>",
    ]
)
WRONG = {"free": "31.4159", "integer": "77777", "float1": "777.7", "letters": "F, G", "list": "[10, 20]"}

SENTENCES = st.sampled_from(
    [
        "Let us look at the picture.",
        "A triangle has three sides, so A + B + C = 180.",
        "The answer is not obvious.",
        "I first thought the answer is C.",
        "Option (B) looks right because 3 < 4.",
        r"Half of it is \boxed{-77}, which helps.",
        "Answer: 12345?",
        "<answer>maybe</answer> was my first try.",
        r"We have $x = \frac{1}{2}$ and {braces} that \{stay\} balanced.",
        "Is it 5 cm? The final answer is 6 cm, or so it seems.",
        "#### 99",
        '{"short answers": 3}',
        "答案是 D 吗？",
    ]
)
REASONING = st.lists(SENTENCES, max_size=6).flatmap(
    lambda sentences: st.sampled_from(["\n\n", "\n", " "]).map(lambda separator: separator.join(sentences))
)


def wrong(kind, gold):
    return WRONG[kind] if kind != "letter" else "ABCDEFGHIA"["ABCDEFGHI".index(gold) + 1]


@given(ANSWERS, WRAPPINGS)
@settings(max_examples=examples(400), deadline=None)
def test_a_correct_answer_stays_correct_in_the_usual_wrappings(answer, wrapping):
    kind, gold, written = answer
    assert grade(kind, gold, wrapping % written).is_correct


@given(ANSWERS, WRAPPINGS)
@settings(max_examples=examples(200), deadline=None)
def test_a_wrong_answer_stays_wrong_in_them(answer, wrapping):
    kind, gold, _ = answer
    assert not grade(kind, gold, wrapping % wrong(kind, gold)).is_correct


@given(ANSWERS, WRAPPINGS, REASONING, st.booleans())
@settings(max_examples=examples(400), deadline=None)
def test_reasoning_before_the_final_answer_never_changes_the_verdict(answer, wrapping, reasoning, is_right):
    kind, gold, written = answer
    final = wrapping % (written if is_right else wrong(kind, gold))
    alone, after = grade(kind, gold, final), grade(kind, gold, f"{reasoning}\n\n{final}")
    assert alone == after


@given(ANSWERS, st.text(max_size=200).filter(lambda text: "\\" not in text and "<" not in text))
@settings(max_examples=examples(200), deadline=None)
def test_arbitrary_text_before_a_box_never_changes_the_verdict(answer, text):
    kind, gold, written = answer
    assert grade(kind, gold, f"{text}\n\\boxed{{{written}}}").is_correct


PIECES = st.sampled_from(
    [
        *r"\frac \sqrt \boxed{ \text{ \left( \right] { } ( ) [ ] ^ _ ! % $ , ; : = < > | & ~ \\ \pm \in \cup".split(),
        *r"\begin{pmatrix} \end{pmatrix} \overline{ \sum_{n=1} \int \lim_{x\to0} 9 99 1e9 -1 0 x y e i pi B".split(),
        *"° ½ ² √ sqrt cm".split(),
        "\ud800",
        "\0",
        " ",
    ]
)
ARBITRARY = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=10).map("".join))


@given(ARBITRARY, ARBITRARY)
@settings(max_examples=examples(500), deadline=None)
def test_comparison_never_raises_and_an_empty_answer_equals_nothing(first, second):
    assert answers_equal(first, second) in (True, False)
    assert not answers_equal("", second)
    assert not answers_equal(first, "")
    assert len(equivalence_classes([first, None, second])) == 3
    numeric_answer(first)
    extract_letters(first, "ABCD")


@pytest.mark.parametrize("kind", sorted(ROADS))
@given(st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=12).map("".join)))
@settings(max_examples=examples(60), deadline=None)
def test_grading_never_raises(kind, response):
    gold = {"choice": "B", "letter": "B", "letters": "B, D", "list": "[1, 2]", "text": "Yes", "word": "Sep"}.get(
        kind, "12"
    )
    verdict = grade(kind, gold, response)
    assert verdict.extracted_answer is not None or not verdict.is_correct
    assert extract_final_answer(response).text or verdict.extracted_answer is None
