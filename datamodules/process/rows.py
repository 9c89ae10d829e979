"""Rows of process supervision on disk, read into one table with known types.

Two kinds of JSONL rows are read: VisualPRM400K raw rows (``steps_with_score``) and VisualPRM400K conversation rows
(``conversations``). The table is built once and kept by `datasets` under the content of the files.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from datamodules import fields
from datamodules.files import parse_json_line, read_lines
from datamodules.images import ImageError, check_image
from datamodules.process.conversation import IMAGE_PLACEHOLDER, PLACEHOLDER, parse_conversation_row

logger = logging.getLogger(__name__)

OnBadRow = Literal["error", "skip"]

FEATURES = Features(
    {
        "sample_id": Value("string"),
        "source": Value("string"),
        "question_key": Value("string"),
        "images": List(Value("string")),
        "question": Value("string"),
        "steps": List(Value("string")),
        "mc": List(Value("float64")),
        "num_mc_correct": List(Value("int64")),
        "num_mc_total": List(Value("int64")),
        "problem": Value("string"),
    }
)
"""Columns of the table: ``sample_id`` is ``file:line``; ``question_key`` is equal for solutions of one question; images
are paths; ``mc`` is NaN for a step without a score; the counts -1 where unknown; ``problem`` is empty for a good row.
"""

_FORMAT = 2  # raise it when the meaning of the table changes, so that cached tables are built anew
_NOTHING: dict[str, Any] = {
    "source": "",
    "question_key": "",
    "images": [],
    "question": "",
    "steps": [],
    "mc": [],
    "num_mc_correct": [],
    "num_mc_total": [],
}


def annotation_files(paths: Sequence[str | Path]) -> list[Path]:
    """The JSONL files given, and those in the folders given, in a fixed order.

    Raises:
        FileNotFoundError: If a path does not exist or a folder holds no JSONL file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
        if not found:
            raise FileNotFoundError(f"annotations: {path} is neither a JSONL file nor a folder that holds one")
        files += found
    return list(dict.fromkeys(files))


