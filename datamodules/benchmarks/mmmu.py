"""MMMU, validation split: college questions of 30 subjects, often with several pictures inside the text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.compare import answers_equal
from datamodules.answers.extract import extract_final_answer
from datamodules.answers.numeric import numeric_answer
from datamodules.benchmarks import vlmevalkit
from datamodules.benchmarks.base import IMAGE_PLACEHOLDER, Benchmark, BenchmarkQuestion, Excluded, Grade
from datamodules.benchmarks.cloned import ClonedRepository
from datamodules.benchmarks.grading import accuracy_by, as_scores, grade_option, with_options
from datamodules.benchmarks.hub import HubLayout, HubPart, HubRow
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.mmmu_official import grade_choice_officially, grade_open_officially
from datamodules.benchmarks.question import OPTION_LETTERS
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import TableRow, options_of_columns, parse_list

DOMAINS: dict[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
"""The six domains and their subjects, which are the configurations of the dataset."""

SUBJECTS = tuple(sorted(subject for subjects in DOMAINS.values() for subject in subjects))
MAX_IMAGES = 7
ANSWERS_ONLY = "(a question that the file of the answers does not hold)"

_DOMAIN_OF_SUBJECT = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
_NUMBERED_PLACEHOLDER = re.compile(r"<image\s*(\d)>")
_DECIMAL = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_ID_PREFIX = re.compile(r"^(?:dev|validation|test)_(?P<subject>.+)_\d+$")


class MMMU(Benchmark):
    """Option letters A to I, and open questions with one or more accepted answers (numbers to two decimals).

    The TSV table holds the dev split too; only rows of the validation split are scored.
    """

    name: ClassVar[str] = "MMMU"
    table: ClassVar[str] = "MMMU_DEV_VAL.tsv"
    hub: ClassVar[HubLayout] = HubLayout(("MMMU/MMMU",), ("id", "question", "options", "answer", "image_1"))
    clone: ClassVar[ClonedRepository] = ClonedRepository(
        "MMMU-Benchmark/MMMU",
        {"validation": "mmmu/answer_dict_val.json"},
        ("question_type", "ground_truth"),
        answers_only=True,
    )
    releases: ClassVar[Mapping[str, Release]] = {
        "validation": Release(
            questions=900,
            tables=("MMMU_DEV_VAL.tsv",),
            md5="585e8ad75e73f75dcad265dfd0417d64",
            composition={
                "question_type": {"multiple-choice": 847, "open": 53},
                "category": dict.fromkeys(SUBJECTS, 30),
            },
        )
    }
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "split")
    official_differences: ClassVar[Mapping[str, str]] = {
        "whole_response": "without a box the whole response is searched, not the final-answer cut",
        "last_letter": "of several option letters the last one counts",
        "option_text_inside": "the text of an option counts anywhere in an answer of more than five words",
        "random_option": "where no option can be read, one is drawn (by seed 42, question and response)",
        "open_substring": "an open answer is right if the gold answer is a part of one of its key phrases",
        "open_numbers": "an open answer is right if any number in a key phrase is the gold number, to two decimals",
    }
    vlmevalkit_differences: ClassVar[Mapping[str, str]] = {
        "inferred_option": "an option is the only letter among the last four words, a letter behind 'answer is', or "
        "the only option whose text occurs; none is drawn here where the judge model fails",
        "open_as_choice": "an open question has the options A, the gold answer, and B, Other Answers; a gold answer "
        "that is a capital letter can never be reached unless it is A, and several gold answers are one text",
    }
    order: ClassVar[int] = 1

    def hub_parts(self) -> Sequence[HubPart]:
        """The validation split of each of the 30 subjects."""
        return [HubPart("validation", subject) for subject in SUBJECTS]

    def hub_images(self, row: HubRow) -> list[Any]:
        """The pictures of the columns image_1 to image_7."""
        columns = [row.values.get(f"image_{number}") for number in range(1, MAX_IMAGES + 1)]
        images = [value for value in columns if value]
        if any(columns[len(images) :]):
            raise ValueError(f"{row.where}: the columns image_1 to image_{MAX_IMAGES} are not filled from the left")
        return images

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The options, text of a list in the dataset, become columns; the authors' file has ids and answers alone."""
        if "ground_truth" in row.values:
            cells = {"index": row.values["id"], "answer": row.values["ground_truth"], "split": row.part.split}
            is_choice = row.values["question_type"] == "multiple-choice"
            return cells | {"question": ANSWERS_ONLY, "question_type": "multiple-choice" if is_choice else "open"}
        options = row.values["options"]
        if isinstance(options, str):
            options = parse_list(options, f"{row.where}: column 'options'")
        if len(options) > len(OPTION_LETTERS):
            raise ValueError(
                f"{row.where}: column 'options' has {len(options)} items; at most {len(OPTION_LETTERS)} fit"
            )
        return dict(zip(OPTION_LETTERS, options, strict=False)) | {
            "index": row.values["id"],
            "question": row.values["question"],
            "answer": row.values["answer"],
            "category": row.part.configuration,
            "split": row.part.split,
        }

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion | Excluded:
        """A row of the validation split; rows of the dev split are examples."""
        split = row.require("split")
        if split != self.split:
            return Excluded(f"of split {split}")
        options = options_of_columns(row)
        answer = row.require("answer").strip()
        question = row.require("question")
        if row.get("hint"):
            question = f"{row.get('hint')}\n{question}"
        text, shown = _interleave(with_options(question, options), images, row.where)
        is_list = answer.startswith("[") and answer.endswith("]") and not options
        gold = [str(item) for item in parse_list(answer, f"{row.where}: column 'answer'")] if is_list else [answer]
        if not gold:
            raise ValueError(f"{row.where}: column 'answer' is an empty list")
        is_choice = bool(options) or row.get("question_type") == "multiple-choice"
        subject = _subject(row)
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=text,
            images=shown,
            gold=tuple(gold),
            options=options,
            answer_type="letter" if is_choice else "expression",
            metadata={
                "category": subject,
                "l2-category": _DOMAIN_OF_SUBJECT.get(subject, row.get("l2-category")),
                "split": split,
                "question_type": "multiple-choice" if is_choice else "open",
            },
        )

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Letter equality, or equality with any accepted answer; a decimal gold is compared to two decimals."""
        extracted = extract_final_answer(response)
        if question.answer_type == "letter":
            return grade_option(question, extracted)
        answer = extracted.short_text
        is_correct = answer is not None and any(
            answers_equal(answer, gold) or _equal_to_two_decimals(answer, gold) for gold in question.gold
        )
        return Grade(is_correct, answer, extracted.status)

    def grade_officially(self, question: BenchmarkQuestion, response: str) -> Grade:
        """By the parsers of the MMMU authors, on the content of the last box where there is one."""
        extracted = extract_final_answer(response)
        text = extracted.text if extracted.status == "boxed" else response
        if question.answer_type == "letter":
            return grade_choice_officially(question, text)
        return grade_open_officially(question, text)

    def grade_as_vlmevalkit(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The option that it infers, open questions being turned into multiple-choice ones."""
        if question.answer_type == "letter":
            return vlmevalkit.grade_choice(question, response)
        answer = question.gold[0] if len(question.gold) == 1 else str(list(question.gold))
        options = {"A": answer, "B": "Other Answers"}
        is_capital = len(answer) == 1 and "A" <= answer <= "Z"
        asked = replace(question, gold=(answer if is_capital else "A",))
        grade = vlmevalkit.grade_choice(asked, response, options)
        return replace(grade, extracted_answer=options.get(grade.extracted_answer or ""))

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by domain and subject, of multiple-choice and of open questions."""
        scores = as_scores(questions, correct)
        metrics = accuracy_by(questions, correct, "l2-category", "domain")
        metrics |= accuracy_by(questions, correct, "category", "subject")
        has_options = np.array([question.answer_type == "letter" for question in questions], dtype=bool)
        for label, chosen in (("multiple_choice", has_options), ("open", ~has_options)):
            if chosen.any():
                metrics[label] = float(scores[chosen].mean())
        return metrics


def _subject(row: TableRow) -> str:
    """The subject as the dataset spells it, from the column category, else from an index like validation_Art_1."""
    match = _ID_PREFIX.match(row.get("index"))
    written = row.get("category").strip() or (match["subject"] if match else "")
    spelled = written.replace(" ", "_")
    return spelled if spelled in _DOMAIN_OF_SUBJECT else written


def _interleave(text: str, images: LazyImages, where: str) -> tuple[str, LazyImages]:
    """Replace ``<image 2>`` by ``<image>`` and line the pictures up as named; without any name, all in order.

    A picture that is named twice is shown twice, one that is never named is not shown.
    """
    numbers = [int(number) for number in _NUMBERED_PLACEHOLDER.findall(text)]
    if not numbers:
        return text, images
    wrong = [number for number in numbers if not 1 <= number <= len(images)]
    if wrong:
        raise ValueError(
            f"{where}: column 'question' or an option names <image {wrong[0]}>, but there are {len(images)} pictures"
        )
    return _NUMBERED_PLACEHOLDER.sub(IMAGE_PLACEHOLDER, text), images.select([number - 1 for number in numbers])


def _equal_to_two_decimals(answer: str, gold: str) -> bool:
    if not _DECIMAL.fullmatch(gold):
        return False
    target = float(gold.replace(",", ""))
    value = numeric_answer(answer)
    return value is not None and abs(target) >= 0.01 and round(float(value), 2) == round(target, 2)
