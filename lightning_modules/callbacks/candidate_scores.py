"""The file of candidate scores, which a test of one reward model writes and another one compares with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.storage.fields import integer, number, numbers, text
from datamodules.storage.files import atomic_write_jsonl, read_jsonl

CANDIDATE_SCORES = "candidate_scores.jsonl"


@dataclass(frozen=True)
class CandidateScore:
    """A line of the file.

    Attributes:
        benchmark: Name of the benchmark.
        question_id: Unique within the benchmark.
        sample_index: Number of the candidate, from 0.
        step_scores: One score per step.
        response_score: Score by which the candidate is ranked.
        response_digest: Digest of the text, see :func:`response_digest`; tells whether another run scored the same one.
        step_uncertainties: One uncertainty per step; None, and no field of the file, if the model learns none.
    """

    benchmark: str
    question_id: str
    sample_index: int
    step_scores: list[float]
    response_score: float
    response_digest: str
    step_uncertainties: list[float] | None = None


def response_digest(response: str) -> str:
    """A short digest of a response."""
    return hashlib.blake2b(response.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def write_candidate_scores(path: Path, scores: Sequence[CandidateScore]) -> None:
    """Write the file, whole or not at all."""
    atomic_write_jsonl(
        path, ({name: value for name, value in vars(score).items() if value is not None} for score in scores)
    )


def read_candidate_scores(path: Path) -> list[CandidateScore]:
    """Read the file, with the scores of the steps.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed; names file, line and field. If there is none.
    """
    scores = []
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        scores.append(
            CandidateScore(
                text(row, "benchmark", where),
                text(row, "question_id", where),
                integer(row, "sample_index", where, minimum=0),
                numbers(row, "step_scores", where),
                number(row, "response_score", where),
                text(row, "response_digest", where) if "response_digest" in row else "",
                numbers(row, "step_uncertainties", where) if "step_uncertainties" in row else None,
            )
        )
    if not scores:
        raise ValueError(f"{path} holds no scores; run the test that writes it again")
    return scores


class OutcomeScores:
    """Response scores of another run, by candidate.

    Args:
        path: A file that :func:`write_candidate_scores` wrote; ``response_digest`` may be missing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed or a candidate is duplicate; names file, line and field.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; `visualprm test` of an outcome reward model writes it as {CANDIDATE_SCORES}"
            )
        self.path = path
        self._rows: dict[tuple[str, str, int], tuple[float, str | None]] = {}
        for line, row in read_jsonl(path):
            where = f"{path}:{line}"
            key = (text(row, "benchmark", where), text(row, "question_id", where))
            index = integer(row, "sample_index", where)
            score = number(row, "response_score", where)
            digest = text(row, "response_digest", where) if "response_digest" in row else None
            if (*key, index) in self._rows:
                raise ValueError(f"{where}: {key[0]} question {key[1]!r}: sample_index {index} occurs a second time")
            self._rows[*key, index] = (score, digest)

    def of(self, benchmark: str, question_id: str, digests: Sequence[str]) -> list[float]:
        """Scores of candidates 0 to N - 1 of a question, given the digests of their responses.

        Raises:
            ValueError: If a score is missing, or belongs to another response.
        """
        scores = []
        for index, digest in enumerate(digests):
            where = f"{self.path}: {benchmark} question {question_id!r}, sample_index {index}"
            if (benchmark, question_id, index) not in self._rows:
                raise ValueError(f"{where}: no score; test the outcome reward model on the same rollouts first")
            score, known = self._rows[benchmark, question_id, index]
            if known not in (None, digest):
                raise ValueError(f"{where}: the score is that of another response; score the present rollouts")
            scores.append(score)
        return scores
