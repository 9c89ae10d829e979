"""The data of Best-of-N: each item is one benchmark question with its N sampled solutions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch.utils.data import Dataset

from datamodules.answers.vote import equivalence_classes
from datamodules.batching.lengths import TokenCounter
from datamodules.batching.ranks import digest_of, same_on_all_ranks
from datamodules.benchmarks import BENCHMARKS, BenchmarkOptions, BenchmarkQuestion, make_benchmark
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.reading_rules import PictureRules, ReadingRules
from datamodules.rollouts.check import RolloutCheck, check_rollouts
from datamodules.rollouts.question_as_read import question_as_read
from datamodules.rollouts.records import Rollout, place, read_rollouts
from datamodules.storage.bad_rows import MAX_BAD_ROWS, BadRows, OnBadRow
from datamodules.storage.fields import first_of
from datamodules.storage.images import check_image

logger = logging.getLogger(__name__)

OnMissing = Literal["error", "skip"]
VerdictRules = Literal["ours", "official", "vlmevalkit", "file"]


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and its candidate solutions.

    Attributes:
        question: From the benchmark's table.
        rollouts: N of them, by sample index.
        answer_classes: For each candidate the class of equal final answers that its own belongs to; -1 if it has none.
    """

    question: BenchmarkQuestion
    rollouts: tuple[Rollout, ...]
    answer_classes: tuple[int, ...]


