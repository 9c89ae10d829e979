r"""The rules by which the authors of MATH-Vision read a response and compare it with the gold answer.

Their script rewrites the answer in a fixed order of replacements and then compares values; all text that it looks at is
in lower case. Nothing is evaluated as code here: :func:`value_of` understands the arithmetic that their LaTeX parser
gives a number for, and nothing else has a value.
"""

from __future__ import annotations

import re

from datamodules.benchmarks.latex_value import value_of

LETTERS = "ABCDE"
"""The letters that are looked for at the ends of a response."""

_LEADS = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
_BOX = re.compile(r"oxed\{(.*)\}", re.DOTALL)
_PLAIN_FRACTION = re.compile(r"(-?\d+)/(-?\d+)")
_REMOVED = (" ", r"\,")
_BEFORE_SPELLING = (
    ("∞", r"\infty"),
    (r"+\infty", r"\infty"),
    ("\\\\", "\\"),
    ("\n", ""),
    (r"\text", ""),
    (r"\mbox", ""),
    ("bmatrix", "pmatrix"),
    (r"\left", ""),
    (r"\right", ""),
    (r"^{\circ}", ""),
    (r"^\circ", ""),
    ("{m}^3", ""),
    ("m^3", ""),
    ("{units}", ""),
    ("units", ""),
    ("{km}", ""),
    ("km", ""),
)
_SPELLING = (
    (r"\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    (r"\$", ""),
    ("$", ""),
    (r"\%", ""),
    ("{.", "{0."),
)


def short_answer(response: str) -> str:
    """The answer that the script keeps of a response (``model_answer`` of the released files), in lower case.

    An option letter at the very beginning or end stands for the whole response; a number behind the last "is" likewise.
    Without a box, what follows "the answer is" and its like counts, up to the end of the line or sentence; with several
    boxes the last one. A box reaches to the last brace of the text.
    """
    text = _letter_at_an_end(response.strip())
    tail = text.split("is ")[-1].rstrip(".")
    if _is_python_number(tail):
        text = tail
    if "oxed{" not in text:
        for lead in _LEADS:
            for spelling in (lead, lead.replace("the", "The")):
                found = spelling in text
                text = text.split(spelling)[-1].strip()
                if found:
                    text = text.split("\n")[0].split(". ")[0]
    elif text.count("oxed{") > 1:
        text = r"\boxed{" + text.split("oxed{")[-1]
    text = _spelled(_inside_box(text.lower().replace("{}", "")))
    for letter in LETTERS.lower():
        text = text.replace(f"({letter})", letter)
    for letter in LETTERS.lower():
        text = text.replace(f"{{{letter}}}", letter)
    return text.rstrip(".").lstrip(":").strip()


def is_equal(gold: str, answer: str) -> bool:
    """Whether an answer is the gold answer as text, or has its value, both rounded to two decimals.

    Tuples and lists are compared as text after each item was rounded, too. What is empty equals nothing.
    """
    gold, answer = gold.lower(), answer.lower()
    if not gold.replace(" ", "") or not answer.replace(" ", ""):
        return False
    if gold.strip() == answer.strip():
        return True
    gold, answer = _rounded_items(gold), _rounded_items(answer)
    if gold == answer:
        return True
    values = value_of(gold), value_of(answer)
    return values[0] is not None and values[1] is not None and round(values[0], 2) == round(values[1], 2)


def _letter_at_an_end(text: str) -> str:
    for letter in LETTERS:
        begins = text.startswith((f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n"))
        if begins or text.endswith((f" {letter}.", f" ({letter}).")):
            text = letter
    return text


def _is_python_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _inside_box(text: str) -> str:
    boxes = _BOX.findall(text)
    text = boxes[-1] if boxes else text
    closing, opening = text.find("}"), text.find("{")
    if closing != -1 and (opening == -1 or closing < opening):
        text = text.split("}")[0]
    return text.split("=")[-1].split(r"\approx")[-1]


def _spelled(text: str) -> str:
    """One spelling for LaTeX; what is a unit to the script disappears."""
    for piece in _REMOVED:
        text = text.replace(piece, "")
    for old, new in (*_BEFORE_SPELLING, *_SPELLING):
        text = text.replace(old, new)
    if text.startswith("."):
        text = f"0{text}"
    if text.count("=") == 1:
        text = text.split("=")[-1]
    if text.count(r"\approx") == 1:
        text = text.split(r"\approx")[-1]
    if "sqrt" in text:
        text = _with_braces(text)
    if text == "0.5":
        return r"\frac{1}{2}"
    fraction = _PLAIN_FRACTION.fullmatch(text)
    if fraction and all(str(int(part)) == part for part in fraction.groups()):
        return rf"\frac{{{fraction[1]}}}{{{fraction[2]}}}"
    return text


def _with_braces(text: str) -> str:
    r"""Braces around the argument of ``\sqrt3`` and, in the same text, of ``\frac12``."""
    text = re.sub(r"\\sqrt(?=[^{])(.)", r"\\sqrt{\1}", text)
    return re.sub(r"\\frac(?=[^{])(.)(?:(?=\{)|(.))", _braced_fraction, text)


def _braced_fraction(match: re.Match[str]) -> str:
    below = f"{{{match[2]}}}" if match[2] else ""
    return rf"\frac{{{match[1]}}}{below}"


def _rounded_items(text: str) -> str:
    items = text[1:-1].split(",")
    if len(items) < 2 or (text[0], text[-1]) not in (("(", ")"), ("[", "]")):
        return text
    rounded = []
    for item in items:
        value = None if "infty" in item or item in ("a", "-a") else value_of(item)
        if value is None and not ("infty" in item or item in ("a", "-a")):
            return text
        rounded.append(item if value is None else str(round(value, 2)))
    return f"{text[0]}{','.join(rounded)}{text[-1]}"
