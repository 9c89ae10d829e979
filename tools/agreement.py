"""Two annotations of the same solutions: the second one's verdicts beside the scores of the first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules.storage import fields
from datamodules.storage.files import atomic_file, parse_json_line, read_lines

AGREE, DIFFER, UNJUDGED = "agree", "differ", "unjudged"


def write_agreement(first: Path, second: Path, output: Path) -> dict[str, Counter[str]]:
    """Write the rows of the first annotation, with the verdicts of the second one as those of a judge.

    A step gets the field ``judge``: 1.0 if the second annotation has a score above 0 for it, 0.0 if the score is 0. It
    gets none where either has no score. The data module's ``consensus`` says which of both counts in training.

    Args:
        first: Rows as the annotator writes them.
        second: Rows of the same ids with the same steps, in any order; rows that the first has not are not used.
        output: File to write.

    Returns:
        For each source, how many steps are judged alike, differently, and not at all.

    Raises:
        ValueError: If a row is malformed, or two rows of an id have different steps; names file and line. If no row of
            the first has an id of the second.
    """
    places = _places(second)
    counts: dict[str, Counter[str]] = {}
    num_common = 0
    with atomic_file(output) as file, second.open("rb") as other:
        for where, line in read_lines(first):
            row = parse_json_line(line, where)
            row_id = fields.text(row, "id", where)
            steps = fields.items(row, "steps_with_score", where)
            verdicts: list[float | None] = [None] * len(steps)
            if row_id in places:
                number, offset = places[row_id]
                other.seek(offset)
                there = f"{second}:{number}"
                judged = fields.items(parse_json_line(other.readline(), there), "steps_with_score", there)
                num_common += 1
                if not all(isinstance(step, Mapping) for step in (*steps, *judged)):
                    raise ValueError(f"{where} and {there}: field 'steps_with_score' must be a list of objects")
                if [step.get("step") for step in steps] != [step.get("step") for step in judged]:
                    raise ValueError(
                        f"{where}: the row {row_id!r} has other steps than that of {there}; annotate the same "
                        f"solutions (solutions_from) with the same max_steps and white_space"
                    )
                verdicts = [_verdict(step, there) for step in judged]
            of_source = counts.setdefault(str(row.get("source", first.stem)), Counter())
            for step, verdict in zip(steps, verdicts, strict=True):
                own = _verdict(step, where)
                if verdict is not None and own is not None:
                    step["judge"] = verdict
                    of_source[AGREE if own == verdict else DIFFER] += 1
                else:
                    of_source[UNJUDGED] += 1
            file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())
        if not num_common:
            raise ValueError(f"{first}: none of its rows has an id of {second}; give annotations of the same solutions")
    return counts


def _verdict(step: Any, where: str) -> float | None:
    """Whether a step has a score above 0, or is right by a judge whose scores are probabilities; None without one."""
    if not isinstance(step, Mapping):
        raise ValueError(f"{where}: field 'steps_with_score' must be a list of objects")
    if step.get("num_mc_total") == 0:
        return None
    is_right = step.get("is_right")
    return float(fields.number(step, "score", where) > 0 if is_right is None else bool(is_right))


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Line number and offset of each row by id."""
    places: dict[str, tuple[int, int]] = {}
    for number, offset, line in _lines(path):
        where = f"{path}:{number}"
        row_id = fields.text(parse_json_line(line, where), "id", where)
        if row_id in places:
            raise ValueError(f"{where}: field 'id' repeats {row_id!r} of line {places[row_id][0]}")
        places[row_id] = number, offset
    return places


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, offset, line
            offset += len(line)
