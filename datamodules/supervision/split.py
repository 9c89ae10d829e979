"""Choosing rows of process supervision: a validation split by question, limits by source, how often rows are seen."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset


def coded_column(table: Dataset, name: str) -> tuple[np.ndarray, list[str]]:
    """A text column as numbers, and what they stand for."""
    column = pc.dictionary_encode(table.with_format("arrow")[name][:]).combine_chunks()
    return column.indices.to_numpy(), column.dictionary.to_pylist()


def fixed_place(seed: int, key: str) -> bytes:
    """A random but fixed place of a key, whatever other keys there are."""
    return hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=16).digest()


def split_by_question(table: Dataset, validation_fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Put a share of the questions, each with all its solutions, aside.

    Args:
        table: Rows as of :func:`datamodules.supervision.rows.read_rows`.
        validation_fraction: Fraction of the questions, in (0, 1).
        seed: Of the choice.

    Returns:
        Training rows and validation rows, in the order of the table.

    Raises:
        ValueError: If one of them would be empty.
    """
    codes, keys = coded_column(table, "question_key")
    questions = sorted(range(len(keys)), key=lambda code: fixed_place(seed, keys[code]))
    size = round(validation_fraction * len(questions))
    if not 0 < size < len(questions):
        raise ValueError(f"validation_fraction={validation_fraction} puts {size} of {len(questions)} questions aside")
    chosen = np.zeros(len(keys), dtype=bool)
    chosen[questions[:size]] = True
    is_validation = chosen[codes]
    return table.select(np.flatnonzero(~is_validation)), table.select(np.flatnonzero(is_validation))


def rows_of_known_questions(table: Dataset, known: Dataset) -> np.ndarray:
    """Rows of a table whose question, about the same images, another table has, too.

    Args:
        table: Rows as of :func:`datamodules.supervision.rows.read_rows`.
        known: Likewise.

    Returns:
        (n,) row numbers, in order.
    """
    keys, others = (each.with_format("arrow")["question_key"][:] for each in (table, known))
    return np.flatnonzero(pc.is_in(keys, value_set=pc.unique(others)).to_numpy())


def limit_per_source(table: Dataset, max_samples: int | None, seed: int) -> Dataset:
    """At most so many rows of each source, chosen by ``seed``, in the order of the table.

    Args:
        table: Rows as of :func:`datamodules.supervision.rows.read_rows`; a column ``limit`` bounds a source, too.
        max_samples: Bound for every source; None for none.
        seed: Of the choice.

    Raises:
        ValueError: If ``max_samples`` is not positive.
    """
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples_per_source must be at least 1, got {max_samples}")
    limits = np.zeros(len(table), np.int64)
    if "limit" in table.column_names:
        limits = table.with_format("arrow")["limit"][:].to_numpy()
    if max_samples is None and not limits.any():
        return table
    codes, _ = coded_column(table, "source")
    ids: list[str] = []
    kept: list[np.ndarray] = []
    for source, limit in np.unique(np.stack([codes, limits]), axis=1).T:
        rows = np.flatnonzero((codes == source) & (limits == limit))
        most = min(bound for bound in (limit or len(rows), max_samples or len(rows), len(rows)))
        if most < len(rows):
            ids = ids or table.with_format("arrow")["sample_id"][:].to_pylist()
            rows = np.sort(
                np.array(sorted(rows.tolist(), key=lambda row: fixed_place(seed, ids[row]))[:most], np.int64)
            )
        kept.append(rows)
    return table.select(np.sort(np.concatenate(kept)))


class Stratum(NamedTuple):
    """Rows of one source that are seen equally often.

    Attributes:
        rows: (n,) indices, ascending.
        weight: How often each is seen an epoch, on average.
    """

    rows: np.ndarray
    weight: float

    @property
    def samples(self) -> int:
        """How many of its rows an epoch has, at least one."""
        return max(1, round(self.weight * len(self.rows)))


def strata(table: Dataset) -> list[Stratum] | None:
    """The rows of a table by source and weight; None if each is to be seen once an epoch."""
    weights = table.with_format("arrow")["weight"][:].to_numpy()
    if (weights == 1.0).all():
        return None
    codes, _ = coded_column(table, "source")
    groups, group = np.unique(np.stack([codes.astype(np.float64), weights]), axis=1, return_inverse=True)
    return [Stratum(np.flatnonzero(group == index), float(weight)) for index, (_, weight) in enumerate(groups.T)]


def fingerprint(table: Dataset) -> str:
    """A digest of which rows a table has, with their weights, in which order; the same wherever the data lie."""
    digest = hashlib.blake2b(digest_size=8)
    for batch in table.with_format("arrow").select_columns(["question_key", "weight"]).iter(batch_size=50_000):
        digest.update("".join(batch.column("question_key").to_pylist()).encode())
        digest.update(np.ascontiguousarray(batch.column("weight").to_numpy()).tobytes())
    return digest.hexdigest()
