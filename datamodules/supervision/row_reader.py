"""Reading one annotation file: rows to columns, images to where they are, bad rows to their problems."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from datamodules.storage.archives import parse_reference
from datamodules.storage.images import ImageError, check_image
from datamodules.supervision.annotation_files import AnnotationFile, OnRepeatedKey, find_annotation_files
from datamodules.supervision.consensus import Consensus
from datamodules.supervision.image_roots import ImageFinder, ImageRoot, OpenedRoots, default_roots
from datamodules.supervision.row_parsing import parse_row
from datamodules.supervision.sources import ProcessSource

_FORMAT = 9  # raise it when the meaning of the table changes, so that cached tables are built anew
_NOTHING: dict[str, Any] = {
    "source": "",
    "question_key": "",
    "images": [],
    "image_bytes": [],
    "question": "",
    "question_bare": "",
    "system_prompt": None,
    "steps": [],
    "mc": [],
    "num_mc_correct": [],
    "num_mc_total": [],
    "question_accuracy": None,
    "num_mc_stopping": "",
    "blank_steps": 0,
}


class RowReader:
    """The rows of an annotation file in the columns of a table; bad ones carry their problem.

    Args:
        file: To read.
        roots: Of its images.
        base: What images are told apart by their place below, see :func:`common_folder`.
        check_images: Look at every image.
        consensus: Whose verdicts on steps count.

    Attributes:
        on_repeated_key: Set it to hear of keys that a row has twice, see
            :func:`datamodules.storage.files.parse_json_line`.
    """

    def __init__(
        self,
        file: AnnotationFile,
        roots: Sequence[ImageRoot],
        base: Path,
        check_images: bool,
        consensus: Consensus = "monte_carlo",
    ) -> None:
        self.consensus = consensus
        self.file, self.roots, self.base, self.check_images = file, roots, base, check_images
        self.find = ImageFinder(roots, look=check_images)
        self.on_repeated_key: OnRepeatedKey = None
        self._checked: dict[str, str] = {}

    def identity(self, digest: str) -> dict[str, Any]:
        """All that the table depends on, but for the images in folders."""
        return {
            "format": _FORMAT,
            "file": str(self.file),
            "source": self.file.source,
            "digest": digest,
            "roots": [[*root.signature(), self._place(root.folder)] for root in self.roots],
            "check_images": self.check_images,
            **({} if self.consensus == "monte_carlo" else {"consensus": self.consensus}),
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for where, row in self.file.rows(self.on_repeated_key):
            yield self.normalised(row, where)

    def normalised(self, row: dict[str, Any] | ValueError, where: str) -> dict[str, Any]:
        """The columns of a row; those of a bad one are empty, unless only its images are bad."""
        try:
            if isinstance(row, ValueError):
                raise row
            parsed = parse_row(row, where, self.file.source, self.find, self._place, self.consensus)
        except ValueError as error:
            return {"sample_id": where, "problem": str(error), **_NOTHING, "source": self.file.source}
        return {"sample_id": where, "problem": self._image_problem(parsed, where), **parsed}

    def _place(self, image: str | Path) -> str:
        member = parse_reference(str(image))
        path = os.path.join(os.path.dirname(member.archive), member.name) if member else image
        return os.path.relpath(path, self.base).replace(os.sep, "/")

    def _image_problem(self, row: Mapping[str, Any], where: str) -> str:
        if not self.check_images:
            return ""
        for index, name in enumerate(row["images"]):
            data = row["image_bytes"][index] if row["image_bytes"] else None
            problem = self._problem(data if data is not None else name)
            if problem:
                return f"{where}: field 'image'{problem}"
        return ""

    def _problem(self, image: str | bytes) -> str:
        known = self._checked.get(image) if isinstance(image, str) else None
        if known is None:
            try:
                check_image(image, "")
                known = ""
            except ImageError as error:
                known = str(error)
            if isinstance(image, str):
                self._checked[image] = known
        return known

    def repaired(self, table: Dataset) -> bool:
        """Whether an image that was missing or broken when the table was built can be used now."""
        if not self.check_images:
            return False
        broken = table.select(list(bad_rows(table))).select_columns(["images", "image_bytes", "steps", "problem"])
        first = f"{self.roots[0].path}{os.sep}"
        for row in broken:
            if row["steps"] and not row["image_bytes"]:
                found = [
                    self.find(name.removeprefix(first)) if name.startswith(first) else name for name in row["images"]
                ]
                if not self._image_problem({**row, "images": found}, ""):
                    return True
        return False


def bad_rows(table: Dataset) -> dict[int, str]:
    """Row index to problem, for the rows of a table that cannot be used."""
    problems = table.data.column("problem")
    rows = pc.indices_nonzero(pc.not_equal(problems, "")).to_numpy()
    return dict(zip(rows.tolist(), problems.take(pa.array(rows)).to_pylist(), strict=True))


def row_readers(
    sources: Sequence[ProcessSource],
    image_root: str | None = None,
    check_images: bool = False,
    consensus: Consensus = "monte_carlo",
) -> list[tuple[RowReader, ProcessSource]]:
    """A reader for each annotation file of some sources, with the source whose settings it has.

    Args:
        sources: A file that two of them give belongs to the later one.
        image_root: See :func:`datamodules.supervision.rows.read_rows`.
        check_images: See :func:`datamodules.supervision.rows.read_rows`.
        consensus: See there.

    Raises:
        FileNotFoundError: If there is nothing at a path.
        ValueError: If an archive cannot be read.
    """
    files: dict[tuple[Path, str], tuple[AnnotationFile, ProcessSource]] = {}
    for source in sources:
        for file in find_annotation_files(source.paths):
            files[file.path.resolve(), file.member] = file, source
    opened = OpenedRoots()
    roots = {file: _roots(file, source.image_root or image_root, opened) for file, source in files.values()}
    base = common_folder([root for each in roots.values() for root in each])
    return [(RowReader(file, roots[file], base, check_images, consensus), source) for file, source in files.values()]


def _roots(file: AnnotationFile, image_root: str | None, opened: OpenedRoots) -> list[ImageRoot]:
    if image_root:
        return opened.with_archives([image_root])
    folders = [folder for folder in default_roots(file.folder) if folder.is_dir()]
    return opened.with_archives(folders or [file.path.parent])


def common_folder(roots: Sequence[ImageRoot]) -> Path:
    """The folder that all roots lie in, an archive counting as the folder that it lies in.

    Pictures are told apart by their place below it, which stays when all of the data moves to another machine.
    """
    return Path(os.path.commonpath([os.path.abspath(root.folder) for root in roots]))
