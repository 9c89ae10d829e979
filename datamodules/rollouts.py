"""Rollouts: sampled solutions of benchmark questions, kept on disk and scored again and again.

A rollout file is JSONL with one row a solution, see :class:`Rollout`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from datamodules import fields
from datamodules.files import atomic_write_jsonl, parse_json_line, read_lines


@dataclass(frozen=True)
class Rollout:
    """One sampled solution.

    Attributes:
        benchmark: Name of the benchmark.
        question_id: Of the question in it.
        sample_index: From 0; unique within the question.
        response: The solution.
        extracted_answer: Its final answer, None if none could be read.
        is_correct: The benchmark's verdict.
        policy: Name of the model that wrote it.
        temperature: Of sampling.
        top_p: Of sampling.
        max_new_tokens: Limit on the length.
        seed: Of sampling.
        rules: By which the verdict was made, "ours" or "official"; None where the file does not say.
        option_order: The order of the options that the policy saw, where they were shuffled: for option A, B, ... its
            place in the benchmark's row.
    """

    benchmark: str
    question_id: str
    sample_index: int
    response: str
    extracted_answer: str | None
    is_correct: bool
    policy: str
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    rules: str | None = None
    option_order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class LocatedRollout(Rollout):
    """A rollout and the place that it was read from.

    Attributes:
        where: ``file:line``.
    """

    where: str = "unsaved rollout"


def parse_rollout(row: Mapping[str, Any], where: str) -> LocatedRollout:
    """Check a row of a rollout file.

    Raises:
        ValueError: If a field is missing, of the wrong type or out of range; names file, line and field.
    """
    answer = fields.required(row, "extracted_answer", where)
    return LocatedRollout(
        benchmark=fields.text(row, "benchmark", where),
        question_id=fields.text(row, "question_id", where),
        sample_index=fields.integer(row, "sample_index", where, minimum=0),
        response=fields.text(row, "response", where, blank=True),
        extracted_answer=None if answer is None else fields.text(row, "extracted_answer", where, blank=True),
        is_correct=fields.boolean(row, "is_correct", where),
        policy=fields.text(row, "policy", where),
        temperature=fields.number(row, "temperature", where, minimum=0.0),
        top_p=fields.number(row, "top_p", where, minimum=0.0, maximum=1.0),
        max_new_tokens=fields.integer(row, "max_new_tokens", where, minimum=1),
        seed=fields.integer(row, "seed", where),
        rules=fields.text(row, "rules", where) if row.get("rules") is not None else None,
        option_order=_option_order(row, where),
        where=where,
    )


def _option_order(row: Mapping[str, Any], where: str) -> tuple[int, ...] | None:
    if row.get("option_order") is None:
        return None
    order = fields.items(row, "option_order", where)
    if sorted(order, key=str) != list(range(len(order))):
        raise fields.wrong_field(where, "option_order", f"an order of the numbers 0 to {len(order) - 1}", order)
    return tuple(order)


def read_rollouts(path: Path) -> list[LocatedRollout]:
    """Read a rollout file, or all JSONL files of a folder.

    Raises:
        FileNotFoundError: If there is nothing to read.
        ValueError: If a row is wrong (see :func:`parse_rollout`) or there are no rows.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"rollouts: {path} is neither a JSONL file nor a folder that holds one")
    rollouts = [
        parse_rollout(parse_json_line(line, where), where) for file in files for where, line in read_lines(file)
    ]
    if not rollouts:
        raise ValueError(f"{path}: holds no rollouts")
    return rollouts


def write_rollouts(path: Path, rollouts: Iterable[Rollout]) -> None:
    """Write a rollout file, whole or not at all."""
    rows = []
    for rollout in rollouts:
        row = asdict(rollout)
        row.pop("where", None)
        rows.append(row)
    atomic_write_jsonl(path, rows)


def group_by_question(
    rollouts: Iterable[Rollout], num_samples: int | None = None
) -> dict[tuple[str, str], list[Rollout]]:
    """Put the rollouts of each question together.

    Args:
        rollouts: In any order.
        num_samples: Keep the samples 0 to ``num_samples - 1`` of each question; None keeps all.

    Returns:
        (benchmark, question id) to its rollouts by sample index, in order of first appearance.

    Raises:
        ValueError: If a sample index repeats or is missing; names file, line and field.
    """
    groups: dict[tuple[str, str], list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault((rollout.benchmark, rollout.question_id), []).append(rollout)
    for key, group in groups.items():
        group.sort(key=lambda rollout: rollout.sample_index)
        _check_indices(key, group, num_samples)
        groups[key] = group[:num_samples]
    return groups


def _check_indices(key: tuple[str, str], group: Sequence[Rollout], num_samples: int | None) -> None:
    name = f"question {key[1]!r} of {key[0]}"
    for previous, rollout in pairwise(group):
        if previous.sample_index == rollout.sample_index:
            raise ValueError(
                f"{_place(rollout)}: field 'sample_index': {name} has two rollouts with index {rollout.sample_index}, "
                f"the other at {_place(previous)}"
            )
    indices = [rollout.sample_index for rollout in group]
    expected = range(len(group) if num_samples is None else num_samples)
    missing = sorted(set(expected) - set(indices))
    if missing:
        raise ValueError(
            f"{_place(group[0])}: field 'sample_index': {name} has the rollouts {indices}, but {missing} are missing; "
            f"sample them, or evaluate fewer candidates a question"
        )


def _place(rollout: Rollout) -> str:
    return getattr(rollout, "where", "unsaved rollout")
