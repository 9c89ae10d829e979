"""The prompts and demonstrations that the arguments of the policy's data module name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.benchmarks import BenchmarkOptions
from datamodules.conversation.instructions import POLICY_INSTRUCTION
from datamodules.policy.benchmark_prompts import benchmark_prompts
from datamodules.policy.process_bench_prompts import process_bench_prompts
from datamodules.policy.prompt_rows import read_prompts
from datamodules.policy.prompt_sources import PromptSource, read_sources
from datamodules.policy.prompts import Prompt, with_other_images
from datamodules.policy.released_annotation import with_choices

CHOICES = ("instruction_template", "max_tiles", "without_sources", "max_prompts_per_source")
"""Arguments that :func:`datamodules.policy.released_annotation.with_choices` takes, in its order."""

Sources = Sequence[PromptSource] | Mapping[str, PromptSource]


def prompts_to_answer(
    arguments: Mapping[str, Any],
    benchmark_options: Mapping[str, BenchmarkOptions] | None,
    sources: Sources | None,
) -> list[Prompt]:
    """The prompts of `predict`: questions of benchmarks, solutions of VisualProcessBench, or prompt rows.

    Args:
        arguments: Those of :class:`datamodules.prompts_datamodule.PromptDataModule` by name.
        benchmark_options: Likewise.
        sources: Likewise.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If there is nothing to read or no row can be used, or one cannot and ``on_bad_row`` is "error".
    """
    if arguments["benchmarks"]:
        prompts = benchmark_prompts(
            Path(arguments["benchmarks"]),
            arguments["benchmark_names"],
            arguments["instruction"],
            arguments["rules"],
            benchmark_options,
            arguments["prompts_as"],
            arguments["pictures"],
        )
    elif arguments["visual_process_bench"]:
        prompts = process_bench_prompts(
            Path(arguments["visual_process_bench"]),
            on_bad_row=arguments["on_bad_row"],
            pictures=arguments["pictures"],
            max_bad_rows=arguments["max_bad_rows"],
        )
    else:
        prompts = rows_named_by("prompts", arguments) if arguments["prompts"] or not sources else []
        prompts += _rows_of_sources(arguments, sources) if sources else []
    if (arguments["benchmarks"] or arguments["visual_process_bench"]) and arguments["max_tiles"] is not None:
        prompts = with_choices(prompts, max_tiles=arguments["max_tiles"])
    chosen = (with_other_images(prompts) if arguments["other_images"] else prompts)[: arguments["max_prompts"]]
    if not chosen:
        raise ValueError(f"no prompts are left (max_prompts: {arguments['max_prompts']}); give at least 1")
    return chosen


def rows_named_by(name: str, arguments: Mapping[str, Any]) -> list[Prompt]:
    """The rows of the file that an argument names: ``prompts``, ``demonstrations`` or those of validation.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: See :func:`prompts_to_answer`.
    """
    if not arguments[name]:
        raise ValueError(f"PromptDataModule needs '{name}' for this command")
    prompts = read_prompts(
        Path(arguments[name]),
        _image_root(arguments),
        _instruction(arguments),
        arguments["grading"],
        arguments["on_bad_row"],
        with_responses=name != "prompts",
        pictures=arguments["pictures"],
        max_bad_rows=arguments["max_bad_rows"],
    )
    return with_choices(prompts, *(arguments[each] for each in CHOICES))


def _rows_of_sources(arguments: Mapping[str, Any], sources: Sources) -> list[Prompt]:
    prompts = read_sources(
        sources,
        _image_root(arguments),
        _instruction(arguments),
        arguments["instruction_template"],
        arguments["max_tiles"],
        arguments["grading"],
        arguments["on_bad_row"],
        arguments["pictures"],
        arguments["max_bad_rows"],
    )
    return with_choices(prompts, None, None, *(arguments[each] for each in CHOICES[2:]))


def _image_root(arguments: Mapping[str, Any]) -> Path | None:
    return Path(arguments["image_root"]) if arguments["image_root"] else None


def _instruction(arguments: Mapping[str, Any]) -> str:
    given = arguments["instruction"]
    return POLICY_INSTRUCTION if given is None else str(given)
