"""Rollouts made of the files of other tools: VLMEvalKit prediction files, those of benchmarks' authors, plain JSONL."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion
from datamodules.benchmarks.table import read_table
from datamodules.rollouts.grading import question_digest, verdict_digest
from datamodules.rollouts.prediction_tables import INDEX, MAX_CELL_LENGTH, PREDICTION, cell_length, read_predictions
from datamodules.rollouts.records import Rollout
from datamodules.rollouts.released_responses import entry_extraction, entry_id, entry_text, json_entries
from datamodules.storage import fields
from datamodules.storage.fields import first_of, shown
from datamodules.storage.files import parse_json_line, read_lines

logger = logging.getLogger(__name__)

ANSWER = "answer"
FAILURE = "Failed to obtain answer"
"""VLMEvalKit writes a text that begins so in place of a response that it did not get."""


@dataclass(frozen=True)
class Origin:
    """What the files of other tools do not say about their responses.

    Attributes:
        policy: Name of the model that wrote them.
        temperature: Of sampling; None if not known, as for the others.
        top_p: Of sampling.
        max_new_tokens: Limit on the length.
        seed: Of sampling.
    """

    policy: str
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None


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


@dataclass
class Import:
    """Rollouts of one benchmark and what was remarkable about their sources.

    Attributes:
        rollouts: Graded by the present rules.
        not_scored: Responses to questions in the table that the benchmark does not score; they are left out.
        empty: Places of empty responses, which are kept and count as wrong.
        failed: Places where the other tool got no response; likewise.
        cut: Places of responses that fill a spreadsheet cell to its last character, so that their end is likely lost.
        shuffled: Places of responses to questions whose options are shuffled here, in an order that the other tool may
            not have had.
    """

    rollouts: list[Rollout] = field(default_factory=list)
    not_scored: int = 0
    empty: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    shuffled: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """A line for each remarkable thing."""
        lines = []
        if self.not_scored:
            lines.append(f"{self.not_scored} responses are to questions that are not scored; they are left out")
        if self.empty:
            lines.append(f"{len(self.empty)} responses are empty and count as wrong: {first_of(self.empty)}")
        if self.failed:
            lines.append(
                f"{len(self.failed)} responses are failures of the tool ({FAILURE!r}) and count as wrong: "
                f"{first_of(self.failed)}"
            )
        if self.cut:
            lines.append(
                f"{len(self.cut)} responses fill their cells to the limit of {MAX_CELL_LENGTH} characters, so that "
                f"their ends, and with them the final answers, are likely lost; have the tool write .tsv files: "
                f"{first_of(self.cut)}"
            )
        if self.shuffled:
            lines.append(
                f"{len(self.shuffled)} responses are to questions whose options are shuffled here; their letters are "
                f"right only if the prompts came from here, too: {first_of(self.shuffled)}"
            )
        return lines


def read_responses(
    paths: Sequence[Path], benchmark: Benchmark, folder: Path, first_sample_index: int = 0
) -> list[Response]:
    """Read the files of other tools.

    Args:
        paths: Prediction files (``.tsv``, ``.xlsx``), each with one response a question, ``.jsonl`` files (see
            :func:`read_plain_rows`), or ``.json`` files of the benchmark's authors (see
            :mod:`datamodules.rollouts.released_responses`); all of one kind.
        benchmark: Whose questions were answered.
        folder: Holds its table.
        first_sample_index: Of the first file, or of the first response to a question.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is broken, or its answers are not those of the table; names file, line or row, and field.
    """
    suffixes = (path.suffix.lower() for path in paths)
    kinds = {suffix if suffix in (".jsonl", ".json") else "predictions" for suffix in suffixes}
    if len(kinds) != 1:
        raise ValueError(
            f"import prediction files (.tsv, .xlsx), .jsonl files or .json files, one kind at a time: "
            f"{[*map(str, paths)]}"
        )
    if kinds == {".jsonl"}:
        return read_plain_rows(paths, benchmark.name, first_sample_index)
    if kinds == {".json"}:
        return read_released_responses(paths, benchmark, first_sample_index)
    table = _table(benchmark, folder)
    responses = []
    for sample_index, path in enumerate(paths, start=first_sample_index):
        rows = read_predictions(path)
        _check_answers(path, rows, table)
        is_workbook = path.suffix.lower() == ".xlsx"
        for row in rows:
            text = row.get(PREDICTION)
            fills_cell = is_workbook and cell_length(text) >= MAX_CELL_LENGTH
            responses.append(Response(row.where, row.get(INDEX), sample_index, text, fills_cell))
    return responses


def read_plain_rows(paths: Sequence[Path], benchmark: str, first_sample_index: int = 0) -> list[Response]:
    """Read JSON lines: a question (``question_id``, ``index`` or ``id``) and its ``response`` or ``responses`` a row.

    Rows may have a ``sample_index``, else the responses to a question are numbered as they come; and a ``benchmark``,
    those of another one being passed over.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a field is missing, given twice or of the wrong type; names file, line and field.
    """
    responses: list[Response] = []
    numbered: dict[str, bool] = {}
    counts: dict[str, int] = {}
    passed_over = 0
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of responses")
        for where, line in read_lines(path):
            row = parse_json_line(line, where)
            if row.get("benchmark", benchmark) != benchmark:
                passed_over += 1
                continue
            question_id = _question_id(row, where)
            texts = _texts(row, where)
            is_numbered = row.get("sample_index") is not None
            if numbered.setdefault(question_id, is_numbered) != is_numbered:
                raise ValueError(
                    f"{where}: field 'sample_index' must be in all rows of question {question_id!r} or in none"
                )
            if is_numbered and len(texts) > 1:
                raise ValueError(f"{where}: field 'sample_index' is of one response, but there are {len(texts)}")
            start = first_sample_index + counts.get(question_id, 0)
            counts[question_id] = counts.get(question_id, 0) + len(texts)
            if is_numbered:
                start = fields.integer(row, "sample_index", where, minimum=0)
            extraction = entry_extraction(row) if len(texts) == 1 else None
            responses += [
                Response(where, question_id, start + number, text, extraction=extraction)
                for number, text in enumerate(texts)
            ]
    if not responses:
        raise ValueError(f"{', '.join(map(str, paths))}: no responses to questions of {benchmark}")
    if passed_over:
        logger.warning("%d rows are of other benchmarks than %s and are passed over", passed_over, benchmark)
    return responses


def read_released_responses(paths: Sequence[Path], benchmark: Benchmark, first_sample_index: int = 0) -> list[Response]:
    """Read JSON files of a benchmark's authors; responses to a question are numbered as they come.

    An entry that cannot be used is left out, and a warning counts and names it.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is broken or holds no response.
    """
    responses: list[Response] = []
    counts: dict[str, int] = {}
    problems: list[str] = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of responses")
        for where, name, entry in json_entries(path):
            try:
                question_id = entry_id(entry, name, where, benchmark.response_fields)
                text = entry_text(entry, where, benchmark.response_fields)
            except ValueError as error:
                problems.append(str(error))
                continue
            sample_index = first_sample_index + counts.get(question_id, 0)
            counts[question_id] = counts.get(question_id, 0) + 1
            responses.append(Response(where, question_id, sample_index, text, extraction=entry_extraction(entry)))
    if not responses:
        first = f": {problems[0]}" if problems else ""
        raise ValueError(f"{', '.join(map(str, paths))}: no responses to questions of {benchmark.name}{first}")
    if problems:
        logger.warning("%d entries cannot be used and are left out: %s", len(problems), first_of(problems, "; "))
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
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise fields.wrong_field(where, f"responses[{number}]", "a string", text)
    return texts


def _table(benchmark: Benchmark, folder: Path) -> dict[str, str | None]:
    """Index to answer of all rows of the benchmark's table, scored or not; empty if there is no table."""
    path = table_path(benchmark, folder)
    return {row.get(INDEX): row.get(ANSWER) for row in read_table(path)} if path else {}


