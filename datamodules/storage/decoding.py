"""Decode many pictures at once, to find those that only a whole look tells to be broken."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datamodules.storage.images import ImageError, open_image

_MOST_THREADS = 16


Source = bytes | str | Path


def broken_pictures(pictures: Iterable[Source]) -> dict[Source, str]:
    """Which pictures cannot be decoded, though their headers may be sound: files cut short, for one.

    Args:
        pictures: Sources as of :func:`datamodules.storage.images.open_image`; each is decoded once.

    Returns:
        Source to what is wrong with it, which begins with a colon, to follow the place of a row.
    """
    sources = list(dict.fromkeys(pictures))
    # Decoders release the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        problems = dict(zip(sources, threads.map(_problem, sources), strict=True))
    return {source: problem for source, problem in problems.items() if problem}


def _problem(source: Source) -> str:
    try:
        open_image(source, "")
    except ImageError as error:
        return str(error)
    return ""
