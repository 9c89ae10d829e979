"""Responses in the files of other tools: VLMEvalKit prediction files, those of benchmarks' authors, plain JSONL."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.benchmarks.base import Benchmark
from datamodules.benchmarks.table import read_table
from datamodules.rollouts.prediction_tables import INDEX, MAX_CELL_LENGTH, PREDICTION, cell_length, read_predictions
from datamodules.rollouts.released_responses import entry_extraction, entry_id, entry_text, json_entries
from datamodules.storage import fields
from datamodules.storage.bad_rows import MAX_BAD_ROWS, BadRows, OnBadRow
from datamodules.storage.fields import first_of, shown
from datamodules.storage.files import parse_json_line, read_lines

logger = logging.getLogger(__name__)

ANSWER = "answer"


@dataclass(frozen=True)
class Response:
    """A response in a file of another tool.

    Attributes:
        where: Its place.
        question_id: As the file spells it.
        sample_index: As the file says, or the next one of its question.
        text: The response.
        fills_cell: Whether it is as long as a spreadsheet cell may be: openpyxl cuts longer texts without a word.
        extraction: The answer that the other tool read from it; None where the file does not say.
    """

    where: str
    question_id: str
    sample_index: int
    text: str
    fills_cell: bool = False
    extraction: str | None = None


def read_responses(
    paths: Sequence[Path],
    benchmark: Benchmark,
    folder: Path,
    first_sample_index: int = 0,
    on_bad_row: OnBadRow = "skip",
    max_bad_rows: float = MAX_BAD_ROWS,
) -> list[Response]:
    """Read the files of other tools.

    Args:
        paths: Prediction files (``.tsv``, ``.xlsx``), each with one response a question, ``.jsonl`` files (see
            :func:`read_plain_rows`), or ``.json`` files of the benchmark's authors (see
            :mod:`datamodules.rollouts.released_responses`); all of one kind.
        benchmark: Whose questions were answered.
        folder: Holds its table.
        first_sample_index: Of the first file, or of the first response to a question.
        on_bad_row: Leave out rows that cannot be used and say how many and which, or raise an error at the first one.
        max_bad_rows: Largest share of these, see :func:`datamodules.storage.bad_rows.require_few_bad_rows`.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is broken, no row can be used, or one cannot and ``on_bad_row`` is "error"; or if its
            answers are not those of the table. Names file, line or row, and field.
    """
    suffixes = (path.suffix.lower() for path in paths)
    kinds = {suffix if suffix in (".jsonl", ".json") else "predictions" for suffix in suffixes}
    if len(kinds) != 1:
        raise ValueError(
            f"import prediction files (.tsv, .xlsx), .jsonl files or .json files, one kind at a time: "
            f"{[*map(str, paths)]}"
        )
    if kinds == {".jsonl"}:
        return read_plain_rows(paths, benchmark.name, first_sample_index, on_bad_row, max_bad_rows)
    if kinds == {".json"}:
        return read_released_responses(paths, benchmark, first_sample_index, on_bad_row, max_bad_rows)
    table = table_answers(benchmark, folder)
    responses = []
    for sample_index, path in enumerate(paths, start=first_sample_index):
        rows = read_predictions(path, on_bad_row, max_bad_rows)
        _check_answers(path, rows, table)
        is_workbook = path.suffix.lower() == ".xlsx"
        for row in rows:
            text = row.get(PREDICTION)
            fills_cell = is_workbook and cell_length(text) >= MAX_CELL_LENGTH
            responses.append(Response(row.where, row.get(INDEX), sample_index, text, fills_cell))
    return responses


def read_plain_rows(
    paths: Sequence[Path],
    benchmark: str,
    first_sample_index: int = 0,
    on_bad_row: OnBadRow = "skip",
    max_bad_rows: float = MAX_BAD_ROWS,
) -> list[Response]:
    """Read JSON lines: a question (``question_id``, ``index`` or ``id``) and its ``response`` or ``responses`` a row.

    Rows may have a ``sample_index``, else the responses to a question are numbered as they come; and a ``benchmark``,
    those of another one being passed over.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If no row can be used, or a field of one is missing, given twice or of the wrong type and
            ``on_bad_row`` is "error"; names file, line and field.
    """
    responses: list[Response] = []
    numbered: dict[str, bool] = {}
    counts: dict[str, int] = {}
    passed_over = 0
    bad = BadRows(on_bad_row, max_bad_rows)
    count = 0
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of responses")
        for where, line in read_lines(path):
            count += 1
            try:
                row = parse_json_line(line, where)
                if row.get("benchmark", benchmark) != benchmark:
                    passed_over += 1
                    continue
                question_id, texts, sample_index = _plain_row(row, where, numbered)
            except ValueError as error:
                bad.add(error)
                continue
            start = first_sample_index + counts.get(question_id, 0) if sample_index is None else sample_index
            counts[question_id] = counts.get(question_id, 0) + len(texts)
            extraction = entry_extraction(row) if len(texts) == 1 else None
            responses += [
                Response(where, question_id, start + number, text, extraction=extraction)
                for number, text in enumerate(texts)
            ]
    if not responses:
        raise ValueError(f"{', '.join(map(str, paths))}: no responses to questions of {benchmark}{bad.first}")
    bad.report(", ".join(map(str, paths)), count)
    if passed_over:
        logger.warning("%d rows are of other benchmarks than %s and are passed over", passed_over, benchmark)
    return responses


def _plain_row(row: Mapping[str, Any], where: str, numbered: dict[str, bool]) -> tuple[str, list[str], int | None]:
    """Question, texts and sample index of a row; ``numbered`` remembers which questions' rows have such an index."""
    question_id, texts = _question_id(row, where), _texts(row, where)
    is_numbered = row.get("sample_index") is not None
    if numbered.get(question_id, is_numbered) != is_numbered:
        raise ValueError(f"{where}: field 'sample_index' must be in all rows of question {question_id!r} or in none")
    if is_numbered and len(texts) > 1:
        raise ValueError(f"{where}: field 'sample_index' is of one response, but there are {len(texts)}")
    sample_index = fields.integer(row, "sample_index", where, minimum=0) if is_numbered else None
    numbered[question_id] = is_numbered
    return question_id, texts, sample_index


