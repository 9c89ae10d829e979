"""Find training rows that are also in a benchmark, and write the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm.auto import tqdm

from datamodules.contamination.benchmark_index import BenchmarkIndex
from datamodules.contamination.picture_hashes import difference_hash
from datamodules.storage.files import atomic_folder, atomic_write_jsonl, require_writable_folder
from datamodules.storage.images import open_image
from datamodules.supervision.row_reader import RowReader, row_readers
from datamodules.supervision.sources import process_sources
from lightning_modules.metrics.table import Cell, Table

Drop = Literal["any", "text", "picture", "both"]
DROPS: tuple[Drop, ...] = get_args(Drop)


@dataclass(frozen=True)
class Match:
    """A training row that is also in a benchmark.

    Attributes:
        row: ``file:row``.
        source: Of the row.
        text: Benchmark question with the same words, and the share of n-grams that both have; None if there is none.
        picture: Benchmark question with a picture that looks alike, and how many bits of the hashes differ; or None.
        is_dropped: Whether the row is left out of the copy.
    """

    row: str
    source: str
    text: tuple[str, float] | None
    picture: tuple[str, int] | None
    is_dropped: bool


@dataclass
class Contamination:
    """What was found.

    Attributes:
        questions: Number of benchmark questions that rows were compared with.
        rows: By source.
        matches: Of all rows with one.
        unreadable: Rows that cannot be used, or have a picture that cannot; they are not compared, and kept.
    """

    questions: int
    rows: Counter[str] = field(default_factory=Counter)
    matches: list[Match] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def dropped(self) -> set[str]:
        """The rows that are left out."""
        return {match.row for match in self.matches if match.is_dropped}

    def to_table(self) -> Table:
        """Numbers of rows by source."""
        lines = []
        for source in [*sorted(self.rows), None]:
            found = [match for match in self.matches if source in (None, match.source)]
            counts = (
                sum(self.rows.values()) if source is None else self.rows[source],
                sum(match.text is not None for match in found),
                sum(match.picture is not None for match in found),
                sum(match.text is not None and match.picture is not None for match in found),
                sum(match.is_dropped for match in found),
            )
            lines.append([Cell("All" if source is None else source), *(Cell(str(count)) for count in counts)])
        note = f"Compared with {self.questions} benchmark questions; {len(self.unreadable)} rows cannot be read."
        header = ["Source", "Rows", "Same words", "Same picture", "Both", "Left out"]
        return Table("Training rows that are also in a benchmark", header, lines, note)


def find_contamination(
    paths: Sequence[Path],
    image_root: str | None,
    index: BenchmarkIndex,
    least_overlap: float,
    most_distance: int,
    drop: Drop,
) -> Contamination:
    """Compare all rows with the benchmarks.

    Args:
        paths: As in ``train_annotations`` of the data module.
        image_root: As there.
        index: The benchmarks.
        least_overlap: Share of n-grams from which on two texts count as the same, in (0, 1].
        most_distance: Bits of the hashes by which pictures that look alike may differ.
        drop: What makes a row be left out: the same words, the same picture, any of both, or both.
    """
    found = Contamination(index.questions)
    hashes: dict[str, NDArray[np.uint64]] = {}
    for reader, _ in row_readers(process_sources(paths, None, image_root), image_root):
        reader.find.look = True
        for row in tqdm(reader, unit=" rows", desc=reader.file.source, delay=2):
            where, source = row["sample_id"], row["source"]
            found.rows[source] += 1
            try:
                if row["problem"]:
                    raise ValueError(row["problem"])
                own = [_hash_of(row, number, hashes, where) for number in range(len(row["images"]))]
            except ValueError as error:
                found.unreadable.append(str(error))
                continue
            text = index.texts.best_match(row["question_bare"])
            text = text if text is not None and text.overlap >= least_overlap else None
            near = [match for match in index.pictures.best_matches(own) if match and match.distance <= most_distance]
            picture = min(near, key=lambda match: match.distance, default=None)
            if text is not None or picture is not None:
                chosen = {"any": True, "text": text, "picture": picture, "both": text and picture}[drop]
                of_text = None if text is None else (text.key, text.overlap)
                of_picture = None if picture is None else (picture.key, picture.distance)
                found.matches.append(Match(where, source, of_text, of_picture, bool(chosen)))
    return found


def _hash_of(row: dict[str, Any], number: int, known: dict[str, NDArray[np.uint64]], where: str) -> NDArray[np.uint64]:
    name = row["images"][number]
    data = row["image_bytes"][number] if row["image_bytes"] else None
    if data is not None:
        return difference_hash(open_image(data, where))
    if name not in known:
        known[name] = difference_hash(open_image(name, f"{where}: field 'image'"))
    return known[name]


def clean_copies(paths: Sequence[Path], image_root: str | None) -> list[RowReader]:
    """The annotation files that a clean copy would have.

    Raises:
        ValueError: If a file is a saved dataset, or two files have one name.
    """
    readers = [reader for reader, _ in row_readers(process_sources(paths, None, image_root), image_root)]
    names = Counter(_name_of(reader) for reader in readers)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"two annotation files are called {twice[0]}; clean their folders one after the other")
    return readers


def require_new_folder(output: Path) -> None:
    """Make sure that a folder can be written, and that nothing is lost.

    Raises:
        FileExistsError: If it is there already, with anything in it.
        OSError: If it cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already; give another folder for the clean copy")
    require_writable_folder(output)


def write_clean_copy(paths: Sequence[Path], image_root: str | None, dropped: set[str], output: Path) -> list[str]:
    """Write a folder with a file for each annotation file, without the rows that are left out.

    JSON lines stay JSON lines and parquet stays parquet; pictures are not copied.

    Returns:
        Lines that say what was written, and the image root to give.

    Raises:
        FileExistsError: If the folder is there already: it may hold the pictures, or the rows themselves.
        ValueError: See :func:`clean_copies`.
    """
    readers = clean_copies(paths, image_root)
    require_new_folder(output)
    lines = []
    with atomic_folder(output) as folder:
        for reader in readers:
            target = folder / _name_of(reader)
            if reader.file.kind == "parquet":
                table = pq.read_table(reader.file.path)
                kept = [row for row in range(len(table)) if f"{reader.file.path}:{row + 1}" not in dropped]
                pq.write_table(table.take(kept), target)
                count = len(kept)
            else:
                rows = [row for where, row in reader.file.rows() if where not in dropped and isinstance(row, dict)]
                atomic_write_jsonl(target, rows)
                count = len(rows)
            lines.append(f"{output / target.name}: {count} rows; image_root: {reader.roots[0].path}")
    return lines


def _name_of(reader: RowReader) -> str:
    if reader.file.kind == "saved":
        raise ValueError(f"{reader.file}: saved datasets have no filtered copy; give the data as parquet")
    return reader.file.path.name if reader.file.kind == "parquet" else f"{Path(str(reader.file)).stem}.jsonl"


def as_json(found: Contamination) -> str:
    """The report as JSON."""
    stored = {
        "benchmark_questions": found.questions,
        "rows": dict(found.rows),
        "matches": [asdict(match) for match in found.matches],
        "unreadable": found.unreadable,
    }
    return json.dumps(stored, indent=2, ensure_ascii=False) + "\n"
