"""Benchmarks in the files of their authors' repositories, found in the folder as it was cloned.

Such a repository holds the questions as one JSON or JSON lines file a split. Its pictures are a separate download, so
they may be missing: texts can be graded without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodules.benchmarks.hub import HubPart, HubRow, first_values, read_file

_ENDINGS = ("", "-main", "-master")
"""Of the folder's name: as cloned, and as unpacked from the archives that GitHub offers."""


@dataclass(frozen=True)
class ClonedRepository:
    """The repository of a benchmark's authors.

    Attributes:
        repository: Name ``owner/name``.
        files: Split to its file, relative to the repository. The file alone is found, too, where it lies in the folder
            itself.
        columns: That each row must have, by which files of the same name are told apart.
        answers_only: Whether the rows have no question, so that responses can be graded but none can be asked for.
    """

    repository: str
    files: Mapping[str, str]
    columns: tuple[str, ...]
    answers_only: bool = False


@dataclass(frozen=True)
class ResponseFields:
    """Where the authors' response files have the question and the response.

    Attributes:
        ids: Fields whose values, joined by "-", are the question's id; not looked at in an object by id.
        response: Field of the response; one that is called "response" comes first.
    """

    ids: tuple[str, ...] = ("id",)
    response: str = "response"


@dataclass(frozen=True)
class ClonedFile:
    """The file of a split.

    Attributes:
        path: Of the file.
        root: Of the repository, which picture paths are relative to.
    """

    path: Path
    root: Path


def find_cloned_file(folder: Path, clone: ClonedRepository, name: str, split: str) -> ClonedFile | None:
    """The file of a split, in a folder named like the repository or the benchmark, or in the folder itself.

    Args:
        folder: Of benchmarks, or the repository itself.
        clone: What to look for.
        name: Of the benchmark.
        split: Of the benchmark.

    Returns:
        None if there is no such file, or if one in the folder itself lacks the columns and so is of another benchmark.
    """
    file = clone.files.get(split)
    if file is None or not folder.is_dir():
        return None
    titles = {f"{title}{end}".casefold() for title in (clone.repository.split("/")[1], name) for end in _ENDINGS}
    named = [path for path in sorted(folder.iterdir()) if path.name.casefold() in titles and path.is_dir()]
    for root in [*named, folder]:
        for path in (root / file, root / Path(file).name):
            if path.is_file() and set(clone.columns) <= set(first_values(path)):
                return ClonedFile(path, root)
    return None


def cloned_rows(found: ClonedFile, clone: ClonedRepository, split: str) -> Iterator[HubRow]:
    """The rows of a file; raises ValueError if it is broken or lacks a column."""
    return read_file(found.path, found.root, HubPart(split), clone.columns)
