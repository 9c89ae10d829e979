"""One response a question in the layout of VLMEvalKit's prediction files, to be scored by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.benchmarks.base import Benchmark
from datamodules.benchmarks.table import read_table
from datamodules.rollouts.prediction_tables import INDEX, PICTURES, PREDICTION
from datamodules.rollouts.records import Rollout
from datamodules.rollouts.responses import table_path
from datamodules.storage.fields import first_of


def sample_of_each(groups: Mapping[str, Sequence[Rollout]], sample_index: int) -> dict[str, Rollout]:
    """The rollout of each question that has a sample index.

    Args:
        groups: Question id to its rollouts.
        sample_index: From 0.

    Raises:
        ValueError: If a question has no such rollout; names the questions.
    """
    chosen = {
        name: rollout for name, group in groups.items() for rollout in group if rollout.sample_index == sample_index
    }
    lacking = [repr(name) for name in groups if name not in chosen]
    if lacking:
        raise ValueError(f"{len(lacking)} questions have no sample {sample_index}: {first_of(lacking)}")
    return chosen


def prediction_rows(benchmark: Benchmark, folder: Path, chosen: Mapping[str, Rollout]) -> list[dict[str, str]]:
    """Rows of the benchmark's table, without pictures, with the response as ``prediction``.

    Args:
        benchmark: Of the rollouts.
        folder: Holds its TSV table.
        chosen: Question id to the rollout to export; rows of other questions, such as those that the benchmark does not
            score, are left out.

    Returns:
        Column to cell, in the order of the table.

    Raises:
        FileNotFoundError: If there is no TSV table, whose columns VLMEvalKit needs.
        ValueError: If the table lacks a question.
    """
    path = table_path(benchmark, folder)
    if path is None:
        raise FileNotFoundError(
            f"{folder} does not hold a table of {benchmark.name} ({' or '.join(benchmark.tables) or 'there is none'}); "
            f"a prediction file has its columns, so put it there"
        )
    rows = []
    for row in read_table(path, on_bad_row="skip"):
        rollout = chosen.get(row.get(INDEX))
        if rollout is not None:
            kept = {name: cell for name, cell in row.values.items() if name not in (PICTURES, PREDICTION)}
            rows.append({**kept, PREDICTION: rollout.response})
    if len(rows) < len(chosen):
        found = {row[INDEX] for row in rows}
        lacking = [repr(name) for name in chosen if name not in found]
        raise ValueError(f"{path}: has no rows for {len(lacking)} questions with rollouts: {first_of(lacking)}")
    return rows