def read_released_responses(
    paths: Sequence[Path],
    benchmark: Benchmark,
    first_sample_index: int = 0,
    on_bad_row: OnBadRow = "skip",
    max_bad_rows: float = MAX_BAD_ROWS,
) -> list[Response]:
    """Read JSON files of a benchmark's authors; responses to a question are numbered as they come.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is broken or holds no response, or an entry cannot be used and ``on_bad_row`` is "error".
    """
    responses: list[Response] = []
    counts: dict[str, int] = {}
    bad = BadRows(on_bad_row, max_bad_rows)
    count = 0
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of responses")
        for where, name, entry in json_entries(path):
            count += 1
            try:
                question_id = entry_id(entry, name, where, benchmark.response_fields)
                text = entry_text(entry, where, benchmark.response_fields)
            except ValueError as error:
                bad.add(error)
                continue
            sample_index = first_sample_index + counts.get(question_id, 0)
            counts[question_id] = counts.get(question_id, 0) + 1
            responses.append(Response(where, question_id, sample_index, text, extraction=entry_extraction(entry)))
    if not responses:
        raise ValueError(f"{', '.join(map(str, paths))}: no responses to questions of {benchmark.name}{bad.first}")
    bad.report(", ".join(map(str, paths)), count)
    return responses


def _question_id(row: Mapping[str, Any], where: str) -> str:
    names = [name for name in ("question_id", INDEX) if row.get(name) is not None]
    names = names or [name for name in ("id",) if row.get(name) is not None]
    if len(names) != 1:
        raise ValueError(f"{where}: one of the fields 'question_id', 'index' and 'id' must be there, found {names}")
    value = row[names[0]]
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise fields.wrong_field(where, names[0], "a string or a whole number", value)
    return str(value)


def _texts(row: Mapping[str, Any], where: str) -> list[str]:
    names = [name for name in ("response", "responses") if name in row]
    if len(names) != 1:
        raise ValueError(f"{where}: one of the fields 'response' and 'responses' must be there, found {names}")
    if names == ["response"]:
        return [fields.text(row, "response", where, blank=True)]
    texts = fields.items(row, "responses", where)
    return [
        fields.text({f"responses[{number}]": text}, f"responses[{number}]", where, blank=True)
        for number, text in enumerate(texts)
    ]


def table_answers(benchmark: Benchmark, folder: Path) -> dict[str, str | None]:
    """Index to answer of all rows of the benchmark's table, scored or not; empty if there is no table."""
    path = table_path(benchmark, folder)
    return {row.get(INDEX): row.get(ANSWER) for row in read_table(path, on_bad_row="skip")} if path else {}


def table_path(benchmark: Benchmark, folder: Path) -> Path | None:
    """The benchmark's TSV table, None if the folder does not hold one."""
    return next((folder / name for name in benchmark.tables if (folder / name).is_file()), None)


def _check_answers(path: Path, rows: Sequence[Any], table: Mapping[str, str | None]) -> None:
    """Refuse predictions on another table whose indices happen to be the same."""
    spellings = id_spellings(table)
    differing = []
    for row in rows:
        index = spellings.get(row.get(INDEX), spellings.get(plain_index(row.get(INDEX))))
        gold = table.get(index) if index is not None else None
        if ANSWER in row.values and gold is not None and not _is_same_cell(row.get(ANSWER), gold):
            differing.append(f"{row.where}: {shown(row.get(ANSWER))}, the table has {shown(gold)}")
    if differing:
        raise ValueError(
            f"{path}: column 'answer' differs from the benchmark's table in {len(differing)} of {len(rows)} rows; are "
            f"these predictions on another table or split? {first_of(differing, '; ')}"
        )


def _is_same_cell(cell: str, other: str) -> bool:
    """Whether two cells say the same, given that tools write numbers in their own ways."""
    if cell.strip() == other.strip():
        return True
    try:
        return float(cell) == float(other)
    except ValueError:
        return False


def plain_index(text: str) -> str:
    """An id in its plain form: ``7`` for "007" and "7.0"; other texts stay."""
    whole, _, fraction = text.strip().partition(".")
    digits = whole.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or fraction.strip("0"):
        return text
    plain = digits.lstrip("0")  # `int` refuses texts of thousands of digits
    return f"{whole[: len(whole) - len(digits)]}{plain}" if plain else "0"


def id_spellings(names: Mapping[str, object]) -> dict[str, str]:
    """Ids by themselves, and by their plain form where that is no other's, to find what tools write in other ways."""
    plain: dict[str, list[str]] = {}
    for name in names:
        plain.setdefault(plain_index(name), []).append(name)
    return {form: same[0] for form, same in plain.items() if len(same) == 1} | {name: name for name in names}
