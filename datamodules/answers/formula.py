"""Which texts are formulas that the symbolic comparison reads whole.

The parser behind it leaves out what it does not know, a prime for instance, and compares the rest. So a formula with
anything unknown in it is not compared at all.
"""

from __future__ import annotations

import re

from datamodules.answers.units import UNITS

MAX_LENGTH = 200

_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]*\}|\\[A-Za-z]+")
_MATH_WORDS = frozenset("sin cos tan cot sec csc log exp sqrt frac max min mod arcsin arccos arctan infty".split())
_KNOWN_COMMANDS = frozenset(
    "frac sqrt sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln lg exp binom "
    "infty pi max min gcd lcm "
    "cdot times div pm mp le ge lt gt ne neq in notin cup cap setminus emptyset varnothing subset "
    "subseteq mathbb sum prod "
    "int lim to det lfloor rfloor lceil rceil vert lvert rvert mid land lor wedge vee begin end "
    "overline bar vec hat alpha "
    "beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi "
    "varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
)
_NOT_UNDERSTOOD = re.compile(
    r"'|\.\.|\\[lcdv]?dots|\d_|[?@#;\"]|\\to(?![A-Za-z])|:.*:|\bd/d|\\begin\s*\{(?!(?:[pbv]|small)?matrix)"
)
_LIMIT = re.compile(r"\\lim_\{\s*[A-Za-z]\s*\\to[^{}]*\}")
_EXPONENT_GOES_ON = r"\^(?:[{(]+[^{}()^]{0,8}|\s*[A-Za-z0-9]{0,4})"
_ASTRONOMICAL = re.compile(
    rf"{_EXPONENT_GOES_ON}{_EXPONENT_GOES_ON}\^|\^\s*\{{?\s*-?\d{{5,}}|\d{{4,}}\s*\)?\s*!|!\s*\)?\s*!"
    r"|\d{3,}\s*\}*\s*\^\s*\{?\d{4,}"
)
_LAST_UNIT = re.compile(r"\s(?P<unit>[A-Za-zµΩ]{2,}(?:\^\{?[23]\}?)?)$")


def are_comparable(prediction: str, gold: str) -> bool:
    """Whether two normalised answers are worth a symbolic comparison.

    Both must be short, without prose and without signs whose meaning the parser would drop; not both words, not plain
    arithmetic, and not with powers of powers or factorials that no computer works out.
    """
    texts = (prediction, gold)
    if any(len(text) > MAX_LENGTH for text in texts) or all(text.isalpha() for text in texts):
        return False
    if not all(_is_understood(text) for text in texts) or _units_differ(prediction, gold):
        return False
    # Arithmetic without letters that has no value by now is malformed or astronomical.
    return any(re.search(r"[A-Za-z!|]", text) for text in texts)


def _is_understood(text: str) -> bool:
    words = re.findall(r"[A-Za-z]{3,}", _COMMAND.sub(" ", text))
    if any(word.lower() not in _MATH_WORDS for word in words) or not re.search(r"[A-Za-z0-9]", text):
        return False
    commands = {command.lstrip("\\") for command in re.findall(r"\\[A-Za-z]+", text)}
    if not commands <= _KNOWN_COMMANDS or _ASTRONOMICAL.search(text):
        return False
    return _NOT_UNDERSTOOD.search(_LIMIT.sub(r"\\lim", text)) is None


def _units_differ(prediction: str, gold: str) -> bool:
    """Whether both formulas end with units, which the parser drops, and not with the same one."""
    matches = _LAST_UNIT.search(prediction), _LAST_UNIT.search(gold)
    if matches[0] is None or matches[1] is None:
        return False
    units = matches[0]["unit"], matches[1]["unit"]
    return all(re.split(r"\^", unit)[0] in UNITS for unit in units) and units[0] != units[1]
