"""Build the miniature world on disk, in the released file formats.

Layout of the folder::

    statements/annotations.jsonl       raw process rows about pictures: what the base model is pretrained on
    demonstrations/annotations.jsonl   MMPR prompt rows + "response": for the policy; both misread some digits
    prompts/annotations.jsonl          MMPR prompt rows {image, question, answer}: what annotation starts from
    validation/annotations.jsonl       the same, of validation digits: for model selection
    benchmarks/*.tsv                   one table a benchmark, of test digits
    truth.jsonl                        the true steps of every benchmark question: for evaluation only
    */images/*.png

The digit images behind the splits are disjoint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.handwritten.digits import DigitPool, MisreadPool, split_digit_pools
from datamodules.handwritten.families import (
    FAMILIES,
    FAMILY_OF_BENCHMARK,
    position_sum_variants,
    two_hop_group,
)
from datamodules.handwritten.question import WorldQuestion
from datamodules.handwritten.statements import ANNOTATIONS, write_statements
from datamodules.handwritten.tables import write_benchmark_tables
from datamodules.storage.files import atomic_write_text
from datamodules.storage.worker_processes import WorkerProcesses

SPLITS = ("demonstrations", "prompts", "validation", "statements")
"""What is drawn beside the benchmarks; the place of a split is part of its seed."""


@dataclass(frozen=True)
class WorldSize:
    """How many questions each split holds, and which share of the digit images it draws from.

    Attributes:
        statements: Pictures with true and false statements, for the base model; from the digits of demonstrations.
        demonstrations: Questions with a gold solution for the policy.
        prompts: Questions to annotate for the process reward model.
        validation: Questions to annotate for its validation.
        benchmark_questions: Questions per benchmark, rounded down to whole groups for DynaMath (of ten) and We-Math (of
            three), but at least one group.
        misreadings: Probability that a demonstration reads a digit as its look-alike
            (:data:`datamodules.handwritten.digits.LOOK_ALIKES`); its response and answer follow from that. So the
            policy's errors are systematic, as those of large models often are.
        digit_shares: Share of the 1,797 digit images per split; they must not sum to more than 1.

    Raises:
        ValueError: If a number is not at least 1.
    """

    statements: int = 20000
    demonstrations: int = 20000
    prompts: int = 400
    validation: int = 60
    benchmark_questions: int = 60
    misreadings: float = 0.42
    digit_shares: dict[str, float] = field(
        default_factory=lambda: {
            "demonstrations": 0.2,
            "prompts": 0.5,
            "validation": 0.1,
            "test": 0.2,
        }
    )

    def __post_init__(self) -> None:
        for name in ("statements", "demonstrations", "prompts", "validation", "benchmark_questions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def sample_questions(count: int, pool: DigitPool, generator: np.random.Generator, prefix: str) -> list[WorldQuestion]:
    """Questions of all families in turn."""
    names = list(FAMILIES)
    return [FAMILIES[names[i % len(names)]](f"{prefix}-{i:05d}", pool, generator) for i in range(count)]


def benchmark_questions(benchmark: str, count: int, pool: DigitPool, seed: int) -> list[WorldQuestion]:
    """The test questions of one benchmark; DynaMath in groups of ten variants, We-Math in groups of three."""
    generator = np.random.default_rng([seed, *benchmark.encode()])
    if benchmark == "DynaMath":
        return [q for i in range(1, max(1, count // 10) + 1) for q in position_sum_variants(i, pool, generator)]
    if benchmark == "WeMath":
        return [q for i in range(1, max(1, count // 3) + 1) for q in two_hop_group(i, pool, generator)]
    family = FAMILIES[FAMILY_OF_BENCHMARK[benchmark]]
    return [family(str(i), pool, generator) for i in range(1, count + 1)]


def write_prompt_rows(questions: list[WorldQuestion], folder: Path, *, with_solution: bool) -> None:
    """Write MMPR prompt rows and their pictures; `with_solution` adds the gold response."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    # Rows of before must not be left with some of these pictures if this process is killed.
    (folder / ANNOTATIONS).unlink(missing_ok=True)
    lines = []
    for question in questions:
        names = []
        for number, image in enumerate(question.images):
            name = f"images/{question.question_id}_{number}.png"
            image.save(folder / name)
            names.append(name)
        row: dict[str, object] = {"id": question.question_id, "source": question.family}
        if names:
            row["image"] = names[0] if len(names) == 1 else names
        row |= {"question": question.question_with_options, "answer": question.answer}
        if with_solution:
            row["response"] = question.solution
        lines.append(json.dumps(row))
    atomic_write_text(folder / ANNOTATIONS, "\n".join(lines) + "\n")


def _write_split(split: str, folder: Path, size: WorldSize, seed: int) -> None:
    """Write the questions or statements of one of ``SPLITS``; each split has its own random numbers."""
    pools = split_digit_pools(size.digit_shares, seed)
    generator = np.random.default_rng([seed, SPLITS.index(split)])
    if split == "statements":
        write_statements(size.statements, pools["demonstrations"], folder / split, generator)
        return
    pool, is_demonstration = pools[split], split == "demonstrations"
    if is_demonstration:
        pool = MisreadPool(pool.images, pool.labels, size.misreadings)
    questions = sample_questions(getattr(size, split), pool, generator, split)
    write_prompt_rows(questions, folder / split, with_solution=is_demonstration)


def build_world(folder: Path, size: WorldSize, seed: int = 0, processes: int = 1) -> None:
    """Write the world; its last file is ``truth.jsonl``, and an old one is removed first: a folder with one is whole.

    Args:
        folder: Folder to write into; files of the same names are replaced.
        size: Numbers of questions and shares of digit images.
        seed: The same seed and size give the same files.
        processes: Number of processes that write splits.
    """
    (folder / "truth.jsonl").unlink(missing_ok=True)
    if processes > 1:
        with WorkerProcesses(processes) as executor:
            for written in [executor.submit(_write_split, split, folder, size, seed) for split in SPLITS]:
                written.result()
    else:
        for split in SPLITS:
            _write_split(split, folder, size, seed)
    pool = split_digit_pools(size.digit_shares, seed)["test"]
    tests = {name: benchmark_questions(name, size.benchmark_questions, pool, seed) for name in FAMILY_OF_BENCHMARK}
    write_benchmark_tables(tests, folder / "benchmarks")
    truth = [
        {"benchmark": name, "question_id": q.question_id, "steps": q.steps, "neutral_steps": sorted(q.neutral_steps)}
        for name, questions in tests.items()
        for q in questions
    ]
    atomic_write_text(folder / "truth.jsonl", "".join(json.dumps(row) + "\n" for row in truth))
