"""Prompt rows of MMPR: read from JSONL, named, checked, and graded against their gold answers."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from datamodules.answers.compare import answers_equal
from datamodules.answers.extract import clean, extract_final_answer
from datamodules.answers.letters import OPTION_LETTERS, extract_option
from datamodules.benchmarks import Grade
from datamodules.benchmarks.base import with_instruction
from datamodules.conversation.instructions import POLICY_INSTRUCTION
from datamodules.conversation.messages import IMAGE_PLACEHOLDER
from datamodules.conversation.reading_rules import PictureRules
from datamodules.conversation.special_text import special_token_found
from datamodules.policy import visualprm_v1_1
from datamodules.policy.prompts import Prompt, digest_of_texts
from datamodules.storage import fields
from datamodules.storage.bad_rows import MAX_BAD_ROWS, BadRows, OnBadRow
from datamodules.storage.files import parse_json_line, read_lines
from datamodules.storage.images import check_image, open_image

logger = logging.getLogger(__name__)

PromptGrading = Literal["ours", "visualprm_v1_1"]


def read_prompts(
    path: Path,
    image_root: Path | None = None,
    instruction: str = POLICY_INSTRUCTION,
    grading: PromptGrading = "ours",
    on_bad_row: OnBadRow = "skip",
    *,
    with_responses: bool = False,
    pictures: PictureRules = "ours",
    source: str | None = None,
    max_bad_rows: float = MAX_BAD_ROWS,
) -> list[Prompt]:
    """Read MMPR prompt rows from a JSONL file, and the headers of their pictures.

    A row without an id is named after its content, so that it keeps its name when lines above it are added or removed.

    Args:
        path: JSONL file; rows hold question, answer, and optionally id, image (a path or a list), source, response.
        image_root: Folder that image paths are relative to; the file's own folder by default.
        instruction: Text after each question; may be empty.
        grading: How responses are compared with the gold answer: by our rules, or as the released annotation of
            VisualPRM400K-v1.1 did, by source (:mod:`datamodules.policy.visualprm_v1_1`).
        on_bad_row: Leave out rows that cannot be used and say how many and which, or raise an error at the first one.
        max_bad_rows: Largest share of these, see :func:`datamodules.storage.bad_rows.require_few_bad_rows`.
        with_responses: Rows without a response cannot be used.
        pictures: How pictures become RGB, see :func:`datamodules.storage.images.open_image`.
        source: Name of the source, for rows that give none; the stem of the file by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such grading, or no row can be used. Or, with ``on_bad_row`` "error", if a field is
            missing, blank or of the wrong type, an id is duplicate, the placeholders of a question do not match its
            images, or a picture cannot be opened; names file, line and field.
    """
    if grading not in get_args(PromptGrading):
        raise ValueError(f"grading must be one of {', '.join(get_args(PromptGrading))}, got {grading!r}")
    if not path.is_file():
        raise FileNotFoundError(
            f"prompts: {path} {'is a folder' if path.is_dir() else 'does not exist'}; give a JSONL file"
        )
    if image_root is not None and not image_root.is_dir():
        raise FileNotFoundError(f"image_root: {image_root} is no folder; give the one that image paths are relative to")
    root = image_root or path.parent
    reader = _RowReader(path, root, instruction, grading, with_responses, pictures, source or path.stem)
    bad = BadRows(on_bad_row, max_bad_rows)
    prompts: list[Prompt] = []
    for where, line in read_lines(path):
        try:
            prompts.append(reader.prompt(parse_json_line(line, where), where))
        except ValueError as error:
            bad.add(error)
    if not prompts:
        raise ValueError(f"{path}: holds no prompts{bad.first or '; the file is empty'}")
    bad.report(str(path), len(prompts) + len(bad.problems))
    if grading == "visualprm_v1_1":
        _warn_of_inverted_checks(prompts, path)
    return prompts


class _RowReader:
    """Turns the rows of a file into prompts; remembers the ids that are taken."""

    def __init__(
        self,
        path: Path,
        root: Path,
        instruction: str,
        grading: PromptGrading,
        with_responses: bool,
        pictures: PictureRules,
        source: str,
    ) -> None:
        self.path, self.root, self.instruction, self.grading = path, root, instruction, grading
        self.with_responses, self.pictures, self.source = with_responses, pictures, source
        self._taken: set[str] = set()

    def prompt(self, row: Mapping[str, Any], where: str) -> Prompt:
        """The prompt of a row; raises ValueError if the row cannot be used."""
        question, answer = (fields.text(row, name, where) for name in ("question", "answer"))
        has_response = self.with_responses or row.get("response") is not None
        response = fields.text(row, "response", where) if has_response else None
        names = fields.image_names(row, where)
        placeholders = question.count(IMAGE_PLACEHOLDER)
        if names and placeholders not in (0, len(names)):
            raise ValueError(
                f"{where}: field 'question' has {placeholders} {IMAGE_PLACEHOLDER} placeholders for {len(names)} images"
            )
        for name in names:
            check_image(self.root / name, f"{where}: field 'image'")
        source = str(row.get("source", self.source))
        content = (question, answer, source, response or "", *names)
        prompt_id = self._unused_name(content) if row.get("id") is None else str(row["id"])
        if prompt_id in self._taken:
            raise ValueError(
                f"{where}: field 'id' repeats {prompt_id!r}; ids key the random numbers and must be unique"
            )
        self._taken.add(prompt_id)
        return Prompt(
            prompt_id,
            question,
            tuple(names),
            answer,
            source,
            partial(_opened, self.root, tuple(names), where, self.pictures),
            grade_by_answer(answer) if self.grading == "ours" else visualprm_v1_1.grade_as_released(answer, source),
            response,
            with_instruction(question, self.instruction),
            where=where,
            numbered_id=f"{self.path.stem}-{where.rpartition(':')[2]}" if row.get("id") is None else None,
        )

    def _unused_name(self, content: Sequence[str]) -> str:
        """Named after the content; rows of the same content are numbered."""
        first = f"{self.path.stem}-{digest_of_texts(*content)}"
        names = (f"{first}-{number}" if number > 1 else first for number in count(1))
        return next(name for name in names if name not in self._taken)


def _opened(root: Path, names: Sequence[str], where: str, rules: PictureRules) -> list[Image.Image]:
    return [open_image(root / name, f"{where}: field 'image'", rules) for name in names]


def _warn_of_inverted_checks(prompts: Sequence[Prompt], path: Path) -> None:
    counts = Counter(prompt.source for prompt in prompts if visualprm_v1_1.has_inverted_check(prompt.source))
    if counts:
        logger.warning(
            "%s: grading visualprm_v1_1 takes answers of %s for right that are unlike the gold answer, as the released "
            "annotation did; their scores may be noise, so leave these sources out or grade them by 'ours'",
            path,
            ", ".join(f"{source} ({count} prompts)" for source, count in sorted(counts.items())),
        )


def grade_by_answer(gold: str) -> Callable[[str], Grade]:
    """Grade a response by comparing its final answer with ``gold``; "B. 40 cm" states the option B."""
    is_option = clean(gold).strip("()") in tuple(OPTION_LETTERS)

    def grade(response: str) -> Grade:
        extracted = extract_final_answer(response)
        option = extract_option(extracted.text, {}, OPTION_LETTERS) if is_option else None
        text = option or extracted.short_text
        return Grade(text is not None and answers_equal(text, gold), text, extracted.status)

    return grade


def without_special_tokens(
    prompts: Sequence[Prompt], tokens: Sequence[str], on_bad_row: OnBadRow, max_bad_rows: float = MAX_BAD_ROWS
) -> list[Prompt]:
    """Leave out prompts whose texts a tokenizer would read as the end of a turn or as an image, or raise an error.

    No row that is made of their answers could be trained on.

    Args:
        prompts: Image placeholders in their questions are no text.
        tokens: Texts of special tokens.
        on_bad_row: Leave them out and say how many and which, or raise an error at the first one.
        max_bad_rows: Largest share to leave out, see :func:`datamodules.storage.bad_rows.require_few_bad_rows`.

    Raises:
        ValueError: If no prompt can be used, or one cannot and ``on_bad_row`` is "error"; names its place.
    """
    if not tokens:
        return list(prompts)
    pattern = re.compile("|".join(map(re.escape, tokens)))

    def problem_of(prompt: Prompt) -> ValueError | None:
        texts = {"question": prompt.policy_text.replace(IMAGE_PLACEHOLDER, ""), "response": prompt.response or ""}
        found = [(name, match.group()) for name, text in texts.items() if (match := pattern.search(text))]
        return special_token_found(prompt.where or prompt.prompt_id, *found[0]) if found else None

    return usable_prompts(prompts, problem_of, BadRows(on_bad_row, max_bad_rows), "prompt")


def usable_prompts(
    prompts: Sequence[Prompt], problem_of: Callable[[Prompt], ValueError | None], bad: BadRows, what: str
) -> list[Prompt]:
    """Leave out prompts that have a problem, and say how many and which.

    Args:
        prompts: All of them.
        problem_of: What is wrong with one, with its place; None if nothing is.
        bad: Takes the problems in, or raises the first one.
        what: What one of the prompts is called.

    Raises:
        ValueError: If none can be used, or more cannot than ``bad`` allows.
    """
    kept = []
    for prompt in prompts:
        if problem := problem_of(prompt):
            bad.add(problem)
        else:
            kept.append(prompt)
    if prompts and not kept:
        raise ValueError(f"no {what} can be used{bad.first}")
    bad.report(f"{what}s", len(prompts))
    return kept
