"""What the released files hold, so that a file that differs from them cannot give a score that looks like theirs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.benchmarks.question import BenchmarkQuestion


@dataclass(frozen=True)
class Release:
    """One split of a benchmark as released.

    Attributes:
        questions: Number of scored questions.
        tables: File names of its TSV table, the usual one first; none where there is no such table.
        md5: Of the TSV table; empty where unknown.
        composition: Metadata key to the number of scored questions of each of its values.
    """

    questions: int
    tables: tuple[str, ...] = ()
    md5: str = ""
    composition: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def release_mismatches(release: Release, questions: Sequence[BenchmarkQuestion], table: Path | None) -> list[str]:
    """How what was read differs from the release, in words; nothing if it does not.

    The composition and the checksum are looked at only when the number of questions is that of the release.

    Args:
        release: What to compare with.
        questions: Scored questions that were read.
        table: The TSV file that they are from; None for another layout.
    """
    if len(questions) != release.questions:
        return [f"{len(questions)} scored questions, the release has {release.questions}"]
    found = []
    for key, expected in release.composition.items():
        counts = Counter(value for question in questions for value in _values(question, key))
        wrong = [
            f"{value or '(none)'} {counts[value]} instead of {expected.get(value, 0)}"
            for value in sorted({*counts, *expected})
            if counts[value] != expected.get(value, 0)
        ]
        if wrong:
            found.append(f"questions by {key}: {', '.join(wrong)}")
    if release.md5 and table is not None:
        md5 = _md5(table)
        if md5 != release.md5:
            found.append(f"the md5 sum of the file is {md5}, the release has {release.md5}")
    return found


def _values(question: BenchmarkQuestion, key: str) -> list[str]:
    value = question.metadata.get(key, "")
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
