"""A solution that a policy has written, graded, as a row of a rollout file."""

from __future__ import annotations

from typing import Any

from datamodules.policy.prompts import Prompt
from datamodules.rollouts.records import Rollout, rollout_row
from lightning_modules.generation.sampling import SamplingParameters


def graded_rollout(
    prompt: Prompt, sample_index: int, response: str, sampling: SamplingParameters, policy: str
) -> dict[str, Any]:
    """The row of a solution; see :mod:`datamodules.rollouts.records`.

    Args:
        prompt: A benchmark question; grades the solution.
        sample_index: Number of the solution.
        response: Its text.
        sampling: How it was sampled.
        policy: Name of the policy.
    """
    grade = prompt.grade(response)
    return rollout_row(
        Rollout(
            benchmark=prompt.source,
            question_id=prompt.prompt_id.removeprefix(f"{prompt.source}/"),
            sample_index=sample_index,
            response=response,
            extracted_answer=grade.extracted_answer,
            is_correct=grade.is_correct,
            policy=policy,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            seed=sampling.seed,
            top_k=sampling.top_k,
            verdict_digest=prompt.verdict_digest(response) if prompt.verdict_digest else None,
            prompt=prompt.policy_text,
            **prompt.details,
        )
    )
