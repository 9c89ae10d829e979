"""Rows of VL-PRM300K (arXiv 2509.23250, Hugging Face ``ob11/VL-PRM300K``) as raw rows.

Columns, by its dataset card: ``id``, ``conversations`` (turns with ``role`` and ``content``), ``first_incorrect_step``,
``steps_with_score`` (as in VisualPRM400K's raw rows), ``rollout_ground_truth_answer``, ``image`` (a path), ``source``,
``question``, and others that are not read. The first incorrect step is what a judge model found: the name of a section
and the index of a step in it, from 0, such as ``['Reasoning', 1]``, or nothing if all steps are right. Sections are
``Visual Elements`` and ``Reasoning``, in that order; the turns of the conversation name each where it begins.

The verdict becomes the field ``judge`` of each step, so that ``consensus`` of the data module chooses between it and
the Monte Carlo scores: 1 before the first incorrect step, 0 at it, none after it, where the judge stopped.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.storage import fields

_FIRST_WRONG = "first_incorrect_step"
_SEEN, _REASONED = "Visual Elements", "Reasoning"
_NOTHING = (None, "", "None", "null", "[]", "nan")


def is_vl_prm_row(row: Mapping[str, Any]) -> bool:
    """Whether a row has the columns of VL-PRM300K."""
    return _FIRST_WRONG in row and "steps_with_score" in row


def as_raw_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row as a raw row, with the verdicts of the judge.

    Args:
        row: Of VL-PRM300K.
        where: ``file:row``.

    Raises:
        ValueError: If the first incorrect step is none, or is outside of the solution; names file, line and field.
    """
    steps = fields.items(row, "steps_with_score", where)
    wrong = _first_wrong(row, len(steps), where)
    judged: list[Any] = []
    for number, step in enumerate(steps):
        verdict = 1.0 if wrong is None or number < wrong else 0.0 if number == wrong else None
        judged.append({**step, "judge": verdict} if isinstance(step, Mapping) else step)
    raw = {name: value for name, value in row.items() if name not in ("conversations", _FIRST_WRONG)}
    return raw | {"steps_with_score": judged}


def _first_wrong(row: Mapping[str, Any], count: int, where: str) -> int | None:
    """Index of the first incorrect step in the whole solution; None if there is none."""
    given = row[_FIRST_WRONG]
    if given in (*_NOTHING, []) or given != given:  # NaN is where a column of numbers has none
        return None
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError):
            given = None
    expected = f"[section, index] with the section {_SEEN!r} or {_REASONED!r}, or nothing"
    is_pair = isinstance(given, Sequence) and len(given) == 2 and given[0] in (_SEEN, _REASONED)
    if not is_pair or not str(given[1]).isdecimal():
        raise fields.wrong_field(where, _FIRST_WRONG, expected, row[_FIRST_WRONG])
    index = int(given[1])
    if given[0] == _REASONED:
        index += _steps_before_reasoning(row, where)
    if index >= count:
        raise fields.wrong_field(where, _FIRST_WRONG, f"one of the {count} steps", row[_FIRST_WRONG])
    return index


def _steps_before_reasoning(row: Mapping[str, Any], where: str) -> int:
    """Number of the steps of the first section, by the turn that names the second."""
    turns = fields.items(row, "conversations", where)
    texts = [_text(turn) for turn in turns if _speaker(turn) in ("user", "human")]
    for number, text in enumerate(texts):
        if f"[{_REASONED}]" in text:
            # A solution may have nothing of the first section, and names both sections in its first turn.
            return number
    raise ValueError(f"{where}: field 'conversations': no turn names the section [{_REASONED}]")


def _speaker(turn: Any) -> str:
    return str(turn.get("role", turn.get("from"))) if isinstance(turn, Mapping) else ""


def _text(turn: Mapping[str, Any]) -> str:
    content = turn.get("content", turn.get("value"))
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))
