"""Comparisons of two things, in words: "more plums than pears" denies what "are there fewer plums than pears" asks."""

from __future__ import annotations

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
COMPARATIVES = frozenset(word for pair in _OPPOSITES for word in pair)
"""Words by which a comparison is known; they have no plural."""

_OF_COUNTS = dict.fromkeys(("greater", "higher", "larger", "bigger"), "more") | dict.fromkeys(
    ("less", "lower", "smaller"), "fewer"
)


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
    """The comparison that the words of a sentence make; None where there is none, or more than one.

    "The number of plums is greater than the number of pears" is "more plums than pears".

    Args:
        words: Without "the", "is", "of" and the like.
    """
    if words.count("than") != 1:
        return None
    place = words.index("than")
    left, right = words[:place], words[place + 1 :]
    found = [word for word in left if word in COMPARATIVES]
    if len(found) != 1 or len(left) < 2:
        return None
    left.remove(found[0])
    if left[:1] == right[:1] == ["number"]:
        return Comparison(_OF_COUNTS.get(found[0], found[0]), left[1:], right[1:]) if left[1:] and right[1:] else None
    return Comparison(found[0], left, right) if right else None


def agrees(said: Comparison, asked: Comparison) -> bool | None:
    """Whether a comparison says what was asked (True), or that it is the other way round (False); None otherwise.

    Either side must have the same words; "value of Ohio" counts as "Ohio value". Where the sides are exchanged, words
    behind both subjects may stay where they are: "more balls in the box than cubes" is the reverse of "more cubes in
    the box than balls".
    """
    if said.comparative == asked.comparative:
        is_same_way = True
    elif {said.comparative, asked.comparative} in [set(pair) for pair in _OPPOSITES]:
        is_same_way = False
    else:
        return None
    turns = [asked.left[place:] + asked.left[:place] for place in range(len(asked.left))]
    if said.left in turns and said.right == asked.right:
        return is_same_way
    rest = said.left[len(asked.right) :]
    if said.left[: len(asked.right)] == asked.right and asked.left == said.right + rest:
        return not is_same_way
    return None
