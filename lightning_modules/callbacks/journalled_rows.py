"""What all journals of an output hold together, and the output that is written from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from datamodules.storage.files import atomic_file
from lightning_modules.callbacks.growing_output import as_lines, has_grown, rows_before, summed
from lightning_modules.callbacks.journal_files import OpenedJournals, located_entries
from lightning_modules.callbacks.prediction_record import Base


@dataclass(frozen=True)
class JournalledRows:
    """The rows of the prompts that are done. They stay on disk: a job may have more of them than the memory holds.

    Attributes:
        places: Journal and offset of the rows of each answered prompt.
        left_out: Prompts without rows, and why.
        count: Number of rows.
        costs: What all rows have cost, those of a base included.
        base: Of an output that is growing.
    """

    places: Mapping[str, tuple[Path, int]]
    left_out: Mapping[str, str]
    count: int
    costs: Mapping[str, float]
    base: Base | None

    @classmethod
    def of(cls, journals: Sequence[Path], base: Base | None) -> Self:
        """What the journals hold; of a prompt that has several entries the last one counts."""
        places: dict[str, tuple[Path, int]] = {}
        problems: dict[str, str] = {}
        counts: dict[str, int] = {}
        costs = {} if base is None else dict(base.costs)
        for path, offset, entry in located_entries(journals):
            if entry.problem is not None:
                problems[entry.prompt_id] = entry.problem
                continue
            if entry.prompt_id not in places:
                costs = summed(costs, entry.costs or {})
            places[entry.prompt_id] = path, offset
            counts[entry.prompt_id] = len(entry.rows)
        problems |= {} if base is None else base.left_out
        left_out = {name: problem for name, problem in problems.items() if name not in places}
        return cls(places, left_out, sum(counts.values()), costs, base)

    def missing(self, prompt_ids: Sequence[str]) -> list[str]:
        """Those of some prompts that are not done."""
        return [name for name in prompt_ids if name not in self.places and name not in self.left_out]

    def write(self, output: Path, prompt_ids: Sequence[str]) -> None:
        """Write the output, whole or not at all: the rows of each prompt, in the order of the prompts."""
        if has_grown(output, self.base, self.count):
            return
        with (
            OpenedJournals() as opened,
            rows_before(output, self.base, prompt_ids) as before,
            atomic_file(output) as file,
        ):
            for name, kept in zip(prompt_ids, before, strict=True):
                file.writelines(kept)
                if name in self.places:
                    file.writelines(as_lines(opened.entry(*self.places[name]).rows))
