"""Best-of-N evaluation: each item is one benchmark question with its N sampled solutions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch.utils.data import Dataset

from datamodules.answers.vote import equivalence_classes
from datamodules.benchmarks import BENCHMARKS, BenchmarkOptions, BenchmarkQuestion, Rules, make_benchmark
from datamodules.process.candidates import EncodedCandidates, encode_candidates
from datamodules.process.encoder import ConversationEncoder
from datamodules.process.steps import response_steps
from datamodules.rollouts import Rollout, group_by_question, read_rollouts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and its candidate solutions.

    Attributes:
        question: From the benchmark's table.
        rollouts: N of them, by sample index.
        answer_classes: For each candidate the class of its final answer, -1 if it has none.
    """

    question: BenchmarkQuestion
    rollouts: tuple[Rollout, ...]
    answer_classes: tuple[int, ...]


@dataclass
class CandidateGroup:
    """The N candidates of one question, ready to be scored.

    Attributes:
        benchmark: Name of the benchmark.
        question_id: Of the question in it.
        question: Its text.
        responses: N solutions, by sample index.
        is_correct: N verdicts.
        answer_classes: N classes of equal final answers, numbered by first appearance; -1 for no readable answer.
        encoded: The N conversations.
    """

    benchmark: str
    question_id: str
    question: str
    responses: list[str]
    is_correct: list[bool]
    answer_classes: list[int]
    encoded: EncodedCandidates


@dataclass
class CandidateBatch:
    """Questions with their candidates.

    Attributes:
        groups: One a question.
    """

    groups: list[CandidateGroup]


class BestOfNDataset(Dataset[AnsweredQuestion]):
    """Questions of one benchmark that have candidates.

    Args:
        benchmark: A name in :data:`datamodules.benchmarks.BENCHMARKS`.
        folder: Holds the benchmark's table or dataset.
        rollouts: (benchmark, question id) to at least N rollouts, see :func:`datamodules.rollouts.group_by_question`;
            those of other benchmarks are not looked at. Questions without any are left out, with a warning.
        rules: Grade all responses anew, by these rules; by default the verdicts of the rollouts count.
        options: Name of a benchmark to how it is read.

    Attributes:
        rules: Names of the rules that the verdicts are by; "unknown" where the rollouts do not say.

    Raises:
        FileNotFoundError: If the benchmark is not there.
        ValueError: If the table is wrong, rollouts belong to a question that it does not have or to another order of
            options, there are none, or units (seeds of DynaMath, groups of We-Math) lack questions with rollouts.
    """

    def __init__(
        self,
        benchmark: str,
        folder: Path,
        rollouts: Mapping[tuple[str, str], Sequence[Rollout]],
        rules: Rules | None = None,
        options: Mapping[str, BenchmarkOptions] | None = None,
    ) -> None:
        self.benchmark = make_benchmark(benchmark, rules or "ours", options)
        questions = {question.question_id: question for question in self.benchmark.read(folder)}
        own = {key[1]: tuple(group) for key, group in rollouts.items() if key[0] == benchmark}
        unknown = [question_id for question_id in own if question_id not in questions]
        if unknown:
            where = getattr(own[unknown[0]][0], "where", "rollouts")
            raise ValueError(
                f"{where}: field 'question_id': {benchmark} in {folder} has no question {unknown[0]!r} "
                f"({len(unknown)} such questions); were the rollouts sampled from another table?"
            )
        if not own:
            raise ValueError(
                f"{benchmark}: there are no rollouts for it; sample them, or leave it out of benchmark_names"
            )
        if len(own) < len(questions):
            logger.warning(
                "%s: %d of %d questions have no rollouts and are left out",
                benchmark,
                len(questions) - len(own),
                len(questions),
            )
        self.questions = [questions[question_id] for question_id in questions if question_id in own]
        self._check_units()
        self.rollouts = [own[question.question_id] for question in self.questions]
        self._check_option_orders()
        if rules is not None:
            self._grade_anew(rules)
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

    def _check_units(self) -> None:
        complete = self.benchmark.complete_units(self.questions)
        if complete.all():
            return
        message = (
            f"{self.benchmark.name}: of those that have rollouts, {self.benchmark.incomplete_units(self.questions)}"
        )
        if not self.benchmark.allow_incomplete:
            raise ValueError(f"{message}; sample the others, or set allow_incomplete in benchmark_options")
        logger.warning("%s; left out", message)
        self.questions = [q for q, is_whole in zip(self.questions, complete, strict=True) if is_whole]

    def _check_option_orders(self) -> None:
        for question, group in zip(self.questions, self.rollouts, strict=True):
            for rollout in group:
                if rollout.option_order not in (None, question.option_order):
                    where = getattr(rollout, "where", "rollouts")
                    raise ValueError(
                        f"{where}: field 'option_order': {rollout.option_order} of {rollout.benchmark} question "
                        f"{rollout.question_id!r}, but its options are in the order {question.option_order} now, so "
                        f"letters mean other options"
                    )

    def _grade_anew(self, rules: Rules) -> None:
        changed = total = 0
        for index, (question, group) in enumerate(zip(self.questions, self.rollouts, strict=True)):
            graded = []
            for rollout in group:
                grade = self.benchmark.grade(question, rollout.response)
                changed += grade.is_correct != rollout.is_correct
                graded.append(
                    replace(rollout, is_correct=grade.is_correct, extracted_answer=grade.extracted_answer, rules=rules)
                )
            total += len(graded)
            self.rollouts[index] = tuple(graded)
        logger.info(
            "%s: graded anew by rules %r: %d of %d verdicts changed", self.benchmark.name, rules, changed, total
        )

    def check_texts(self, encoder: ConversationEncoder) -> None:
        """Refuse texts that hold special tokens of the tokenizer; raises ValueError with the place."""
        for question, rollouts in zip(self.questions, self.rollouts, strict=True):
            for rollout in rollouts:
                where = getattr(rollout, "where", f"{self.benchmark.name}/{question.question_id}")
                encoder.check_conversation(question.question, [rollout.response], where)


