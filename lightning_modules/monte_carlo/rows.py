"""The rows of an annotated prompt, in the layout of VisualPRM400K-v1.1-Raw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules.conversation.reading_rules import QuestionText
from datamodules.conversation.steps import STEP_SEPARATOR
from datamodules.policy.prompts import Prompt
from lightning_modules.monte_carlo.draws import Counts
from lightning_modules.monte_carlo.plan import AnnotationPlan
from lightning_modules.monte_carlo.search import first_wrong_step
from lightning_modules.monte_carlo.window import Solution


def rows_of(
    prompt: Prompt,
    solutions: Mapping[int, Solution],
    plan: AnnotationPlan,
    question_text: QuestionText,
    *,
    are_sampled: bool = True,
) -> list[dict[str, Any]]:
    """One row per solution, in order of their numbers.

    Fields beyond those of the release stand only where they say something: ``num_mc_stopping`` and ``num_mc_search``
    where not every step has K continuations, ``response_cut`` for a solution that was cut at the limit of new tokens.

    Args:
        prompt: What was asked.
        solutions: By number.
        plan: How they were drawn and continued.
        question_text: See :class:`lightning_modules.annotation.MonteCarloAnnotator`.
        are_sampled: Whether the solutions were sampled with the continuations, so that their share of right ones may be
            the score before the first step.
    """
    is_right = [solutions[number].outcome.is_right for number in sorted(solutions)]
    rows = []
    for number in sorted(solutions):
        solution = solutions[number]
        row: dict[str, Any] = {"id": f"{prompt.prompt_id}/{number}", "source": prompt.source}
        if prompt.image_names:
            names = list(prompt.image_names)
            row["image"] = names[0] if len(names) == 1 else names
        row |= {
            "question": prompt.policy_text if question_text == "as_asked" else prompt.question,
            "question_orig": prompt.question,
            "answer": prompt.answer,
            "response": STEP_SEPARATOR.join(solution.steps),
            "steps_with_score": scored_steps(solution, plan),
            "num_mc_sequences": plan.num_continuations,
            **plan.marks,
        }
        if solution.outcome.is_cut:
            row["response_cut"] = True
        if are_sampled and plan.solution_sampling == plan.sampling:
            row["question_accuracy"] = sum(is_right) / len(is_right)
        rows.append(row)
    return rows


def scored_steps(solution: Solution, plan: AnnotationPlan) -> list[dict[str, Any]]:
    """The steps of a solution with their scores and counts.

    ``num_mc_cut`` and ``num_mc_unparsed`` stand only where there are such continuations. A step that binary search
    has inferred has a score of 0 or 1, ``is_inferred``, and no counts.
    """
    scored: list[dict[str, Any]] = []
    known = solution.known(plan)
    wrong = first_wrong_step(known, len(solution.steps))
    num_continued = plan.num_continued(solution.steps)
    for step, text in enumerate(solution.steps, start=1):
        counts = solution.counts(step)
        if plan.early_stop and scored and scored[-1]["score"] == 0:
            counts = Counts(0, 0, 0, 0)
        elif counts is None and step > num_continued:
            # A finished solution has one continuation, the empty one.
            counts = Counts(int(solution.outcome.is_right), 1, 0, 0)
        if counts is None:
            scored.append({"step": text, "score": float(step < wrong), "is_inferred": True})
        else:
            scored.append({"step": text, **_fields(counts)})
    return scored


def _fields(counts: Counts) -> dict[str, Any]:
    fields = {
        "score": counts.correct / counts.total if counts.total else 0.0,
        "num_mc_correct": counts.correct,
        "num_mc_total": counts.total,
    }
    apart = {"num_mc_cut": counts.cut, "num_mc_unparsed": counts.unparsed}
    return fields | {name: number for name, number in apart.items() if number}
