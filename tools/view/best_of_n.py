"""Benchmark questions with their candidates, as `visualprm test` has scored them, or rollouts alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.answers.vote import equivalence_classes
from datamodules.benchmarks import BENCHMARKS, BenchmarkOptions, BenchmarkQuestion, make_benchmark
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.best_of_n import VerdictRules
from datamodules.conversation.instructions import without_instruction
from datamodules.conversation.steps import response_steps, split_into_steps
from datamodules.rollouts.check import check_rollouts
from datamodules.rollouts.records import Rollout, place, read_rollouts
from datamodules.storage.bad_rows import BadRows
from lightning_modules.callbacks.candidate_scores import CandidateScore, read_candidate_scores, response_digest
from tools.view.contents import Question, Solution

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmarks:
    """Where the questions come from.

    Attributes:
        folder: Of the benchmark tables or datasets.
        rules: Whose verdicts count, see :class:`datamodules.best_of_n.BestOfNDataset`.
        options: For each benchmark by name how it is read.
    """

    folder: Path
    rules: VerdictRules | None = None
    options: Mapping[str, BenchmarkOptions] | None = None


def candidate_questions(
    rollouts: Path, scores: Path | None = None, benchmarks: Benchmarks | None = None
) -> list[Question]:
    """Questions with their candidates.

    Args:
        rollouts: Rollout file, or folder of such files.
        scores: ``candidate_scores.jsonl`` of a test on them: candidates without a score are left out.
        benchmarks: Gives questions, pictures, gold answers and verdicts; without it the question is what the policy was
            asked, and the verdict that of the file.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is wrong; if scores are of other rollouts; or if a benchmark is not known.
    """
    rows: Sequence[Rollout] = read_rollouts(rollouts, BadRows(max_bad_rows=1.0))
    scored = None if scores is None else _by_candidate(read_candidate_scores(scores), scores)
    if scored is not None:
        rows = [row for row in rows if (row.benchmark, row.question_id, row.sample_index) in scored]
        if len(rows) != len(scored):
            logger.warning(
                "%s: %d of %d scores have no rollout in %s", scores, len(scored) - len(rows), len(scored), rollouts
            )
        if not rows:
            raise ValueError(f"{scores}: none of its candidates is in {rollouts}; give the rollouts that were scored")
    found: list[Question] = []
    for name in dict.fromkeys(row.benchmark for row in rows):
        own = [row for row in rows if row.benchmark == name]
        groups, questions = _with_benchmark(name, own, benchmarks) if benchmarks else (_grouped(own), {})
        found += [_question(questions.get(key), group, scored, scores) for key, group in groups.items()]
    return found


def _by_candidate(scores: Sequence[CandidateScore], path: Path) -> dict[tuple[str, str, int], CandidateScore]:
    found = {(each.benchmark, each.question_id, each.sample_index): each for each in scores}
    if len(found) != len(scores):
        raise ValueError(f"{path}: {len(scores) - len(found)} candidates occur a second time")
    return found


def _grouped(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.question_id, []).append(rollout)
    return {name: sorted(group, key=lambda rollout: rollout.sample_index) for name, group in groups.items()}


def _with_benchmark(
    name: str, rollouts: Sequence[Rollout], benchmarks: Benchmarks
) -> tuple[dict[str, list[Rollout]], dict[str, BenchmarkQuestion]]:
    """Rollouts by question with the verdicts that the test counts, and the questions."""
    if name not in BENCHMARKS:
        raise ValueError(f"{place(rollouts[0])}: unknown benchmark {name!r}; known are {', '.join(BENCHMARKS)}")
    rules = None if benchmarks.rules == "file" else benchmarks.rules
    benchmark = make_benchmark(name, rules or "ours", benchmarks.options)
    questions = benchmark.read(benchmarks.folder, images="optional")
    check = check_rollouts(benchmark, questions, rollouts, rules=rules)
    for line in check.broken:
        logger.warning("%s: %s", name, line)
    groups = check.groups if benchmarks.rules == "file" else check.graded
    return groups, {question.question_id: question for question in questions}


def _question(
    question: BenchmarkQuestion | None,
    rollouts: Sequence[Rollout],
    scored: Mapping[tuple[str, str, int], CandidateScore] | None,
    path: Path | None,
) -> Question:
    first = rollouts[0]
    classes = equivalence_classes([rollout.extracted_answer for rollout in rollouts])
    solutions = []
    for rollout, answer_class in zip(rollouts, classes, strict=True):
        score = scored[first.benchmark, first.question_id, rollout.sample_index] if scored is not None else None
        solutions.append(_solution(rollout, answer_class, score, path))
    text = question.question if question else without_instruction(first.prompt or "")
    images = question.images if question else ()
    return Question(
        first.benchmark,
        first.policy,
        first.question_id,
        text,
        question.gold if question else (),
        images.sources if isinstance(images, LazyImages) else (),
        solutions,
    )


def _solution(rollout: Rollout, answer_class: int, score: CandidateScore | None, path: Path | None) -> Solution:
    if score is not None and score.response_digest not in ("", response_digest(rollout.response)):
        raise ValueError(
            f"{path}: {rollout.benchmark} question {rollout.question_id!r}, sample_index {rollout.sample_index}: the "
            f"score is that of another response than at {place(rollout)}; give the rollouts that were scored"
        )
    steps = response_steps(rollout.response) if score is None else _scored_steps(rollout, len(score.step_scores))
    return Solution(
        name=str(rollout.sample_index),
        steps=steps,
        scores=score.step_scores if score else (),
        score=score.response_score if score else None,
        answer=rollout.extracted_answer,
        answer_class=answer_class,
        is_right=rollout.is_correct,
    )


def _scored_steps(rollout: Rollout, count: int) -> list[str]:
    """The steps of a response as the model that gave ``count`` scores read them.

    The file does not say how many steps the model merges. There are so few ways that the number of scores tells.
    """
    most = max(len(split_into_steps(rollout.response, "released")), 1)
    for white_space in ("ours", "released"):
        for max_steps in (None, *range(most, 0, -1)):
            options = {} if max_steps is None else {"max_steps": max_steps}
            steps = response_steps(rollout.response, white_space=white_space, **options)
            if len(steps) == count:
                return steps
    raise ValueError(
        f"{place(rollout)}: the response has {most} steps, and the scores are of {count}; see the scores' run"
    )
