"""Where a benchmark lies in a folder: as a TSV table, in its authors' repository, or as a copy of its dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from datamodules.benchmarks.cloned import ClonedFile, ClonedRepository, find_cloned_file
from datamodules.benchmarks.hub import HubLayout, HubPart, find_root, possible_roots
from datamodules.benchmarks.released import Release

logger = logging.getLogger(__name__)


class BenchmarkFinder:
    """Knows the layouts in which one benchmark is published, and finds it in one of them.

    Attributes:
        name: Name in reports.
        table: Name of the TSV file of the default split; empty where there is no such table.
        hub: Its layout on Hugging Face.
        clone: The repository of its authors, where that holds the questions.
        releases: Split to what is released of it; the first is the default.
        split: The one that is read.
        release: What is released of it.
        tables: Names that its TSV table may have.

    Args:
        table: Another name of the TSV file than the usual ones.
        split: Which of the splits; the default one by default.

    Raises:
        ValueError: If the benchmark has no such split.
    """

    name: ClassVar[str]
    table: ClassVar[str] = ""
    hub: ClassVar[HubLayout]
    clone: ClassVar[ClonedRepository | None] = None
    releases: ClassVar[Mapping[str, Release]]

    def __init__(self, table: str | None = None, split: str | None = None) -> None:
        by_table = {name: key for key, release in self.releases.items() for name in release.tables}
        self._names_table = table is not None
        self._names_split = split is not None or table is not None
        self._use_split(split or by_table.get(table or "", next(iter(self.releases))))
        self.tables: tuple[str, ...] = (table,) if table else self.release.tables

    def _use_split(self, split: str) -> None:
        if split not in self.releases:
            raise ValueError(f"{self.name} has no split {split!r}; known are {', '.join(self.releases)}")
        self.split = split
        self.release = self.releases[split]
        self.tables = self.release.tables

    @property
    def file_name(self) -> str:
        """Usual name of the TSV table; empty where there is none."""
        return self.tables[0] if self.tables else ""

    def hub_parts(self) -> Sequence[HubPart]:
        """The parts of the dataset that make the split."""
        return [HubPart(self.split)]

    def is_in(self, folder: Path) -> bool:
        """Whether a folder holds the benchmark in one of its layouts."""
        return self._find(folder) is not None

    def _find(self, folder: Path) -> Path | ClonedFile | None:
        """The TSV table, the authors' file, or the folder of the dataset.

        Where none is there, the authors' file of another split is taken unless a split was asked for.
        """
        found = self._table_path(folder) or self._cloned_file(folder, self.split) or self._hub_root(folder)
        if found is not None or self._names_split:
            return found
        for split in self.releases:
            cloned = self._cloned_file(folder, split)
            if cloned is not None:
                logger.warning("%s: %s holds the split %r alone, which is read", self.name, cloned.path, split)
                self._use_split(split)
                return cloned
        return None

    def _cloned_file(self, folder: Path, split: str) -> ClonedFile | None:
        if self.clone is None or self._names_table:
            return None
        return find_cloned_file(folder, self.clone, self.name, split)

    def _table_path(self, folder: Path) -> Path | None:
        return next((folder / name for name in self.tables if (folder / name).is_file()), None)

    def _hub_root(self, folder: Path) -> Path | None:
        return None if self._names_table else find_root(folder, self.hub, self.name)

    def _not_found(self, folder: Path) -> str:
        roots = ", ".join(str(root.relative_to(folder)) for root in possible_roots(folder, self.hub, self.name))
        parts = self.hub_parts()
        files = f"{parts[0]}{' and so on' if len(parts) > 1 else ''}"
        tables = f"the table {' or '.join(self.tables)}, and " if self.tables else ""
        file = self.clone.files.get(self.split) if self.clone else None
        clone = f"{file} of {self.clone.repository}, " if self.clone and file else ""
        return (
            f"{self.name} is not in {folder}; looked for {tables}{clone}a copy of {' or '.join(self.hub.repositories)} "
            f"({files}) in one of the folders {roots}"
        )