class BestOfNDataset(Dataset[AnsweredQuestion]):
    """The questions of one benchmark with their candidates, checked against the benchmark.

    Args:
        benchmark: A name in :data:`datamodules.benchmarks.BENCHMARKS`.
        folder: Folder with the benchmark's table or dataset.
        rollouts: At least samples 0 to N - 1 of each question. Those of other benchmarks are ignored.
        num_candidates: N.
        rules: Whose verdicts count. "ours", "official" and "vlmevalkit": those of these rules; rollouts that were not
            graded by them are graded. None, the default: those of the rules that each rollout names, ours if it names
            none. "file": the verdicts as they are in the file, for instance those of a judge. Verdicts of the file that
            differ from those of the rules are reported in each case.
        options: For each benchmark by name how it is read.
        on_missing: What to do about questions without rollouts: raise an error that names them, or skip and report
            them.
        bad: What became of the rows of the rollout file that cannot be used. If they are left out, so are as many
            questions that lack rollouts, rollouts of unknown questions, and questions that a model cannot read.

    Attributes:
        rules: Names of the rules that the verdicts come from; "unknown" where verdicts of the file do not say.

    Raises:
        FileNotFoundError: If the benchmark is not there.
        ValueError: If the table is wrong; if rollouts are missing, occur twice, or are of unknown questions or of
            another order of options; or if units (seeds of DynaMath, groups of We-Math) lack questions with rollouts.
    """

    def __init__(
        self,
        benchmark: str,
        folder: Path,
        rollouts: Sequence[Rollout],
        num_candidates: int,
        rules: VerdictRules | None = None,
        options: Mapping[str, BenchmarkOptions] | None = None,
        on_missing: OnMissing = "error",
        bad: BadRows | None = None,
    ) -> None:
        bad = bad or BadRows()
        self.on_bad_row, self.max_bad_rows = bad.on_bad_row, bad.max_bad_rows
        by_rules = None if rules == "file" else rules
        self.benchmark = make_benchmark(benchmark, by_rules or "ours", options)
        questions = {question.question_id: question for question in self.benchmark.read(folder, images="needed")}
        check = check_rollouts(self.benchmark, list(questions.values()), rollouts, num_candidates, by_rules)
        lost = _refuse(check, on_missing, bad)
        if check.stale:
            used = "those of the file" if rules == "file" else "the present ones"
            logger.warning("%s: %s; %s are used", check.benchmark, check.stale, used)
        groups = check.groups if rules == "file" else check.graded
        self.questions = [questions[question_id] for question_id in groups if question_id not in lost]
        self._check_units(is_lenient=bool(lost))
        self.rollouts = [tuple(groups[question.question_id][:num_candidates]) for question in self.questions]
        self.rules = sorted({rollout.rules or "unknown" for group in self.rollouts for rollout in group})
        if len(self.rules) > 1:
            logger.warning("%s: the rollouts are graded by different rules: %s", benchmark, ", ".join(self.rules))
        self._classes: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> AnsweredQuestion:
        rollouts = self.rollouts[index]
        if index not in self._classes:
            # Comparing answers can take a moment, so it is done where the item is used, and once.
            self._classes[index] = tuple(equivalence_classes([rollout.extracted_answer for rollout in rollouts]))
        return AnsweredQuestion(self.questions[index], rollouts, self._classes[index])

    def _check_units(self, is_lenient: bool = False) -> None:
        complete = self.benchmark.complete_units(self.questions)
        if complete.all():
            return
        message = (
            f"{self.benchmark.name}: of those that have rollouts, {self.benchmark.incomplete_units(self.questions)}"
        )
        if not (self.benchmark.allow_incomplete or is_lenient):
            raise ValueError(f"{message}; sample the others, or set allow_incomplete in benchmark_options")
        logger.warning("%s; left out", message)
        self.questions = [q for q, is_whole in zip(self.questions, complete, strict=True) if is_whole]

    def leave_out_unreadable(self, counter: TokenCounter) -> None:
        """Leave out the questions that a model cannot read, and the units that they belong to; one notice names them.

        Args:
            counter: Has the encoder of the model.

        Raises:
            ValueError: If there is such a question and bad rows are an error, or there is no other question.
            RuntimeError: If ranks do not have the same questions.
        """
        bad = BadRows(self.on_bad_row, self.max_bad_rows)
        kept, count = [], len(self.questions)
        for index, (question, rollouts) in enumerate(zip(self.questions, self.rollouts, strict=True)):
            try:
                check_readable(question, rollouts, counter.encoder)
                if question.images:
                    counter.added(*_sizes_and_places(question, counter.encoder.rules.pictures))
                kept.append(index)
            except ValueError as error:
                bad.add(error)
        if bad.problems:
            by_id = {self.questions[index].question_id: self.rollouts[index] for index in kept}
            self.questions = [self.questions[index] for index in kept]
            self._check_units(is_lenient=True)
            self.rollouts = [by_id[question.question_id] for question in self.questions]
            self._classes = {}
        if not self.questions:
            raise ValueError(f"{self.benchmark.name}: no question can be read by this model{bad.first}")
        bad.report(f"{self.benchmark.name}: questions with their rollouts", count)
        same_on_all_ranks(
            digest_of(question.question_id for question in self.questions), f"questions of {self.benchmark.name}"
        )
        self._report_prompts(counter.encoder.rules)

    def _report_prompts(self, rules: ReadingRules) -> None:
        """Say which rollouts lack the prompt that the model is to read."""
        unasked = [place(rollout) for group in self.rollouts for rollout in group if rollout.prompt is None]
        if unasked and rules.question_text == "as_asked":
            logger.warning(
                "%s: %d rollouts do not say what the policy was asked (field 'prompt'). The reward model is to read it "
                "(question_text: as_asked), but gets the question alone for them, and their scores may differ: %s",
                self.benchmark.name,
                len(unasked),
                first_of(unasked),
            )


def check_readable(question: BenchmarkQuestion, rollouts: Sequence[Rollout], encoder: ConversationEncoder) -> None:
    """Raise a ValueError that names the rollout if it or the question cannot be read: special tokens, placeholders."""
    read = question_as_read(question, rollouts, encoder.rules)
    for text, rollout in zip(read.texts, rollouts, strict=True):
        encoder.check_conversation(text, [rollout.response], place(rollout), len(read.images))


