"""A case study as a figure: pictures, question, and solutions with the score of every step."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

_COLOURS = LinearSegmentedColormap.from_list("scores", ["#a63603", "#ece9e4", "#0b559f"])
"""Orange for low and blue for high scores, as in the page of ``visualprm-view``."""
_WIDTH, _LINE = 9.0, 0.19  # inches
_CHARACTERS = 88
_MOST_LINES = 6  # of a step
_TEXT_START = 0.34  # share of the width that is the pictures'


@dataclass(frozen=True)
class CaseSolution:
    """A solution to show.

    Attributes:
        title: What it is, with its verdict.
        steps: Texts.
        scores: One a step.
        marks: What is known of each step, such as a human label; empty texts where nothing is.
    """

    title: str
    steps: Sequence[str]
    scores: Sequence[float]
    marks: Sequence[str] = ()


def case_figure(
    pictures: Sequence[Image.Image],
    question: str,
    solutions: Sequence[CaseSolution],
    score_range: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Draw it; texts are drawn as they are, a dollar sign begins no formula.

    Args:
        pictures: Of the question.
        question: Its text.
        solutions: To show below it.
        score_range: Least and greatest score, for the colours.
    """
    low, high = score_range
    rows: list[tuple[str, float | None, str]] = [("", None, line) for line in _lines(question)]
    for solution in solutions:
        rows += [("", None, ""), ("title", None, solution.title[:_CHARACTERS])]
        marks = solution.marks or [""] * len(solution.steps)
        for step, value, mark in zip(solution.steps, solution.scores, marks, strict=True):
            first, *others = _lines(step)
            rows += [(mark, value, first), *(("", None, f"     {line}") for line in others)]
    height = max(len(rows) + 1, 8) * _LINE
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    for place, picture in enumerate(pictures[:4]):
        share = 1 / min(len(pictures), 4)
        axes = figure.add_axes((0.01, 1 - share * (place + 1), _TEXT_START - 0.03, share * 0.96), anchor="N")
        axes.imshow(picture)
        axes.set_axis_off()
    left = _TEXT_START if pictures else 0.02
    for number, (mark, score, text) in enumerate(rows):
        y = 1 - (number + 1) * _LINE / height
        style: dict[str, Any] = {"fontsize": 8, "va": "center", "parse_math": False}
        if mark == "title":
            figure.text(left, y, text, fontweight="bold", **style)
        elif score is None:
            figure.text(left, y, text, **style)
        else:
            share = min(1.0, max(0.0, (score - low) / (high - low)))
            box = {"facecolor": _COLOURS(share), "edgecolor": "none", "pad": 1.5}
            ink = "white" if abs(share - 0.5) > 0.3 else "black"
            figure.text(left, y, f"{score:5.2f}", color=ink, bbox=box, family="monospace", **style)
            figure.text(left + 0.05, y, mark, ha="center", **style)
            figure.text(left + 0.065, y, text, **style)
    return figure


def _lines(text: str) -> list[str]:
    """A text in lines, without characters that have no shape; a long one is cut."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return textwrap.wrap(shown, _CHARACTERS, max_lines=_MOST_LINES, placeholder=" ...") or [""]
