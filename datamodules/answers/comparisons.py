"""Comparisons of two things, in words: "more plums than pears" denies what "are there fewer plums than pears" asks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

_OPPOSITES = (
    ("more", "fewer"),
    ("more", "less"),
    ("greater", "less"),
    ("greater", "smaller"),
    ("greater", "lower"),
    ("higher", "lower"),
    ("higher", "less"),
    ("larger", "smaller"),
    ("bigger", "smaller"),
    ("longer", "shorter"),
    ("taller", "shorter"),
    ("older", "younger"),
    ("heavier", "lighter"),
)
_COMPARATIVES = frozenset(word for pair in _OPPOSITES for word in pair)


@dataclass(frozen=True)
class Comparison:
    """What a sentence compares.

    Attributes:
        comparative: "more", "lower" and so on.
        left: The other words in front of "than".
        right: The words behind it.
    """

    comparative: str
    left: list[str]
    right: list[str]


def comparison(words: list[str]) -> Comparison | None:
    """The comparison that the words of a sentence make; None where there is none, or more than one."""
    if words.count("than") != 1:
        return None
    place = words.index("than")
    left, right = words[:place], words[place + 1 :]
    found = [word for word in left if word in _COMPARATIVES]
    if len(found) != 1 or not right or len(left) < 2:
        return None
    left.remove(found[0])
    return Comparison(found[0], left, right)


def agrees(said: Comparison, asked: Comparison) -> bool | None:
    """Whether a comparison says what was asked (True), or that it is the other way round (False); None otherwise.

    Either side must have the same words. Where the sides are exchanged, words behind both subjects may stay where they
    are: "more balls in the box than cubes" is the reverse of "more cubes in the box than balls".
    """
    if said.comparative == asked.comparative:
        is_same_way = True
    elif {said.comparative, asked.comparative} in [set(pair) for pair in _OPPOSITES]:
        is_same_way = False
    else:
        return None
    if Counter(said.left) == Counter(asked.left) and said.right == asked.right:
        return is_same_way
    rest = said.left[len(asked.right) :]
    if said.left[: len(asked.right)] == asked.right and asked.left == said.right + rest:
        return not is_same_way
    return None