def table_path(benchmark: Benchmark, folder: Path) -> Path | None:
    """The benchmark's TSV table, None if the folder does not hold one."""
    return next((folder / name for name in benchmark.tables if (folder / name).is_file()), None)


def _check_answers(path: Path, rows: Sequence[Any], table: Mapping[str, str | None]) -> None:
    """Refuse predictions on another table whose indices happen to be the same."""
    spellings = _spellings(table)
    differing = []
    for row in rows:
        index = spellings.get(row.get(INDEX), spellings.get(_plain_index(row.get(INDEX))))
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


def import_responses(
    responses: Sequence[Response],
    benchmark: Benchmark,
    questions: Sequence[BenchmarkQuestion],
    folder: Path,
    origin: Origin,
) -> Import:
    """Grade responses and make rollouts of them.

    Question ids are matched as they are, else as whole numbers, since tools write "007" and 7.0 for 7.

    Args:
        responses: To questions of the benchmark.
        benchmark: Grades.
        questions: All that it scores.
        folder: Holds its table.
        origin: Of the responses.

    Raises:
        ValueError: If the benchmark does not have the question of a response, or a response cannot be written as UTF-8;
            names the places.
    """
    by_id = {question.question_id: question for question in questions}
    scored, in_table = _spellings(by_id), _spellings(_table(benchmark, folder))
    digests = {name: question_digest(benchmark, question) for name, question in by_id.items()}
    found = Import()
    unknown: list[str] = []
    for response in responses:
        spelled = (response.question_id, _plain_index(response.question_id))
        name = next((scored[text] for text in spelled if text in scored), None)
        if name is None:
            if any(text in in_table or text in benchmark.unscored_ids for text in spelled):
                found.not_scored += 1
            else:
                unknown.append(f"{response.where}: {response.question_id!r}")
            continue
        _check_unicode(response)
        if not response.text.strip():
            found.empty.append(response.where)
        elif response.text.startswith(FAILURE):
            found.failed.append(response.where)
        if response.fills_cell:
            found.cut.append(response.where)
        if by_id[name].option_order is not None:
            found.shuffled.append(response.where)
        grade = benchmark.grade(by_id[name], response.text, response.extraction)
        found.rollouts.append(
            Rollout(
                benchmark=benchmark.name,
                question_id=name,
                sample_index=response.sample_index,
                response=response.text,
                extracted_answer=grade.extracted_answer,
                is_correct=grade.is_correct,
                rules=benchmark.rules,
                verdict_digest=verdict_digest(digests[name], response.text, response.extraction),
                extraction=response.extraction,
                **vars(origin),
            )
        )
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(responses)} responses are to questions that {benchmark.name} in {folder} does not "
            f"have: {first_of(unknown, '; ')}; were they made from another table?"
        )
    return found


def _check_unicode(response: Response) -> None:
    try:
        response.text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{response.where}: the response is not valid Unicode: {error}; sample or export it again"
        ) from error


def _plain_index(text: str) -> str:
    """``7`` for "007" and "7.0"; other texts stay."""
    whole, _, fraction = text.strip().partition(".")
    digits = whole.removeprefix("-")
    is_number = digits.isascii() and digits.isdigit() and not fraction.strip("0")
    return str(int(whole)) if is_number else text


def _spellings(names: Mapping[str, object]) -> dict[str, str]:
    """Ids by themselves and by their plain form, where that is no other's."""
    plain: dict[str, list[str]] = {}
    for name in names:
        plain.setdefault(_plain_index(name), []).append(name)
    return {form: same[0] for form, same in plain.items() if len(same) == 1} | {name: name for name in names}
