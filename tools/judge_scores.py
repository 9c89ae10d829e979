"""What other critics say about rollouts, as scores of candidates that Best-of-N compares with those of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.rollouts.records import Rollout
from datamodules.storage import fields
from datamodules.storage.files import read_jsonl
from lightning_modules.callbacks.candidate_scores import CandidateScore, response_digest

NO_OPINION = 0.5
"""Score of a response on none of whose steps there is a verdict."""


class JudgedSteps(NamedTuple):
    """What a row says about the steps of a response.

    Attributes:
        scores: Of the steps that have a verdict, in [0, 1].
        unjudged: How many steps have none.
        response: The steps as one text.
        of_steps: Of each step its score, or None.
    """

    scores: list[float]
    unjudged: int
    response: str
    of_steps: list[float | None]


def judged_steps(path: Path, name: str | None = None) -> dict[str, JudgedSteps]:
    """Read rows of :class:`lightning_modules.step_judge.StepJudge`, or of the annotator, by their ids.

    Rows of critics that look at whole responses, such as
    :class:`lightning_modules.response_likelihood.ResponseLikelihood`, have ``scores`` by name. The response then counts
    as one step.

    Args:
        path: The rows.
        name: Which of several ``scores`` is read; the first one by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a row is malformed or has no score of that name, or an id occurs a second time; names file, line
            and field.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give the rows that `visualprm predict` wrote of these rollouts")
    found: dict[str, JudgedSteps] = {}
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        row_id = fields.text(row, "id", where)
        if row_id in found:
            raise ValueError(f"{where}: field 'id' is {row_id!r} a second time")
        response = fields.text(row, "response", where, blank=True)
        if "scores" in row:
            score = _named(row, name, where)
            found[row_id] = JudgedSteps([score], 0, response, [score])
            continue
        steps = row.get("steps_with_score")
        if name is not None:
            raise ValueError(f"{where}: the row has scores of steps and no {name!r}; leave --score out")
        if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
            raise ValueError(f"{where}: field 'steps_with_score' must be a list of objects")
        has_verdict = [step.get("num_mc_total") != 0 for step in steps]
        of_steps = [
            fields.number(step, "score", where) if has else None for step, has in zip(steps, has_verdict, strict=True)
        ]
        scores = [score for score in of_steps if score is not None]
        found[row_id] = JudgedSteps(scores, has_verdict.count(False), response, of_steps)
    return found


def _named(row: Mapping[str, Any], name: str | None, where: str) -> float:
    scores = row["scores"]
    if not isinstance(scores, Mapping) or not scores:
        raise fields.wrong_field(where, "scores", "an object of numbers by name", scores)
    name = next(iter(scores)) if name is None else name
    if name not in scores:
        raise ValueError(f"{where}: field 'scores' has no {name!r}; it has {', '.join(scores)}")
    return fields.number(scores, name, where)


def judge_scores(judged: Mapping[str, JudgedSteps], rollouts: Iterable[Rollout]) -> list[CandidateScore]:
    """Scores of all rollouts: the mean over the steps with a verdict, :data:`NO_OPINION` where there is none.

    Args:
        judged: See :func:`judged_steps`; ids are benchmark, question id and number of the sample with slashes between.
        rollouts: The candidates.

    Raises:
        ValueError: If a rollout has no row, or one of another response; names the first and says how many there are.
    """
    rollouts = list(rollouts)
    missing = [key for key in map(_key, rollouts) if key not in judged]
    if missing:
        raise ValueError(f"{len(missing)} of {len(rollouts)} rollouts were not judged, the first is {missing[0]!r}")
    # Steps may have been merged, and their white space cut.
    others = [_key(each) for each in rollouts if judged[_key(each)].response.split() != each.response.split()]
    if others:
        raise ValueError(
            f"{len(others)} of {len(rollouts)} rollouts have another response than was judged, the first is "
            f"{others[0]!r}; judge the present rollouts"
        )
    return [_score(rollout, judged[_key(rollout)].scores) for rollout in rollouts]


def _key(rollout: Rollout) -> str:
    return f"{rollout.benchmark}/{rollout.question_id}/{rollout.sample_index}"


def _score(rollout: Rollout, scores: Sequence[float]) -> CandidateScore:
    return CandidateScore(
        benchmark=rollout.benchmark,
        question_id=rollout.question_id,
        sample_index=rollout.sample_index,
        step_scores=list(scores),
        response_score=math.fsum(scores) / len(scores) if scores else NO_OPINION,
        response_digest=response_digest(rollout.response),
    )
