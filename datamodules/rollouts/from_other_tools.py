"""Rollouts made of the responses of other tools: matched with the benchmark's questions and graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion
from datamodules.rollouts.grading import question_digest, verdict_digest
from datamodules.rollouts.prediction_tables import MAX_CELL_LENGTH
from datamodules.rollouts.records import Rollout
from datamodules.rollouts.responses import Response, id_spellings, plain_index, table_answers
from datamodules.storage.bad_rows import OnBadRow
from datamodules.storage.fields import first_of

FAILURE = "Failed to obtain answer"
"""VLMEvalKit writes a text that begins so in place of a response that it did not get."""


@dataclass(frozen=True)
class Origin:
    """What the files of other tools do not say about their responses.

    Attributes:
        policy: Name of the model that wrote them.
        temperature: Of sampling; None if not known, as for the others.
        top_p: Of sampling.
        max_new_tokens: Limit on the length.
        seed: Of sampling.
    """

    policy: str
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None


@dataclass
class Import:
    """Rollouts of one benchmark and what was remarkable about their sources.

    Attributes:
        rollouts: Graded by the present rules.
        not_scored: Responses to questions in the table that the benchmark does not score; they are left out.
        unknown: Places of responses to questions that the benchmark does not have; likewise.
        empty: Places of empty responses, which are kept and count as wrong.
        failed: Places where the other tool got no response; likewise.
        cut: Places of responses that fill a spreadsheet cell to its last character, so that their end is likely lost.
        shuffled: Places of responses to questions whose options are shuffled here, in an order that the other tool may
            not have had.
    """

    rollouts: list[Rollout] = field(default_factory=list)
    not_scored: int = 0
    unknown: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    shuffled: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """A line for each remarkable thing."""
        lines = []
        if self.not_scored:
            lines.append(f"{self.not_scored} responses are to questions that are not scored; they are left out")
        if self.unknown:
            lines.append(
                f"{len(self.unknown)} responses are to questions that the benchmark does not have; they are left out "
                f"(were they made from another table?): {first_of(self.unknown, '; ')}"
            )
        if self.empty:
            lines.append(f"{len(self.empty)} responses are empty and count as wrong: {first_of(self.empty)}")
        if self.failed:
            lines.append(
                f"{len(self.failed)} responses are failures of the tool ({FAILURE!r}) and count as wrong: "
                f"{first_of(self.failed)}"
            )
        if self.cut:
            lines.append(
                f"{len(self.cut)} responses fill their cells to the limit of {MAX_CELL_LENGTH} characters, so that "
                f"their ends, and with them the final answers, are likely lost; have the tool write .tsv files: "
                f"{first_of(self.cut)}"
            )
        if self.shuffled:
            lines.append(
                f"{len(self.shuffled)} responses are to questions whose options are shuffled here; their letters are "
                f"right only if the prompts came from here, too: {first_of(self.shuffled)}"
            )
        return lines


def import_responses(
    responses: Sequence[Response],
    benchmark: Benchmark,
    questions: Sequence[BenchmarkQuestion],
    folder: Path,
    origin: Origin,
    on_bad_row: OnBadRow = "skip",
) -> Import:
    """Grade responses and make rollouts of them.

    Question ids are matched as they are, else as whole numbers, since tools write "007" and 7.0 for 7.

    Args:
        responses: To questions of the benchmark.
        benchmark: Grades.
        questions: All that it scores.
        folder: Holds its table.
        origin: Of the responses.
        on_bad_row: Leave out responses to questions that the benchmark does not have, or raise an error.

    Raises:
        ValueError: If it has none of the questions, or lacks one and ``on_bad_row`` is "error"; names the places.
    """
    by_id = {question.question_id: question for question in questions}
    scored, in_table = id_spellings(by_id), id_spellings(table_answers(benchmark, folder))
    digests = {name: question_digest(benchmark, question) for name, question in by_id.items()}
    found = Import()
    for response in responses:
        spelled = (response.question_id, plain_index(response.question_id))
        name = next((scored[text] for text in spelled if text in scored), None)
        if name is None:
            if any(text in in_table or text in benchmark.unscored_ids for text in spelled):
                found.not_scored += 1
            else:
                found.unknown.append(f"{response.where}: {response.question_id!r}")
            continue
        if not response.text.strip():
            found.empty.append(response.where)
        elif response.text.startswith(FAILURE):
            found.failed.append(response.where)
        if response.fills_cell:
            found.cut.append(response.where)
        if by_id[name].option_order is not None:
            found.shuffled.append(response.where)
        grade = benchmark.grade(by_id[name], response.text, response.extraction)
        found.rollouts.append(
            Rollout(
                benchmark=benchmark.name,
                question_id=name,
                sample_index=response.sample_index,
                response=response.text,
                extracted_answer=grade.extracted_answer,
                is_correct=grade.is_correct,
                rules=benchmark.rules,
                verdict_digest=verdict_digest(digests[name], response.text, response.extraction),
                extraction=response.extraction,
                **vars(origin),
            )
        )
    if found.unknown and (on_bad_row == "error" or not found.rollouts):
        raise ValueError(
            f"{len(found.unknown)} of {len(responses)} responses are to questions that {benchmark.name} in {folder} "
            f"does not have: {first_of(found.unknown, '; ')}; were they made from another table?"
        )
    return found
