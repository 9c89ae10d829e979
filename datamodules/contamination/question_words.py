"""Questions that share runs of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from datamodules.conversation.instructions import without_instruction
from datamodules.conversation.messages import IMAGE_PLACEHOLDER

_WORD = re.compile(r"\w+|[^\w\s]")  # signs count: without them "3 + 4" would be "3 4"


class TextMatch(NamedTuple):
    """The benchmark question that shares most with a text.

    Attributes:
        key: Of the question.
        overlap: Share of the n-grams of the one with fewer that the other has, too; in (0, 1].
    """

    key: str
    overlap: float


def ngrams(text: str, n: int) -> frozenset[tuple[str, ...]]:
    """The runs of ``n`` words and signs of a question, in small letters, without placeholders and known instructions.

    A text of fewer words is one run.
    """
    words = tuple(_WORD.findall(without_instruction(text).replace(IMAGE_PLACEHOLDER, " ").casefold()))
    if not words:
        return frozenset()
    return frozenset(words[start : start + n] for start in range(max(1, len(words) - n + 1)))


class QuestionIndex:
    """Finds the benchmark question that shares most n-grams with a text.

    Args:
        questions: Text by key.
        n: Words of a run.
    """

    def __init__(self, questions: Mapping[str, str], n: int) -> None:
        self.n = n
        self._keys = list(questions)
        self._sizes: list[int] = []
        self._places: dict[tuple[str, ...], list[int]] = {}
        for number, text in enumerate(questions.values()):
            found = ngrams(text, n)
            self._sizes.append(len(found))
            for each in found:
                self._places.setdefault(each, []).append(number)

    def best_match(self, text: str) -> TextMatch | None:
        """The question with the largest overlap, the earlier one in a tie; None if none shares a run."""
        own = ngrams(text, self.n)
        shared = Counter(number for each in own for number in self._places.get(each, ()))
        if not shared:
            return None
        overlaps = {number: count / min(len(own), self._sizes[number]) for number, count in shared.items()}
        best = min(overlaps, key=lambda number: (-overlaps[number], number))
        return TextMatch(self._keys[best], overlaps[best])
