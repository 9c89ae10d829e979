"""Find texts of rows that a tokenizer would read as special tokens."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from datamodules.conversation.messages import IMAGE_PLACEHOLDER
from datamodules.storage.files import atomic_write_text
from datamodules.supervision.table import open_table

_ROWS_AT_ONCE = 10_000


def rows_with_text(table: Dataset, texts: Sequence[str], question: str = "question") -> dict[int, str]:
    """Rows whose question or steps hold one of the given texts.

    An image placeholder in the question of a row with images is not text.

    Findings are stored beside a file's table, so a second start does not read all texts again.

    Args:
        table: Rows as of :func:`datamodules.supervision.rows.read_rows`.
        texts: Texts to find.
        question: Column of the question that is read.

    Returns:
        Row index to a description of the problem.
    """
    if not texts:
        return {}
    files = [Path(file["filename"]) for file in table.cache_files]
    if not files:
        return _scan(table, texts, question)
    problems: dict[str, str] = {}
    for file in files:
        problems |= _noted(file, texts, question)
    if not problems:
        return {}
    found: dict[int, str] = {}
    start = 0
    for batch in table.with_format("arrow").select_columns(["sample_id"]).iter(batch_size=_ROWS_AT_ONCE):
        names = batch.column("sample_id")
        rows = pc.indices_nonzero(pc.is_in(names, pa.array(problems))).to_pylist()
        found |= {start + row: problems[names[row].as_py()] for row in rows}
        start += batch.num_rows
    return found


def special_token_found(where: str, name: str, token: str) -> ValueError:
    """The error about a text that holds a special token.

    Args:
        where: ``file:line``.
        name: Of the field.
        token: That it holds.
    """
    return ValueError(f"{where}: field {name!r} holds {token!r}, a special token of the tokenizer")


def _noted(file: Path, texts: Sequence[str], question: str) -> dict[str, str]:
    """Sample id to problem for the table in a file, from the stored findings or by reading all texts."""
    key = hashlib.sha256(json.dumps([question, *texts]).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    note = file.with_suffix(f".{key}.json")
    if note.is_file():
        noted: dict[str, str] = json.loads(note.read_bytes())
        return noted
    table = open_table(file)
    names = table.select_columns(["sample_id"])
    problems = {names[row]["sample_id"]: problem for row, problem in _scan(table, texts, question).items()}
    atomic_write_text(note, json.dumps(problems))
    return problems


def _scan(table: Dataset, texts: Sequence[str], question: str) -> dict[int, str]:
    bad: dict[int, str] = {}
    pattern = "|".join(map(re.escape, texts))
    columns = table.with_format("arrow", columns=["sample_id", "images", question, "steps"])
    start = 0
    for batch in columns.iter(batch_size=_ROWS_AT_ONCE):
        for row, name, text in _matches(batch, pattern, question):
            found = re.search(pattern, text)
            token = found.group() if found else ""
            where = batch.column("sample_id")[row].as_py()
            bad.setdefault(start + row, str(special_token_found(where, name, token)))
        start += batch.num_rows
    return dict(sorted(bad.items()))


def _matches(batch: pa.Table, pattern: str, question: str) -> Iterator[tuple[int, str, str]]:
    """Row, field and text of every occurrence of the pattern in a batch."""
    questions = batch.column(question).combine_chunks()
    has_images = pc.greater(pc.list_value_length(batch.column("images").combine_chunks()), 0)
    questions = pc.if_else(has_images, pc.replace_substring(questions, IMAGE_PLACEHOLDER, ""), questions)
    for row in pc.indices_nonzero(pc.match_substring_regex(questions, pattern)).to_pylist():
        yield row, "question", questions[row].as_py()
    steps = batch.column("steps").combine_chunks()
    parents, flat = pc.list_parent_indices(steps), pc.list_flatten(steps)
    for index in pc.indices_nonzero(pc.match_substring_regex(flat, pattern)).to_pylist():
        yield parents[index].as_py(), "steps", flat[index].as_py()
