"""The results of tests on disk: what `visualprm test` has written to a folder, and which folders a run has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.batching.ranks import digest_of
from lightning_modules.callbacks.candidate_scores import CANDIDATE_SCORES, read_candidate_scores
from lightning_modules.callbacks.step_scores import STEP_SCORES, StepScores, read_step_scores
from lightning_modules.objectives.table import objective_named

BEST_OF_N = "best_of_n_test.json"
PROCESS_BENCH = "process_bench_test.json"
NOT_RECORDED = "not recorded"
_DEPTH = 2  # folders below a run in which the results of its tests may be


@dataclass(frozen=True)
class CandidateRows:
    """The candidates of one benchmark in ``candidate_scores.jsonl``.

    Attributes:
        lines: First and last line, from 1.
        count: Number of candidates.
        digest: Of question, number and text of each; tells whether two critics have scored the same candidates.
    """

    lines: tuple[int, int]
    count: int
    digest: str


@dataclass(frozen=True)
class RunResult:
    """The folder of one test of a reward model.

    Attributes:
        folder: With ``best_of_n_test.json``, ``process_bench_test.json`` or both.
        name: What tables call the reward model.
        is_named: Whether the user has given the name.
    """

    folder: Path
    name: str
    is_named: bool = False

    @cached_property
    def best_of_n(self) -> dict[str, Any] | None:
        """The report on benchmarks; None if there is none."""
        return _read_json(self.folder / BEST_OF_N, ("ns", "accuracies", "differences"))

    @cached_property
    def process_bench(self) -> dict[str, Any] | None:
        """The report on VisualProcessBench; None if there is none."""
        return _read_json(self.folder / PROCESS_BENCH, ("overall", "sources"))

    @cached_property
    def candidates(self) -> Mapping[str, CandidateRows]:
        """The scored candidates by benchmark; empty where the test has not written them."""
        path = self.folder / CANDIDATE_SCORES
        groups: dict[str, list[tuple[int, str, int, str]]] = {}
        for line, row in enumerate(read_candidate_scores(path) if path.is_file() else [], start=1):
            groups.setdefault(row.benchmark, []).append((line, row.question_id, row.sample_index, row.response_digest))
        return {
            name: CandidateRows(
                (rows[0][0], rows[-1][0]),
                len(rows),
                digest_of(str(row[1:]) for row in sorted(rows, key=lambda row: row[1:])),
            )
            for name, rows in groups.items()
        }

    @cached_property
    def step_scores(self) -> Sequence[StepScores]:
        """The scored steps of VisualProcessBench; empty where the test has not written them."""
        path = self.folder / STEP_SCORES
        return read_step_scores(path) if path.is_file() else []

    @cached_property
    def protocol(self) -> Mapping[str, Any]:
        """How the reward model reads a response; empty in reports that do not record it."""
        report = self.best_of_n or self.process_bench or {}
        return dict(report.get("protocol") or {})

    @property
    def critic(self) -> str:
        """What the reward model is, such as PRM or ORM."""
        known = objective_named(self.protocol["objective"]).critic if "objective" in self.protocol else "PRM"
        return str((self.best_of_n or {}).get("critic", known))

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks that were evaluated."""
        return list((self.best_of_n or {}).get("benchmarks", []))

    def facts(self, benchmark: str) -> Mapping[str, Any]:
        """What was read of a benchmark and how it was graded."""
        details = (self.best_of_n or {}).get("details", {}).get(benchmark, {})
        return dict(details.get("facts", {}))

    @cached_property
    def policy(self) -> str:
        """Names of the models that wrote the candidates."""
        names = {name for benchmark in self.benchmarks for name in self.facts(benchmark).get("policies", ())}
        return ", ".join(sorted(names)) or f"policy {NOT_RECORDED}"

    @cached_property
    def temperatures(self) -> tuple[float | None, ...]:
        """Of the candidates, ascending."""
        found = {value for name in self.benchmarks for value in self.facts(name).get("temperatures", ())}
        return tuple(sorted(found, key=lambda value: -1.0 if value is None else value))


def find_results(argument: str) -> tuple[str, dict[str, RunResult]]:
    """The results of an argument ``FOLDER`` or ``NAME=FOLDER``.

    Args:
        argument: The folder holds the results of a test itself, or it is that of a run, with tests in folders of it.
            A name goes with the folder of one test.

    Returns:
        The folder's name, and results by their place below it (``.`` for the folder itself).

    Raises:
        FileNotFoundError: If there is no such folder, or no finished test in it.
        ValueError: If a name is given to a folder with several tests.
    """
    is_named = "=" in argument and not Path(argument).exists()
    name, _, place = argument.partition("=") if is_named else ("", "", argument)
    folder = Path(place)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give that of a run or a test, or NAME=FOLDER")
    found = {str(each.relative_to(folder)): each for each in _test_folders(folder)}
    if not found:
        raise FileNotFoundError(f"{folder}: no {BEST_OF_N} or {PROCESS_BENCH} in it; the run has not come to its end")
    if is_named and len(found) > 1:
        raise ValueError(f"{argument}: a name goes with the folder of one test; it holds {', '.join(found)}")
    run = folder.absolute().name
    return run, {
        key: RunResult(each, name or (run if key == "." else each.name).removesuffix("_test"), is_named)
        for key, each in found.items()
    }


def _test_folders(folder: Path) -> Iterator[Path]:
    """The folder, or those below it, with results of a test."""
    for depth in range(_DEPTH + 1):
        found = [folder] if depth == 0 else sorted(each for each in folder.glob("*/" * depth) if each.is_dir())
        yield from (each for each in found if (each / BEST_OF_N).is_file() or (each / PROCESS_BENCH).is_file())


def _read_json(path: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); is it torn? Run the test again") from error
    absent = [key for key in keys if not isinstance(report, dict) or key not in report]
    if absent:
        raise ValueError(f"{path}: not a report of `visualprm test`: it has no {', '.join(absent)}")
    return dict(report)
