"""VisualProcessBench: solutions whose steps people have judged (section 3.4 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batching.collate import StepBatch, kinds_of_steps, load_images, pad_rows
from datamodules.batching.lengths import TokenCounter
from datamodules.batching.ranks import digest_of, same_on_all_ranks
from datamodules.conversation.encoder import Conversation, ConversationEncoder
from datamodules.conversation.messages import IMAGE_PLACEHOLDER
from datamodules.process_bench.totals import TotalsCheck, check_totals, count_steps
from datamodules.storage import fields
from datamodules.storage.bad_rows import MAX_BAD_ROWS, BadRows, OnBadRow
from datamodules.storage.decoding import broken_pictures
from datamodules.storage.files import parse_json_line, read_lines
from datamodules.storage.images import ImageError, check_image
from datamodules.supervision.image_roots import ImageFinder, OpenedRoots

FILE_NAME = "test.jsonl"
CORRECT, NEUTRAL, INCORRECT = 1, 0, -1
NO_STEP_CORRECTNESS = -2
"""Value of ``correctness`` where a solution has no such step."""


@dataclass(frozen=True)
class JudgedSolution:
    """A row of VisualProcessBench.

    Attributes:
        sample_id: ``file:line``.
        question: Its text.
        images: Paths of files, or references to members of an archive.
        steps: At least one.
        correctness: For each step 1 (correct), 0 (neutral, not counted) or -1 (incorrect).
        data_source: Benchmark of the question.
        policy_model: Model that wrote the solution.
        answer: The gold answer of the question; empty where the row does not say.
    """

    sample_id: str
    question: str
    images: tuple[str, ...]
    steps: tuple[str, ...]
    correctness: tuple[int, ...]
    data_source: str
    policy_model: str
    answer: str = ""


@dataclass
class ProcessBenchBatch(StepBatch):
    """Judged solutions; ``mc`` is NaN and the counts are -1 throughout, sources are benchmarks.

    Attributes:
        correctness: (B, S) long: 1, 0 or -1, see :class:`JudgedSolution`; -2 at padding.
    """

    correctness: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.correctness.shape != self.step_positions.shape:
            raise ValueError(
                f"correctness: expected shape {tuple(self.step_positions.shape)}, got {tuple(self.correctness.shape)}"
            )


def read_visual_process_bench(
    folder: Path,
    totals: TotalsCheck = "auto",
    on_bad_row: OnBadRow = "skip",
    max_bad_rows: float = MAX_BAD_ROWS,
) -> list[JudgedSolution]:
    """Read ``test.jsonl`` of a folder and decode each of its images once.

    Args:
        folder: Image paths are relative to it, to its folder ``images``, or to the root of its ``images.zip``, which is
            read where it is.
        totals: See :func:`datamodules.process_bench.totals.check_totals`.
        on_bad_row: Leave out rows that cannot be used and say how many and which, or raise an error at the first one.
        max_bad_rows: Largest share of rows to leave out, see :func:`datamodules.storage.bad_rows.require_few_bad_rows`.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If no row can be used, or one cannot and ``on_bad_row`` is "error", naming file, line and field; or
            if the totals are not those of the release.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"VisualProcessBench: {path} does not exist; give the folder that holds {FILE_NAME}")
    find_image = ImageFinder(OpenedRoots().with_archives([folder]))
    solutions, bad = [], BadRows(on_bad_row, max_bad_rows)
    for where, line in read_lines(path):
        try:
            solutions.append(_parse(parse_json_line(line, where), where, find_image))
        except ValueError as error:
            bad.add(error)
    broken = broken_pictures(name for solution in solutions for name in solution.images)
    for solution in solutions:
        if problem := next((broken[name] for name in solution.images if name in broken), ""):
            bad.add(ImageError(f"{solution.sample_id}: field 'image'{problem}"))
    solutions = [solution for solution in solutions if broken.keys().isdisjoint(solution.images)]
    if not solutions:
        raise ValueError(f"{path}: holds no rows that can be used{bad.first}")
    bad.report(str(path), len(solutions) + len(bad.problems))
    _check_totals(solutions, str(path), totals)
    return solutions


def _check_totals(solutions: Sequence[JudgedSolution], place: str, totals: TotalsCheck) -> None:
    counts = count_steps((solution.data_source, solution.correctness) for solution in solutions)
    check_totals(counts, place, totals)


