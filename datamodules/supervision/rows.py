"""Read rows of process supervision from disk into one typed table.

Two kinds of rows are read, from all files of :mod:`datamodules.supervision.annotation_files`: VisualPRM400K raw rows
(``steps_with_score``) and VisualPRM400K conversation rows (``conversations``). The table of each file is built once and
cached by content.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets
from tqdm.auto import tqdm

from datamodules.batching.ranks import rank_of_process
from datamodules.storage.bad_rows import FEWEST_BAD_ROWS, MAX_BAD_ROWS, OnBadRow, require_few_bad_rows
from datamodules.storage.fields import first_of
from datamodules.supervision.consensus import Consensus
from datamodules.supervision.row_reader import RowReader, bad_rows, row_readers
from datamodules.supervision.sources import ProcessSource
from datamodules.supervision.table import open_table, remembered_digest, table_folder, table_path, write_table

logger = logging.getLogger(__name__)


FEATURES = Features(
    {
        "sample_id": Value("string"),
        "source": Value("string"),
        "question_key": Value("string"),
        "images": List(Value("string")),
        "image_bytes": List(Value("large_binary")),
        "question": Value("string"),
        "question_bare": Value("string"),
        "system_prompt": Value("string"),
        "steps": List(Value("string")),
        "mc": List(Value("float64")),
        "num_mc_correct": List(Value("int64")),
        "num_mc_total": List(Value("int64")),
        "question_accuracy": Value("float64"),
        "num_mc_stopping": Value("string"),
        "blank_steps": Value("int64"),
        "problem": Value("string"),
    }
)
"""Columns of a file's table: ``sample_id`` is ``file:row``; ``question_key`` is equal for solutions of one question
about the same images; images are paths or references of :mod:`datamodules.storage.archives`, or, where
``image_bytes`` holds embedded ones, their names;
``question`` is the row's field, ``question_bare`` the question without the policy's instruction;
``system_prompt`` is that of a conversation row, None without one;
``mc`` is NaN for a step without a score; the counts -1 where unknown;
``num_mc_stopping`` is the rule by which the continuations of a step were stopped, empty where all were drawn, and
``binary`` where scores of steps were inferred by a binary search;
``question_accuracy`` is how often the policy solves the question from scratch, None where the row does not say;
``blank_steps`` is how many of the steps are without text;
``problem`` is empty for a good row. :func:`read_rows` adds ``weight``, ``max_tiles`` and ``limit`` of the row's source,
0 where there is none.
"""

_LOG_SECONDS = 30.0  # between lines of progress where nobody watches a terminal


def read_rows(
    sources: Sequence[str | Path | ProcessSource],
    image_root: str | Path | None = None,
    *,
    on_bad_row: OnBadRow = "skip",
    check_images: bool = True,
    cache_dir: str | Path | None = None,
    consensus: Consensus = "monte_carlo",
    max_bad_rows: float = MAX_BAD_ROWS,
) -> Dataset:
    """Read annotation files into a memory-mapped table with the columns of :data:`FEATURES` and those of their sources.

    If two sources name the same file, it belongs to the later one. So a folder can be given, and one of its files again
    with other settings.

    Args:
        sources: Paths as of :func:`datamodules.supervision.annotation_files.find_annotation_files`, or sources.
        image_root: Image root of sources that name none.
        on_bad_row: What to do about unusable rows: skip and report them, or raise an error.
        check_images: Read the header of every image when a table is built. Switch it off on slow file systems; a broken
            image is then found when its batch is made.
        cache_dir: Folder of the tables; the cache of `datasets` by default.
        consensus: Whose verdicts on steps count, see :mod:`datamodules.supervision.consensus`.
        max_bad_rows: See :func:`drop_bad_rows`.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If no row can be used, or a row is unusable and ``on_bad_row`` is "error"; names file, line, field.
    """
    root = str(image_root) if image_root else None
    given = [s if isinstance(s, ProcessSource) else ProcessSource([str(s)], root) for s in sources]
    readers = row_readers(given, root, check_images, consensus)
    with _Progress(len(readers)) as progress:
        tables = [_file_table(reader, table_folder(cache_dir), progress) for reader, _ in readers]
    of_tables = [source for _, source in readers]
    _compare_counts(given, of_tables, tables)
    for (reader, _), each in zip(readers, tables, strict=True):
        if not len(each):
            logger.warning("%s: holds no rows", reader.file)
    table = _with_settings(tables, of_tables)
    bad = bad_rows(table)
    if len(bad) == len(table):
        first = next(iter(bad.values()), "there are no rows")
        raise ValueError(f"no usable rows in {', '.join(str(reader.file) for reader, _ in readers)}: {first}")
    return drop_bad_rows(table, bad, on_bad_row, "annotations", max_bad_rows)


def _with_settings(tables: Sequence[Dataset], of_tables: Sequence[ProcessSource]) -> Dataset:
    """All tables in one, with columns of the settings of their sources."""
    lengths = [len(table) for table in tables]
    weights = np.array([source.weight for source in of_tables], np.float64)
    tiles = np.array([source.max_tiles or 0 for source in of_tables], np.int64)
    limits = np.array([source.limit or 0 for source in of_tables], np.int64)
    table = concatenate_datasets(list(tables))
    for name, values in (("weight", weights), ("max_tiles", tiles), ("limit", limits)):
        table = table.add_column(name, np.repeat(values, lengths))
    return table


def _compare_counts(
    given: Sequence[ProcessSource], of_tables: Sequence[ProcessSource], tables: Sequence[Dataset]
) -> None:
    for source in given:
        rows = sum(len(table) for each, table in zip(of_tables, tables, strict=True) if each is source)
        if source.rows is not None and rows != source.rows:
            logger.warning("%s: %d rows, but %d were announced", ", ".join(source.paths), rows, source.rows)


def drop_bad_rows(
    table: Dataset, bad: Mapping[int, str], on_bad_row: OnBadRow, what: str, max_bad_rows: float = MAX_BAD_ROWS
) -> Dataset:
    """Raise an error for the first bad row, or leave out all bad rows with a warning.

    Args:
        table: Any rows.
        bad: Row index to problem.
        on_bad_row: "error" or "skip".
        what: Begins the warning.
        max_bad_rows: Largest share of bad rows to leave out, of all and of each source: a source whose pictures are
            missing may be a small part of all rows.

    Raises:
        ValueError: If there are bad rows and ``on_bad_row`` is "error", or too many of them, see
            :func:`datamodules.storage.bad_rows.require_few_bad_rows`.
    """
    if not bad:
        return table
    first = next(iter(bad.values()))
    listed = first_of(list(bad.values()), "; ")
    if on_bad_row == "error":
        more = f" (and {len(bad) - 1} more bad rows of {len(table)})" if len(bad) > 1 else ""
        raise ValueError(f"{first}{more}; correct the rows, or set on_bad_row to 'skip' to leave such rows out")
    sources = Counter(table.select(list(bad))["source"][:]) if "source" in table.column_names else {}
    require_few_bad_rows(list(bad.values()), len(table), what, max_bad_rows)
    if max(sources.values(), default=0) >= FEWEST_BAD_ROWS:
        rows = Counter(table["source"][:])
        for source in sources:
            problems = [text for row, text in bad.items() if table[row]["source"] == source]
            require_few_bad_rows(problems, rows[source], f"{what} of {source}", max_bad_rows)
    counts = ", ".join(f"{source}: {count}" for source, count in sorted(sources.items()))
    logger.warning("%s: %d of %d rows are left out (%s); the first: %s", what, len(bad), len(table), counts, listed)
    return table.select(np.setdiff1d(np.arange(len(table)), np.fromiter(bad, dtype=np.int64)))


class _Progress:
    """Progress bar of building tables; silent if all tables exist."""

    def __init__(self, files: int) -> None:
        self.files, self.file = files, 0
        self.bar: tqdm | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def watch(self, rows: Iterator[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
        """The rows, counted as they pass."""
        if self.bar is None:
            is_terminal = sys.stderr.isatty()
            interval = 0.1 if is_terminal else _LOG_SECONDS
            self.bar = tqdm(
                unit=" rows",
                mininterval=interval,
                maxinterval=interval,
                delay=0.0 if is_terminal else _LOG_SECONDS,
                leave=is_terminal,
                disable=rank_of_process() > 0,
            )
        self.bar.set_description(f"indexing file {self.file} of {self.files}, {name}", refresh=False)
        for row in rows:
            self.bar.update()
            yield row


def _file_table(reader: RowReader, folder: Path, progress: _Progress) -> Dataset:
    """The table of a file; built again if pictures that were missing or broken are usable now."""
    progress.file += 1
    path = table_path(folder, reader.identity(remembered_digest(reader.file, folder)))
    write_table(path, progress.watch(iter(reader), reader.file.source), FEATURES)
    table = open_table(path)
    if reader.repaired(table):
        write_table(path, progress.watch(iter(reader), reader.file.source), FEATURES, anew=True)
        table = open_table(path)
    return table
