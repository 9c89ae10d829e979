"""Choosing rows of process supervision: a validation split by question, and limits by source."""

from __future__ import annotations

import hashlib

import numpy as np
from datasets import Dataset


def _column(table: Dataset, name: str) -> np.ndarray:
    return np.asarray(table.with_format(None)[name][:], dtype=object)


def _rank(seed: int, key: str) -> bytes:
    """A random but fixed place of a key, whatever other keys there are."""
    return hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=16).digest()


def split_by_question(table: Dataset, validation_share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Put a share of the questions, each with all its solutions, aside.

    Args:
        table: Rows as of :func:`datamodules.process.rows.read_rows`.
        validation_share: Share of questions in (0, 1).
        seed: Of the choice.

    Returns:
        Training rows and validation rows, in the order of the table.

    Raises:
        ValueError: If one of them would be empty.
    """
    keys = _column(table, "question_key")
    questions = sorted(set(keys), key=lambda key: _rank(seed, key))
    size = round(validation_share * len(questions))
    if not 0 < size < len(questions):
        raise ValueError(f"validation_share={validation_share} puts {size} of {len(questions)} questions aside")
    chosen = set(questions[:size])
    is_validation = np.fromiter((key in chosen for key in keys), dtype=bool, count=len(keys))
    return table.select(np.flatnonzero(~is_validation)), table.select(np.flatnonzero(is_validation))


def limit_per_source(table: Dataset, max_samples: int | None, seed: int) -> Dataset:
    """At most ``max_samples`` rows of each source, chosen by ``seed``, in the order of the table; None keeps all.

    Raises:
        ValueError: If ``max_samples`` is not positive.
    """
    if max_samples is None:
        return table
    if max_samples < 1:
        raise ValueError(f"max_samples_per_source must be at least 1, got {max_samples}")
    sources, ids = _column(table, "source"), _column(table, "sample_id").tolist()
    kept: list[int] = []
    for source in sorted(set(sources)):
        rows = np.flatnonzero(sources == source).tolist()
        kept += sorted(rows, key=lambda row: _rank(seed, ids[row]))[:max_samples]
    return table.select(np.sort(np.asarray(kept)))