def _parse(row: dict[str, Any], where: str, find_image: ImageFinder) -> JudgedSolution:
    question = fields.text(row, "question", where)
    response = fields.required(row, "response", where)
    if not isinstance(response, dict):
        raise fields.wrong_field(where, "response", "an object with steps and process_correctness", response)
    steps = fields.items(response, "steps", where, "response.")
    for number, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise fields.wrong_field(where, f"response.steps[{number}]", "a string that is not blank", step)
        if not fields.is_unicode(step):
            raise fields.wrong_field(where, f"response.steps[{number}]", "valid Unicode", step)
    correctness = fields.items(response, "process_correctness", where, "response.")
    if len(correctness) != len(steps):
        raise ValueError(
            f"{where}: field 'response.process_correctness' has {len(correctness)} values for {len(steps)} steps"
        )
    for number, value in enumerate(correctness):
        if isinstance(value, bool) or value not in (CORRECT, NEUTRAL, INCORRECT):
            raise fields.wrong_field(where, f"response.process_correctness[{number}]", "1, 0 or -1", value)
    names = fields.image_names(row, where)
    placeholders = question.count(IMAGE_PLACEHOLDER)
    if names and placeholders not in (0, len(names)):
        raise ValueError(
            f"{where}: field 'question' has {placeholders} {IMAGE_PLACEHOLDER} placeholders for {len(names)} images"
        )
    return JudgedSolution(
        where,
        question,
        tuple(_checked_image(find_image(name), where) for name in names),
        tuple(steps),
        tuple(int(value) for value in correctness),
        fields.text(row, "data_source", where),
        fields.text(row, "policy_model", where),
        str(row["answer"]) if isinstance(row.get("answer"), str | int | float) else "",
    )


def _checked_image(source: str, where: str) -> str:
    check_image(source, f"{where}: field 'image'")
    return source


class VisualProcessBenchDataset(Dataset[JudgedSolution]):
    """The judged solutions of a folder, see :func:`read_visual_process_bench`.

    Args:
        folder: Holds ``test.jsonl`` and the images, unpacked or as ``images.zip``.
        totals: See :func:`datamodules.process_bench.totals.check_totals`.
        on_bad_row: See :func:`read_visual_process_bench`.
        max_bad_rows: Likewise.
    """

    def __init__(
        self,
        folder: Path,
        totals: TotalsCheck = "auto",
        on_bad_row: OnBadRow = "skip",
        max_bad_rows: float = MAX_BAD_ROWS,
    ) -> None:
        self.path, self.totals, self.on_bad_row = folder / FILE_NAME, totals, on_bad_row
        self.max_bad_rows = max_bad_rows
        self.solutions = read_visual_process_bench(folder, totals, on_bad_row, max_bad_rows)

    def __len__(self) -> int:
        return len(self.solutions)

    def __getitem__(self, index: int) -> JudgedSolution:
        return self.solutions[index]

    def leave_out_unreadable(self, counter: TokenCounter) -> None:
        """Leave out the solutions that a model cannot read: with special tokens, or pictures that it refuses.

        Args:
            counter: Has the encoder of the model.

        Raises:
            ValueError: If there is such a solution and bad rows are an error, or there is no other one.
            RuntimeError: If ranks do not have the same solutions.
        """
        kept, bad = [], BadRows(self.on_bad_row, self.max_bad_rows)
        for solution in self.solutions:
            try:
                counter.count({**vars(solution), "steps": list(solution.steps)})
                kept.append(solution)
            except ValueError as error:
                bad.add(error)
        if not kept:
            raise ValueError(f"{self.path}: no row can be read by this model{bad.first}")
        if bad.problems:
            bad.report(str(self.path), len(self.solutions))
            self.solutions = kept
            _check_totals(kept, str(self.path), self.totals)
        same_on_all_ranks(digest_of(solution.sample_id for solution in kept), "rows of VisualProcessBench")


@dataclass
class ProcessBenchCollator:
    """Encodes judged solutions; their steps stay as they were judged, however many there are."""

    encoder: ConversationEncoder

    def __call__(self, solutions: Sequence[JudgedSolution]) -> ProcessBenchBatch:
        """Build a batch; raises ImageError for a broken picture and ValueError for a text that cannot be encoded."""
        rules = self.encoder.rules
        conversations = [
            Conversation(
                load_images(s.images, s.sample_id, rules=rules.pictures),
                rules.question(s.question),
                s.steps,
                s.sample_id,
            )
            for s in solutions
        ]
        inputs, positions = self.encoder.encode(conversations)
        return ProcessBenchBatch(
            inputs,
            positions,
            mc=torch.full(positions.shape, float("nan")),
            num_mc_correct=torch.full_like(positions, -1),
            num_mc_total=torch.full_like(positions, -1),
            sample_ids=[solution.sample_id for solution in solutions],
            sources=[solution.data_source for solution in solutions],
            correctness=pad_rows([solution.correctness for solution in solutions], NO_STEP_CORRECTNESS, torch.long),
            step_kinds=kinds_of_steps([solution.steps for solution in solutions]),
            conversations=self.encoder.kept(conversations),
        )
