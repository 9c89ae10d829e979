"""Solutions of VisualProcessBench: what people say of each step, and what the reward model says."""

from __future__ import annotations

import logging
from pathlib import Path

from datamodules.process_bench.solutions import FILE_NAME, JudgedSolution, read_visual_process_bench
from datamodules.process_bench.totals import DATASET_NAME
from lightning_modules.callbacks.step_scores import StepScores, read_step_scores
from lightning_modules.metrics.response_score import aggregate_step_scores
from tools.view.contents import Question, Solution

logger = logging.getLogger(__name__)


def judged_questions(folder: Path, scores: Path | None = None) -> list[Question]:
    """Questions of VisualProcessBench; the solutions of one question about the same pictures stand together.

    Args:
        folder: Holds ``test.jsonl`` and the pictures.
        scores: ``process_bench_scores.jsonl`` of a test on it.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If no row can be used, or the scores are of other solutions.
    """
    by_line = {row.line: row for row in read_step_scores(scores)} if scores else {}
    questions: dict[tuple[str, ...], Question] = {}
    unscored = 0
    for solution in read_visual_process_bench(folder):
        line = solution.sample_id.rpartition(":")[2]
        row = by_line.get(int(line))
        unscored += row is None
        if row is not None and list(row.correctness) != list(solution.correctness):
            raise ValueError(
                f"{scores}: the scores of {row.sample_id} are of other steps than those at {solution.sample_id}; give "
                f"the VisualProcessBench that was scored"
            )
        question = questions.setdefault(
            (solution.data_source, solution.question, *solution.images),
            Question(
                DATASET_NAME,
                solution.data_source,
                f"{FILE_NAME}:{line}",
                solution.question,
                (solution.answer,) if solution.answer else (),
                solution.images,
            ),
        )
        question.solutions.append(_solution(solution, row))
    if by_line and unscored:
        logger.warning("%s: %d solutions of %s have no scores", scores, unscored, folder)
    return list(questions.values())


def _solution(solution: JudgedSolution, row: StepScores | None) -> Solution:
    return Solution(
        name=solution.policy_model,
        steps=solution.steps,
        scores=row.step_scores if row else (),
        labels=solution.correctness,
        score=aggregate_step_scores(row.step_scores, "mean") if row else None,
        # Of the benchmark the labels are the truth; they say nothing of the final answer.
        is_right=min(solution.correctness) >= 0,
    )
