"""Which candidates give the same answer."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.answers.compare import answers_equal


def equivalence_classes(answers: Sequence[str | None]) -> list[int]:
    """Number the distinct answers in order of first appearance.

    An answer joins the first class whose first member it equals, so the result is defined even where equality is not
    transitive (``5`` equals ``5 cm`` and ``5 m``).

    Args:
        answers: One answer a candidate; None for a response without a readable answer.

    Returns:
        One class index an answer, from 0; -1 for None, which casts no vote.
    """
    representatives: list[str] = []
    classes = []
    for answer in answers:
        if answer is None:
            classes.append(-1)
            continue
        for number, representative in enumerate(representatives):
            if answer == representative or answers_equal(answer, representative):
                classes.append(number)
                break
        else:
            classes.append(len(representatives))
            representatives.append(answer)
    return classes
