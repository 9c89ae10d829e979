"""Rollouts: sampled solutions of benchmark questions, kept on disk and scored again and again.

A rollout file is JSONL with one row a solution, see :class:`Rollout`. All reading and writing of such rows is here;
:mod:`datamodules.rollouts.check` compares them with the benchmarks, :mod:`datamodules.rollouts.from_other_tools` makes
them of the files of other tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.storage import fields
from datamodules.storage.bad_rows import BadRows
from datamodules.storage.files import atomic_write_jsonl, parse_json_line, read_lines

MAX_SAMPLES = 100_000
"""Most samples of a question: the numbers of those that are not there are listed."""


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
        temperature: Of sampling; None where it is not known, as in files of other tools.
        top_p: Of sampling; None likewise.
        max_new_tokens: Limit on the length; None likewise.
        seed: Of sampling; None likewise.
        rules: By which the verdict was made, "ours", "official" or "vlmevalkit", or another name for verdicts of
            something else, such as a judge; None where the file does not say.
        option_order: The order of the options that the policy saw, where they were shuffled: for option A, B, ... its
            place in the benchmark's row.
        verdict_digest: Tells whether rules, gold answers and response are those of the verdict, see
            :func:`datamodules.rollouts.grading.verdict_digest`; None where it is not known.
        extraction: The answer that another tool, such as the authors' judge model, read from the response, which
            official rules look at; None where there is none.
        top_k: Of sampling; None where all tokens were kept, or it is not known.
        prompt: What the policy was asked, its instruction included, with ``<image>`` where its pictures stood unless
            they stood in front; None where it is not known.
    """

    benchmark: str
    question_id: str
    sample_index: int
    response: str
    extracted_answer: str | None
    is_correct: bool
    policy: str
    temperature: float | None
    top_p: float | None
    max_new_tokens: int | None
    seed: int | None
    rules: str | None = None
    option_order: tuple[int, ...] | None = None
    verdict_digest: str | None = None
    extraction: str | None = None
    prompt: str | None = None
    top_k: int | None = None


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

    def is_given(name: str) -> bool:
        return fields.required(row, name, where) is not None

    return LocatedRollout(
        benchmark=fields.text(row, "benchmark", where),
        question_id=fields.text(row, "question_id", where),
        sample_index=fields.integer(row, "sample_index", where, minimum=0, maximum=MAX_SAMPLES - 1),
        response=fields.text(row, "response", where, blank=True),
        extracted_answer=(
            fields.text(row, "extracted_answer", where, blank=True) if is_given("extracted_answer") else None
        ),
        is_correct=fields.boolean(row, "is_correct", where),
        policy=fields.text(row, "policy", where),
        temperature=fields.number(row, "temperature", where, minimum=0.0) if is_given("temperature") else None,
        top_p=fields.number(row, "top_p", where, minimum=0.0, maximum=1.0) if is_given("top_p") else None,
        max_new_tokens=fields.integer(row, "max_new_tokens", where, minimum=1) if is_given("max_new_tokens") else None,
        seed=fields.integer(row, "seed", where) if is_given("seed") else None,
        rules=fields.text(row, "rules", where) if row.get("rules") is not None else None,
        option_order=_option_order(row, where),
        verdict_digest=fields.text(row, "verdict_digest", where) if row.get("verdict_digest") is not None else None,
        extraction=(fields.text(row, "extraction", where, blank=True) if row.get("extraction") is not None else None),
        prompt=fields.text(row, "prompt", where) if row.get("prompt") is not None else None,
        top_k=fields.integer(row, "top_k", where, minimum=1) if row.get("top_k") is not None else None,
        where=where,
    )


def _option_order(row: Mapping[str, Any], where: str) -> tuple[int, ...] | None:
    if row.get("option_order") is None:
        return None
    order = fields.items(row, "option_order", where)
    if sorted(order, key=str) != list(range(len(order))):
        raise fields.wrong_field(where, "option_order", f"an order of the numbers 0 to {len(order) - 1}", order)
    return tuple(order)


def read_rollouts(path: Path, bad: BadRows | None = None) -> list[LocatedRollout]:
    """Read a rollout file, or all JSONL files of a folder; one notice counts and names the rows that are left out.

    Args:
        path: Of the file or folder.
        bad: Says what to do about rows that cannot be used (see :func:`parse_rollout`), and collects them. By default
            they are left out.

    Raises:
        FileNotFoundError: If there is nothing to read.
        ValueError: If no row can be used, or one cannot and is not to be left out.
    """
    bad = bad or BadRows()
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"rollouts: {path} is neither a JSONL file nor a folder that holds one")
    rollouts = []
    for where, line in (pair for file in files for pair in read_lines(file)):
        try:
            rollouts.append(parse_rollout(parse_json_line(line, where), where))
        except ValueError as error:
            bad.add(error)
    if not rollouts:
        raise ValueError(f"{path}: holds no rollouts{' that can be used' if bad.problems else ''}{bad.first}")
    bad.report(str(path), len(rollouts) + len(bad.problems))
    return rollouts


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    """The row of a rollout file that :func:`parse_rollout` reads."""
    row = asdict(rollout)
    row.pop("where", None)
    for name in ("extraction", "prompt", "top_k"):
        if row[name] is None:
            del row[name]
    return row


def write_rollouts(path: Path, rollouts: Iterable[Rollout]) -> None:
    """Write a rollout file, whole or not at all."""
    atomic_write_jsonl(path, map(rollout_row, rollouts))


def place(rollout: Rollout) -> str:
    """Where a rollout comes from, to begin messages with."""
    return getattr(rollout, "where", "unsaved rollout")
