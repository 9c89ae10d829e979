"""Sources of process supervision: files, weights, tiles."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.storage import fields
from datamodules.storage.archive_parts import archive_parts

logger = logging.getLogger(__name__)


@dataclass
class ProcessSource:
    """One or several annotation files with settings for training.

    Attributes:
        annotations: Paths as of :func:`datamodules.supervision.annotation_files.find_annotation_files`.
        image_root: Folder, zip archive, or ``zip://folder::archive`` that image paths are relative to; the folder of
            the annotations by default.
        weight: How often each row is seen per epoch, on average; above 0. At 0.5 it is seen in every second epoch.
        max_tiles: Most tiles that a picture is cut into, the thumbnail not counted; the processor's own by default.
        limit: Most rows of each source name, chosen by the seed.
        rows: Expected number of rows; another number is a warning. None if not known.
    """

    annotations: str | list[str]
    image_root: str | None = None
    weight: float = 1.0
    max_tiles: int | None = None
    limit: int | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"sources: weight must be above 0, got {self.weight}; leave the source out instead")
        for name in ("max_tiles", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"sources: {name} must be at least 1, got {value}")

    @property
    def paths(self) -> list[str]:
        """The annotations as a list."""
        return [self.annotations] if isinstance(self.annotations, str) else list(self.annotations)


def process_sources(
    annotations: str | Sequence[str | Path] | None,
    sources: Sequence[ProcessSource] | Mapping[str, ProcessSource] | None,
    image_root: str | Path | None,
) -> list[ProcessSource]:
    """All sources of a data module, in order.

    Args:
        annotations: Paths, each of which may be a ``meta.json`` of a release, or a folder with one.
        sources: More sources, with settings of their own; keys of a mapping have no meaning.
        image_root: Image root of sources that name none.

    Raises:
        ValueError: If a ``meta.json`` is malformed.
    """
    root = str(image_root) if image_root else None
    given = [annotations] if isinstance(annotations, str | Path) else annotations or []
    found: list[ProcessSource] = []
    for path in map(Path, given):
        meta = path / "meta.json" if path.is_dir() else path
        if meta.suffix == ".json" and meta.is_file():
            found += read_meta(meta)
        else:
            found.append(ProcessSource([str(path)], root))
    for source in sources.values() if isinstance(sources, Mapping) else sources or []:
        values = source if isinstance(source, Mapping) else vars(source)
        found.append(ProcessSource(**{**values, "image_root": values.get("image_root") or root}))
    return found


def read_meta(path: Path) -> list[ProcessSource]:
    """The sources that a ``meta.json`` in InternVL's format lists.

    Each entry has ``root`` and ``annotation``, relative to the release's folder or to the one above it, ``repeat_time``
    (the weight), ``length`` and ``max_dynamic_patch`` (the most tiles).

    Raises:
        ValueError: If the file is malformed or an entry's annotations are not there; names file and entry.
    """
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError(f"{path}: expected an object of objects, as InternVL's meta files are")
    return [_meta_source(path, f"{path}: {name!r}", entry) for name, entry in entries.items()]


def _meta_source(path: Path, where: str, entry: Mapping[str, Any]) -> ProcessSource:
    annotation = fields.text(entry, "annotation", where)
    found = _in_release(path, annotation)
    if found is None:
        raise ValueError(f"{where}: there is no annotation file {annotation!r} below {path.parent} or beside it")
    root = _in_release(path, entry["root"]) if entry.get("root") else None
    if entry.get("root") and root is None:
        raise ValueError(f"{where}: there is no image folder {entry['root']!r} below {path.parent} or beside it")
    return ProcessSource(
        found,
        root,
        weight=fields.number(entry, "repeat_time", where, minimum=0.0) if "repeat_time" in entry else 1.0,
        max_tiles=fields.integer(entry, "max_dynamic_patch", where, minimum=1)
        if "max_dynamic_patch" in entry
        else None,
        rows=entry["length"] if isinstance(entry.get("length"), int) else None,
    )


def _in_release(meta: Path, name: str) -> str | None:
    """Where a path of a meta file is: as a file, as a folder, or inside of the archive of that name."""
    folder, short = meta.parent, Path(*Path(name).parts[1:])
    spelled = [Path(name), short] if short.parts else [Path(name)]
    for candidate in (folder.parent / name, *(folder / each for each in spelled)):
        if candidate.exists():
            return str(candidate)
    for inside in spelled:
        archive = folder / f"{inside.parts[0]}.zip"
        if archive_parts(archive):
            return f"zip://{inside.as_posix()}::{archive}"
    return None
