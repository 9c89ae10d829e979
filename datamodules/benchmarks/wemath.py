"""We-Math, testmini: multi-step questions together with the one-step questions that they are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.extract import extract_final_answer
from datamodules.benchmarks import vlmevalkit
from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Grade
from datamodules.benchmarks.cloned import ClonedRepository, ResponseFields
from datamodules.benchmarks.grading import as_scores, grade_option, with_options
from datamodules.benchmarks.hub import HubLayout, HubRow
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import TableRow, options_of_columns

_UNSPLIT = "option text"
"""Column of an option text that does not split."""

STEP_COUNTS = {"2steps": 2, "3steps": 3}
LETTERS = "ABCDEFGH"

_OPTION_START = re.compile(r"(?:^|[;；\n])\s*\(?([A-H])\)?\s*[.．、:：]+\s*")
_LOOSE_START = re.compile(r"(?:^|[;；\s])\s*\(?([A-H])\)?\s*[.．、:：]+\s*(?=[^;；\s])")


@dataclass(frozen=True)
class Group:
    """Rows of one group.

    Attributes:
        steps: Row numbers of the one-step questions.
        multi: Row number of the multi-step question.
    """

    steps: list[int]
    multi: int


class WeMath(Benchmark):
    """Option letters; the headline is Score (Strict): mastered groups plus half of the inadequately generalised ones.

    Of a group with one-step verdicts s and multi-step verdict m: complete mastery (CM) is all s and m, inadequate
    generalisation (IG) all s but not m, insufficient knowledge (IK) not all s and not m, rote memorisation (RM) m but
    not all s. The loose score counts m with any s as mastery.
    """

    name: ClassVar[str] = "WeMath"
    table: ClassVar[str] = "WeMath.tsv"
    headline: ClassVar[str] = "score_strict"
    hub: ClassVar[HubLayout] = HubLayout(
        ("We-Math/We-Math",), ("ID", "key", "question", "option", "answer"), ("image_path", "image")
    )
    clone: ClassVar[ClonedRepository] = ClonedRepository(
        "We-Math/We-Math", {"testmini": "data/testmini.json"}, ("ID", "key", "question", "option", "answer")
    )
    releases: ClassVar[Mapping[str, Release]] = {
        "testmini": Release(
            questions=1740,
            tables=("WeMath.tsv",),
            md5="b5e969a075f01290a542411fb7766388",
            composition={
                "key": {
                    **dict.fromkeys(("2steps_1", "2steps_2", "2steps_multi"), 360),
                    **dict.fromkeys(("3steps_1", "3steps_2", "3steps_3", "3steps_multi"), 165),
                }
            },
        )
    }
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "ID", "key", "A", "B")
    official_differences: ClassVar[Mapping[str, str]] = {
        "raw_parser": 'the answer is the first character after the last "Answer", the signs > < : . aside, and must be '
        "one of A to H; a boxed letter is not read and a word like Because counts as B",
    }
    vlmevalkit_differences: ClassVar[Mapping[str, str]] = {
        "inferred_option": "an option is the only letter among the last four words, a letter behind 'answer is', or "
        "the only option whose text occurs",
    }
    response_fields: ClassVar[ResponseFields] = ResponseFields(("ID", "key"))
    order: ClassVar[int] = 6

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The options, one text in the dataset, become columns; the text stays beside them where it does not split."""
        values = row.values
        kept = ("question", "answer", "ID", "key")
        cells = {"index": f"{values['ID']}-{values['key']}", "knowledge concept": values.get("knowledge concept")}
        text = str(values["option"] or "")
        options = _split_options(text)
        if not options:
            cells[_UNSPLIT] = text
            options = _split_loosely(text)
        return options | cells | {name: values[name] for name in kept}

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion:
        """A row, with its group ``ID`` and its ``key`` (``2steps_1``, ..., ``3steps_multi``) in the metadata."""
        key = row.require("key").strip()
        prefix, _, part = key.partition("_")
        known = [*map(str, range(1, STEP_COUNTS.get(prefix, 0) + 1)), "multi"]
        if prefix not in STEP_COUNTS or part not in known:
            raise ValueError(
                f"{row.where}: column 'key' is {key!r}; expected for instance '2steps_1' or '3steps_multi'"
            )
        options = options_of_columns(row)
        question = row.require("question")
        gold = row.require("answer").strip()
        if row.get("hint"):
            question = f"{row.get('hint')}\n{question}"
        asked = with_options(question, options)
        if not options or row.get(_UNSPLIT):
            if gold not in tuple(LETTERS):
                raise ValueError(f"{row.where}: column 'answer' is {gold!r}; expected a letter A to {LETTERS[-1]}")
            self.note("the options do not split plainly, so their texts are as far as they can be told", row)
            asked = "\n".join(part for part in (question, row.get(_UNSPLIT)) if part)
            options = options if gold in options else {}
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=asked,
            images=images,
            gold=(gold,),
            options=options,
            answer_type="letter",
            metadata={"ID": row.require("ID"), "key": key, "knowledge concept": row.get("knowledge concept")},
        )

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The letter or the text of the right option."""
        return grade_option(question, extract_final_answer(response))

    def grade_officially(self, question: BenchmarkQuestion, response: str) -> Grade:
        """By the authors' parser, which works without a judge model."""
        tail = re.sub("[><:.]", "", response.split("Answer")[-1].strip()).strip()
        letter = tail[:1] if tail[:1] in tuple(LETTERS) else None
        return Grade(letter is not None and letter in question.gold, letter, "response" if letter else "none")

    def grade_as_vlmevalkit(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The option that it infers."""
        return vlmevalkit.grade_choice(question, response)

    def complete_units(self, questions: Sequence[BenchmarkQuestion]) -> np.ndarray:
        """Whether a question's group is there with each of its keys once: (Q,) bool."""
        complete = np.zeros(len(questions), dtype=bool)
        for group in _groups(questions):
            complete[[*group.steps, group.multi]] = True
        return complete

    def incomplete_units(self, questions: Sequence[BenchmarkQuestion]) -> str:
        """Names of the groups that lack questions, the first five."""
        complete = self.complete_units(questions)
        groups = {q.metadata["ID"]: None for q, whole in zip(questions, complete, strict=True) if not whole}
        names = ", ".join(list(groups)[:5])
        return (
            f"{len(groups)} groups (ID {names}{', ...' if len(groups) > 5 else ''}) do not have each of their one-step "
            f"questions and the multi-step question (key) once"
        )

    def unit_scores(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> np.ndarray:
        """CM + IG / 2 of every group, strict: (U,) or (U, M), groups in order of first appearance."""
        scores = as_scores(questions, correct)
        complete = self.complete_units(questions)
        if not complete.all():
            raise ValueError(f"WeMath: {self.incomplete_units(questions)}; filter by complete_units first")
        units = [scores[group.steps].prod(axis=0) * (0.5 + 0.5 * scores[group.multi]) for group in _groups(questions)]
        return np.stack(units) if units else scores[:0]

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Strict and loose scores, shares of the four cases, accuracies of 1, 2 and 3 steps (S1, S2, S3) and of rows.

        All over complete groups; scores and shares are per group.
        """
        scores = as_scores(questions, correct)
        complete = self.complete_units(questions)
        if not complete.any():
            return {}
        questions = [question for question, is_whole in zip(questions, complete, strict=True) if is_whole]
        scores = scores[complete]
        groups = _groups(questions)
        every = np.array([scores[group.steps].prod() for group in groups])
        some = np.array([1 - (1 - scores[group.steps]).prod() for group in groups])
        multi = scores[[group.multi for group in groups]]
        inadequate = float((every * (1 - multi)).mean())
        metrics = {"IG": inadequate, "IK": float(((1 - every) * (1 - multi)).mean())}
        for name, mastering in (("strict", every), ("loose", some)):
            mastery, rote = float((mastering * multi).mean()), float(((1 - mastering) * multi).mean())
            metrics |= {f"score_{name}": mastery + 0.5 * inadequate, f"CM_{name}": mastery, f"RM_{name}": rote}
            if mastery + rote > 0:
                metrics[f"RM_rate_{name}"] = rote / (mastery + rote)
        keys = [question.metadata["key"] for question in questions]
        for name, chosen in (
            ("S1", [not key.endswith("multi") for key in keys]),
            ("S2", [key == "2steps_multi" for key in keys]),
            ("S3", [key == "3steps_multi" for key in keys]),
        ):
            if any(chosen):
                metrics[name] = float(scores[np.array(chosen)].mean())
        return metrics | {"row_accuracy": float(scores.mean())}


def _split_options(text: str) -> dict[str, str]:
    """Options of a text like ``A. 12; B. 24``; the full-width signs are understood too.

    Returns:
        Letter to text; empty if the letters are not A, B, ... in order, at least two.
    """
    starts = list(_OPTION_START.finditer(text))
    letters = "".join(match[1] for match in starts)
    return _between(text, starts) if len(starts) >= 2 and LETTERS.startswith(letters) else {}


def _split_loosely(text: str) -> dict[str, str]:
    """Options of a released text that does not split plainly, as far as they can be told.

    Letters ascend. Of several places that may begin an option the first counts. A letter that no text follows, as in
    "Shape ;C.; B. moved", is part of the text. Spaces may part options, too.
    """
    starts: list[re.Match[str]] = []
    found = list(_LOOSE_START.finditer(text))
    while found:
        letter = min(match[1] for match in found)
        starts.append(next(match for match in found if match[1] == letter))
        found = [match for match in found if match[1] > letter and match.start() > starts[-1].start()]
    return _between(text, starts) if len(starts) >= 2 else {}


def _between(text: str, starts: Sequence[re.Match[str]]) -> dict[str, str]:
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return {match[1]: text[match.end() : end].strip(" ;；\n") for match, end in zip(starts, ends, strict=True)}


def _groups(questions: Sequence[BenchmarkQuestion]) -> list[Group]:
    """The complete groups, in order of first appearance; two- and three-step groups may share an ID."""
    rows: dict[tuple[str, str], dict[str, list[int]]] = {}
    for number, question in enumerate(questions):
        prefix, _, part = question.metadata["key"].partition("_")
        rows.setdefault((prefix, question.metadata["ID"]), {}).setdefault(part, []).append(number)
    groups = []
    for (prefix, _), parts in rows.items():
        steps = [parts.get(str(step), []) for step in range(1, STEP_COUNTS[prefix] + 1)]
        multi = parts.get("multi", [])
        if all(len(found) == 1 for found in [*steps, multi]):
            groups.append(Group([found[0] for found in steps], multi[0]))
    return groups