def _sizes_and_places(
    question: BenchmarkQuestion, rules: PictureRules
) -> tuple[list[tuple[int, int]], None, list[str]]:
    images = question.images
    if isinstance(images, LazyImages):
        pairs = zip(images.sources, images.places, strict=True)
        sizes = [check_image(source, where, upright=rules == "ours") for source, where in pairs]
        return sizes, None, list(images.places)
    name = f"{question.benchmark}/{question.question_id}"
    return [image.size for image in images], None, [f"{name}: picture {n}" for n in range(len(images))]


def _refuse(check: RolloutCheck, on_missing: OnMissing, bad: BadRows) -> set[str]:
    """Raise an error about everything that is wrong with the candidates of a benchmark, unless bad rows explain it.

    Returns:
        Questions that lack rollouts, and are left out for it.
    """
    if not check.groups:
        raise ValueError(
            f"{check.benchmark}: there are no rollouts for it; sample them, or leave it out of benchmark_names"
            + "".join(f". {line}" for line in check.broken)
        )
    problems = check.in_doubt
    lost = {*check.missing, *check.incomplete}
    if lost and len(lost) <= len(bad.problems):
        lines = ". ".join(line for line in (check.lacking, check.absent) if line)
        logger.warning("%s: %s; left out, as rows of the rollout file were", check.benchmark, lines)
    else:
        lost = set()
        if check.lacking:
            problems.append(check.lacking)
        if check.absent and on_missing == "error":
            problems.append(f"{check.absent}; sample them, or set on_missing_rollouts to 'skip' to leave them out")
        elif check.absent:
            logger.warning("%s: %s; they are left out", check.benchmark, check.absent)
    if check.foreign and (problems or bad.on_bad_row == "error"):
        problems.insert(0, check.foreign)
    elif check.foreign:
        logger.warning("%s: %s; they are left out", check.benchmark, check.foreign)
    if problems:
        raise ValueError(f"{check.benchmark}: rollouts do not fit the benchmark: {'. '.join(problems)}")
    return lost


def read_best_of_n_datasets(
    folder: Path,
    rollouts: Path,
    names: Sequence[str] | None = None,
    num_candidates: int = 8,
    rules: VerdictRules | None = None,
    options: Mapping[str, BenchmarkOptions] | None = None,
    on_missing: OnMissing = "error",
    on_bad_row: OnBadRow = "skip",
    max_bad_rows: float = MAX_BAD_ROWS,
) -> dict[str, BestOfNDataset]:
    """Read the rollouts and make one dataset for each benchmark.

    Args:
        folder: Folder with the benchmark tables or datasets.
        rollouts: Rollout file, or folder of such files.
        names: Names of the benchmarks; by default all that have rollouts.
        num_candidates: N.
        rules: See :class:`BestOfNDataset`.
        options: See :class:`BestOfNDataset`.
        on_missing: See :class:`BestOfNDataset`.
        on_bad_row: Leave out rows of the rollout file that cannot be used, and the questions that they belong to, and
            say how many and which; or raise an error at the first one.
        max_bad_rows: Largest share of these, see :func:`datamodules.storage.bad_rows.require_few_bad_rows`.

    Returns:
        The datasets by name, in the order of the paper's tables.

    Raises:
        FileNotFoundError: If a table or the rollouts are not there.
        ValueError: If a name is unknown, or see :class:`BestOfNDataset` and :mod:`datamodules.rollouts.records`.
    """
    bad = BadRows(on_bad_row, max_bad_rows)
    rows = read_rollouts(rollouts, bad)
    present = dict.fromkeys(row.benchmark for row in rows)
    unknown = [name for name in [*(names or ()), *present] if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"unknown benchmark {unknown[0]!r} in {rollouts}; known are {', '.join(BENCHMARKS)}")
    chosen = present if names is None else dict.fromkeys(names)
    return {
        name: BestOfNDataset(name, folder, rows, num_candidates, rules, options, on_missing, bad)
        for name in BENCHMARKS
        if name in chosen
    }
