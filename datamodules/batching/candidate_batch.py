"""Batches of benchmark questions, each with its N candidate solutions, ready to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.best_of_n import AnsweredQuestion
from datamodules.conversation.candidates import EncodedCandidates, encode_candidates
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.steps import DEFAULT_MAX_STEPS, response_steps
from datamodules.rollouts.question_as_read import question_as_read


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
        groups: One for each question.
    """

    groups: list[CandidateGroup]

    @property
    def sample_ids(self) -> list[str]:
        """Benchmark and id of each question."""
        return [f"{group.benchmark}/{group.question_id}" for group in self.groups]


@dataclass
class CandidateCollator:
    """Splits solutions into steps and encodes the candidates of each question together.

    Attributes:
        encoder: Renders and tokenizes.
        max_steps: Solutions with more steps have neighbouring ones merged.
        response_as_one_step: Whether each solution is one step, as outcome reward models judge it.
    """

    encoder: ConversationEncoder
    max_steps: int = DEFAULT_MAX_STEPS
    response_as_one_step: bool = False

    def __call__(self, items: Sequence[AnsweredQuestion]) -> CandidateBatch:
        """Build a batch; raises ImageError for a broken picture and ValueError for a text that cannot be encoded."""
        return CandidateBatch([self._group(item) for item in items])

    def _group(self, item: AnsweredQuestion) -> CandidateGroup:
        question, rules = item.question, self.encoder.rules
        steps = [
            response_steps(
                rollout.response,
                self.max_steps,
                as_one_step=self.response_as_one_step,
                white_space=rules.white_space,
            )
            for rollout in item.rollouts
        ]
        read = question_as_read(question, item.rollouts, rules)
        name = f"{question.benchmark}/{question.question_id}"
        return CandidateGroup(
            question.benchmark,
            question.question_id,
            question.question,
            [rollout.response for rollout in item.rollouts],
            [rollout.is_correct for rollout in item.rollouts],
            list(item.answer_classes),
            encode_candidates(
                self.encoder,
                read.opened(rules.pictures),
                read.texts,
                steps,
                name,
                read.max_tiles,
            ),
        )
