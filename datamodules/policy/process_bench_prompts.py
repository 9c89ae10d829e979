"""The solutions of VisualProcessBench as prompts, for language models that judge their steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from datamodules.batching.collate import load_images
from datamodules.benchmarks import Grade
from datamodules.conversation.reading_rules import PictureRules
from datamodules.policy.prompts import Prompt
from datamodules.process_bench.solutions import read_visual_process_bench
from datamodules.process_bench.totals import DATASET_NAME, TotalsCheck
from datamodules.storage.bad_rows import MAX_BAD_ROWS, OnBadRow


def process_bench_prompts(
    folder: Path,
    totals: TotalsCheck = "auto",
    on_bad_row: OnBadRow = "skip",
    pictures: PictureRules = "ours",
    max_bad_rows: float = MAX_BAD_ROWS,
) -> list[Prompt]:
    """One prompt a solution; its id is ``VisualProcessBench/`` and the line of ``test.jsonl``.

    Args:
        folder: See :func:`datamodules.process_bench.solutions.read_visual_process_bench`, as ``totals`` and
            ``on_bad_row``, and what is raised.
        totals: Whether it must be the released set.
        on_bad_row: What to do about rows that cannot be used.
        max_bad_rows: Largest share of them, see :func:`datamodules.storage.bad_rows.require_few_bad_rows`.
        pictures: How pictures become RGB.
    """
    return [
        Prompt(
            prompt_id(solution.sample_id),
            solution.question,
            solution.images,
            solution.answer,
            solution.data_source,
            partial(load_images, solution.images, solution.sample_id, rules=pictures),
            _no_grade,
            where=solution.sample_id,
            solutions=(solution.steps,),
        )
        for solution in read_visual_process_bench(folder, totals, on_bad_row, max_bad_rows)
    ]


def prompt_id(sample_id: str) -> str:
    """The id of the prompt of a solution, whatever the folder is.

    >>> prompt_id("data/VisualProcessBench/test.jsonl:7")
    'VisualProcessBench/7'
    """
    return f"{DATASET_NAME}/{sample_id.rpartition(':')[2]}"


def _no_grade(response: str) -> Grade:
    raise NotImplementedError("solutions of VisualProcessBench are judged, and no others are sampled")