def read_best_of_n_datasets(
    folder: Path,
    rollouts: Path,
    names: Sequence[str] | None = None,
    num_candidates: int = 8,
    rules: Rules | None = None,
    options: Mapping[str, BenchmarkOptions] | None = None,
) -> dict[str, BestOfNDataset]:
    """One dataset a benchmark.

    Args:
        folder: Holds the benchmark tables or datasets.
        rollouts: Rollout file, or folder of them.
        names: Of the benchmarks; by default those that the rollouts are from.
        num_candidates: N.
        rules: See :class:`BestOfNDataset`.
        options: Likewise.

    Returns:
        Name to dataset, in the order of the paper's tables.

    Raises:
        FileNotFoundError: If a table or the rollouts are not there.
        ValueError: If a name is unknown, or see :class:`BestOfNDataset` and :mod:`datamodules.rollouts`.
    """
    groups = group_by_question(read_rollouts(rollouts), num_candidates)
    present = dict.fromkeys(benchmark for benchmark, _ in groups)
    unknown = [name for name in [*(names or ()), *present] if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"unknown benchmark {unknown[0]!r} in {rollouts}; known are {', '.join(BENCHMARKS)}")
    chosen = present if names is None else dict.fromkeys(names)
    return {name: BestOfNDataset(name, folder, groups, rules, options) for name in BENCHMARKS if name in chosen}


@dataclass
class CandidateCollator:
    """Cuts solutions into steps and encodes the candidates of each question together.

    Attributes:
        encoder: Renders and tokenises.
        max_steps: Longer solutions have neighbouring steps merged.
        response_as_one_step: Judge each solution as a whole.
    """

    encoder: ConversationEncoder
    max_steps: int = 12
    response_as_one_step: bool = False

    def __call__(self, items: Sequence[AnsweredQuestion]) -> CandidateBatch:
        """Build a batch; raises ImageError for a broken picture and ValueError for a text that cannot be encoded."""
        return CandidateBatch([self._group(item) for item in items])

    def _group(self, item: AnsweredQuestion) -> CandidateGroup:
        question = item.question
        steps = [
            response_steps(rollout.response, self.max_steps, as_one_step=self.response_as_one_step)
            for rollout in item.rollouts
        ]
        name = f"{question.benchmark}/{question.question_id}"
        return CandidateGroup(
            question.benchmark,
            question.question_id,
            question.question,
            [rollout.response for rollout in item.rollouts],
            [rollout.is_correct for rollout in item.rollouts],
            list(item.answer_classes),
            encode_candidates(self.encoder, list(question.images), question.question, steps, name),
        )
