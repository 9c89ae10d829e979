"""The questions of benchmarks as prompts of a policy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from datamodules.benchmarks import BenchmarkOptions, Rules, benchmarks_in, make_benchmark, vlmevalkit_prompts
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.conversation.reading_rules import PictureRules
from datamodules.policy.prompts import Prompt
from datamodules.rollouts.grading import question_digest, verdict_digest

logger = logging.getLogger(__name__)

PromptsAs = Literal["ours", "vlmevalkit"]


def benchmark_prompts(
    folder: Path,
    names: Sequence[str] | None = None,
    instruction: str | None = None,
    rules: Rules = "ours",
    options: Mapping[str, BenchmarkOptions] | None = None,
    prompts_as: PromptsAs = "ours",
    pictures: PictureRules = "ours",
) -> list[Prompt]:
    """The questions of benchmarks as prompts; ids are ``benchmark/question_id``.

    Args:
        folder: Folder of the tables or datasets.
        names: Names of benchmarks; by default all in the folder.
        instruction: Text after each question; by default the benchmark's own.
        rules: Rules of grading.
        options: Reading options of benchmarks, by name.
        prompts_as: Whether the policy is asked as we do, or as VLMEvalKit does
            (:mod:`datamodules.benchmarks.vlmevalkit_prompts`), without ``instruction``.
        pictures: How pictures become RGB, see :func:`datamodules.storage.images.open_image`.

    Raises:
        FileNotFoundError: If a benchmark is missing, or the folder holds none.
        ValueError: If a name or split is unknown, or a benchmark cannot be read, or VLMEvalKit does not ask it.
    """
    prompts = []
    other_layouts = set()
    for name in names or benchmarks_in(folder, options):
        benchmark = make_benchmark(name, rules, options)
        for question in benchmark.read(folder, images="needed"):
            details: dict[str, Any] = {"rules": rules}
            if question.option_order is not None:
                details["option_order"] = question.option_order
            prompts.append(
                Prompt(
                    f"{name}/{question.question_id}",
                    question.question,
                    (),
                    question.gold[0],
                    name,
                    partial(_opened, question.images, pictures),
                    partial(benchmark.grade, question),
                    text=benchmark.policy_prompt(question, instruction),
                    details=details,
                    verdict_digest=partial(verdict_digest, question_digest(benchmark, question)),
                    where=f"{name}/{question.question_id}",
                )
            )
            if prompts_as == "vlmevalkit":
                asked = vlmevalkit_prompts.ask(question)
                load = partial(vlmevalkit_prompts.load, asked, partial(_opened, rules=pictures))
                prompts[-1] = replace(prompts[-1], text=asked.text, load_images=load, max_tiles=asked.max_tiles)
                if question.row is not None and not question.row.is_table:
                    other_layouts.add(name)
    if other_layouts:
        logger.warning(
            "prompts_as: vlmevalkit: %s come from other files than VLMEvalKit's tables, whose questions may be worded "
            "otherwise",
            ", ".join(sorted(other_layouts)),
        )
    return prompts


def _opened(images: Sequence[Image.Image], rules: PictureRules) -> list[Image.Image]:
    return list(images.by_rules(rules) if isinstance(images, LazyImages) else images)