def read_rows(
    paths: Sequence[str | Path],
    image_root: str | Path | None = None,
    *,
    on_bad_row: OnBadRow = "error",
    check_images: bool = True,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Read annotation files into a table with the columns of :data:`FEATURES`.

    Args:
        paths: JSONL files, or folders of them.
        image_root: Folder that image paths are relative to; a file's own folder by default.
        on_bad_row: What to do about rows that cannot be used: raise an error, or leave them out and say how many.
        check_images: Look at the header of every image while the table is built. Switch it off on slow file systems;
            a broken image is then found when its batch is made.
        cache_dir: Where the table is kept; the cache of `datasets` by default.

    Raises:
        FileNotFoundError: See :func:`annotation_files`.
        ValueError: If no row can be used, or a row is unusable and ``on_bad_row`` is "error"; names file, line, field.
    """
    files = annotation_files(paths)
    table = Dataset.from_generator(
        _generate,
        features=FEATURES,
        cache_dir=str(cache_dir) if cache_dir else None,
        gen_kwargs={
            "files": tuple(str(file) for file in files),
            "digests": tuple(_digest(file) for file in files),
            "image_root": str(image_root) if image_root else None,
            "check_images": check_images,
            "format_number": _FORMAT,
        },
    )
    problems = table.data.column("problem").to_pylist() if len(table) else []
    bad = {index: problem for index, problem in enumerate(problems) if problem}
    usable = drop_bad_rows(table, bad, on_bad_row, "annotations")
    if not len(usable):
        raise ValueError(f"no usable rows in {', '.join(map(str, files))}")
    return usable


def drop_bad_rows(table: Dataset, bad: Mapping[int, str], on_bad_row: OnBadRow, what: str) -> Dataset:
    """Raise an error about the first bad row, or leave all of them out with a warning.

    Args:
        table: Any rows.
        bad: Row index to problem.
        on_bad_row: "error" or "skip".
        what: Begins the warning.

    Raises:
        ValueError: If there are bad rows and ``on_bad_row`` is "error".
    """
    if not bad:
        return table
    first = next(iter(bad.values()))
    if on_bad_row == "error":
        more = f" (and {len(bad) - 1} more bad rows of {len(table)})" if len(bad) > 1 else ""
        raise ValueError(f"{first}{more}; correct the rows, or set on_bad_row to 'skip' to leave such rows out")
    logger.warning("%s: %d of %d rows are left out; the first: %s", what, len(bad), len(table), first)
    return table.select(np.setdiff1d(np.arange(len(table)), np.fromiter(bad, dtype=np.int64)))


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _generate(
    files: Sequence[str], digests: Sequence[str], image_root: str | None, check_images: bool, format_number: int
) -> Iterator[dict[str, Any]]:
    """Rows of the files; digests and format number only tell cached tables apart."""
    checked: dict[str, str] = {}
    for file in map(Path, files):
        root = Path(image_root) if image_root else file.parent
        for where, line in read_lines(file):
            try:
                row = parse_row(parse_json_line(line, where), where, root)
                if check_images:
                    _check_images(row["images"], where, checked)
                yield {"sample_id": where, "problem": "", **row}
            except ValueError as error:
                yield {"sample_id": where, "problem": str(error), **_NOTHING}


def _check_images(paths: Sequence[str], where: str, checked: dict[str, str]) -> None:
    for path in paths:
        if path not in checked:
            try:
                check_image(path, "")
                checked[path] = ""
            except ImageError as error:
                checked[path] = str(error)
        if checked[path]:
            raise ValueError(f"{where}: field 'image'{checked[path]}")


def parse_row(row: Mapping[str, Any], where: str, image_root: Path) -> dict[str, Any]:
    """Normalise a raw row or a conversation row.

    Args:
        row: As parsed from JSON.
        where: ``file:line``.
        image_root: Folder that image paths are relative to.

    Returns:
        The columns of :data:`FEATURES` but ``sample_id`` and ``problem``.

    Raises:
        ValueError: If a field is missing, of the wrong type or out of range; names file, line and field.
    """
    names = fields.image_names(row, where)
    if "conversations" in row:
        question, scored = _conversation(row, where)
    else:
        question = fields.text(row, "question", where)
        scored = _scored_steps(row, where)
    placeholders = question.count(IMAGE_PLACEHOLDER)
    if placeholders not in (0, len(names)):
        raise ValueError(
            f"{where}: field 'question' has {placeholders} {IMAGE_PLACEHOLDER} placeholders for {len(names)} images"
        )
    source = fields.text(row, "source", where) if row.get("source") is not None else Path(where.rpartition(":")[0]).stem
    key = hashlib.blake2b("\0".join([*names, question]).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return {
        "source": source,
        "question_key": key,
        "images": [str(image_root / name) for name in names],
        "question": question,
        **scored,
    }


def _conversation(row: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    parsed = parse_conversation_row(row, where)
    if "=" in parsed.labels:
        raise ValueError(f"{where}: field 'conversations': labels '=' do not tell whether a step is right")
    unknown = [-1] * len(parsed.steps)
    scores = [1.0 if label == PLACEHOLDER else 0.0 for label in parsed.labels]
    return parsed.question, {
        "steps": parsed.steps,
        "mc": scores,
        "num_mc_correct": unknown,
        "num_mc_total": unknown,
    }


def _scored_steps(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Steps, scores and counts; a step with 0 of 0 continuations was not sampled and has no score."""
    rows = fields.items(row, "steps_with_score", where)
    scored: dict[str, list[Any]] = {"steps": [], "mc": [], "num_mc_correct": [], "num_mc_total": []}
    for number, step in enumerate(rows):
        parent = f"steps_with_score[{number}]"
        if not isinstance(step, dict):
            raise fields.wrong_field(where, parent, "an object", step)
        parent += "."
        # A solution that came out empty is kept as one empty step.
        scored["steps"].append(fields.text(step, "step", where, parent, blank=len(rows) == 1))
        score = fields.number(step, "score", where, parent, minimum=0.0, maximum=1.0)
        correct, total = -1, -1
        if step.get("num_mc_total") is not None:
            total = fields.integer(step, "num_mc_total", where, parent, minimum=0)
            correct = fields.integer(step, "num_mc_correct", where, parent, minimum=0)
            if correct > total:
                raise fields.wrong_field(where, f"{parent}num_mc_correct", f"at most num_mc_total ({total})", correct)
        scored["mc"].append(float("nan") if total == 0 else score)
        scored["num_mc_correct"].append(correct)
        scored["num_mc_total"].append(total)
    if all(np.isnan(scored["mc"])):
        raise ValueError(f"{where}: field 'steps_with_score': no step has a continuation, so none has a score")
    return scored


def rows_with_text(table: Dataset, texts: Sequence[str]) -> dict[int, str]:
    """Rows whose question or steps hold one of the given texts; an image placeholder in a question is not text.

    Args:
        table: Rows as of :func:`read_rows`.
        texts: To look for.

    Returns:
        Row index to a description of the problem.
    """
    bad: dict[int, str] = {}
    if not texts:
        return bad
    pattern = "|".join(map(re.escape, texts))
    columns = table.with_format("arrow", columns=["sample_id", "question", "steps"])
    start = 0
    for batch in columns.iter(batch_size=10_000):
        for row, name, text in _matches(batch, pattern):
            found = re.search(pattern, text)
            token = found.group() if found else ""
            where = batch.column("sample_id")[row].as_py()
            bad.setdefault(start + row, f"{where}: field {name!r} holds {token!r}, a special token of the tokenizer")
        start += batch.num_rows
    return dict(sorted(bad.items()))


def _matches(batch: pa.Table, pattern: str) -> Iterator[tuple[int, str, str]]:
    """Row, field and text wherever the pattern occurs in a batch."""
    questions = pc.replace_substring(batch.column("question").combine_chunks(), IMAGE_PLACEHOLDER, "")
    for row in pc.indices_nonzero(pc.match_substring_regex(questions, pattern)).to_pylist():
        yield row, "question", questions[row].as_py()
    steps = batch.column("steps").combine_chunks()
    parents, flat = pc.list_parent_indices(steps), pc.list_flatten(steps)
    for index in pc.indices_nonzero(pc.match_substring_regex(flat, pattern)).to_pylist():
        yield parents[index].as_py(), "steps", flat[index].as_py()
