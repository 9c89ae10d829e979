"""All that training rows are compared with: the questions and pictures of benchmarks and of VisualProcessBench."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from datamodules.benchmarks import BENCHMARKS, BenchmarkOptions, make_benchmark
from datamodules.contamination.picture_hashes import PictureIndex, difference_hash
from datamodules.contamination.question_words import QuestionIndex
from datamodules.process_bench.solutions import read_visual_process_bench
from datamodules.storage.images import open_image

Entry = tuple[str, str, Sequence[Image.Image]]
"""Key, text and pictures of a question."""


def benchmark_entries(
    folder: Path, names: Sequence[str] | None = None, options: Mapping[str, BenchmarkOptions] | None = None
) -> Iterator[Entry]:
    """The questions of all benchmarks in a folder; pictures are decoded at access.

    Args:
        folder: As ``benchmarks`` of the data module.
        names: Of benchmarks; by default all that are there.
        options: For each benchmark by name how it is read.

    Raises:
        FileNotFoundError: If none is there, or one that is named is not.
    """
    benchmarks = [make_benchmark(name, "ours", options) for name in names or BENCHMARKS]
    present = benchmarks if names else [each for each in benchmarks if each.is_in(folder)]
    if not present:
        raise FileNotFoundError(f"{folder}: holds none of the benchmarks {', '.join(BENCHMARKS)}")
    for benchmark in present:
        for question in benchmark.read(folder, images="needed"):
            yield f"{benchmark.name}/{question.question_id}", question.question, question.images


def process_bench_entries(folder: Path) -> Iterator[Entry]:
    """The questions of VisualProcessBench, each once however many solutions it has."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for solution in read_visual_process_bench(folder, totals="warn"):
        if (solution.question, solution.images) not in seen:
            seen.add((solution.question, solution.images))
            pictures = [open_image(image, solution.sample_id) for image in solution.images]
            yield f"VisualProcessBench/{solution.sample_id.rpartition(':')[2]}", solution.question, pictures


class BenchmarkIndex:
    """Finds questions and pictures of benchmarks.

    Args:
        entries: Read once; keys should be unique.
        n: Words of the runs that texts are compared by.

    Attributes:
        texts: Of the questions.
        pictures: Of theirs.
        questions: Number of questions.
    """

    def __init__(self, entries: Iterator[Entry], n: int) -> None:
        texts: dict[str, str] = {}
        keys: list[str] = []
        hashes: list[NDArray[np.uint64]] = []
        for key, text, pictures in tqdm(entries, unit=" questions", desc="benchmarks", delay=2):
            texts[key] = text
            for picture in pictures:
                keys.append(key)
                hashes.append(difference_hash(picture))
        self.questions = len(texts)
        self.texts = QuestionIndex(texts, n)
        self.pictures = PictureIndex(keys, hashes)
