"""What the arguments of `visualprm-view` are: the folder of a run, or files of any kind that the project writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from datamodules.benchmarks import BenchmarkOptions
from datamodules.process_bench.solutions import FILE_NAME
from datamodules.storage.files import parse_json_line, read_lines
from datamodules.supervision.annotation_files import find_annotation_files
from datamodules.supervision.consensus import Consensus
from lightning_modules.callbacks.annotation_scores import ANNOTATION_SCORES
from lightning_modules.callbacks.candidate_scores import CANDIDATE_SCORES
from lightning_modules.callbacks.step_scores import STEP_SCORES
from tools.view.annotations import scored_files
from tools.view.best_of_n import Benchmarks

CONFIG = "config.yaml"
_SCORES = {
    "candidate_scores": CANDIDATE_SCORES,
    "step_scores": STEP_SCORES,
    "annotation_scores": ANNOTATION_SCORES,
}
_DEPTH = 3  # folders below a run in which the results of its test may be
_REPORT = "process_bench_test.json"


@dataclass
class Inputs:
    """The files of a page.

    Attributes:
        rollouts: Rollout file, or folder of such files.
        searches: Rollout file of a search, with its trees.
        candidate_scores: Scores of a test on them.
        benchmarks: Questions of the rollouts.
        visual_process_bench: Folder of VisualProcessBench.
        step_scores: Scores of a test on it.
        annotations: Paths of process supervision.
        annotation_scores: Scores of a reward model on it.
        image_root: Folder or archive of its pictures.
        consensus: Whose verdicts on its steps count.
        threshold: Least score of a step that counts as judged correct, if a report says so.
    """

    rollouts: Path | None = None
    searches: Path | None = None
    candidate_scores: Path | None = None
    benchmarks: Benchmarks | None = None
    visual_process_bench: Path | None = None
    step_scores: Path | None = None
    annotations: list[Path | str] = field(default_factory=list)
    annotation_scores: Path | None = None
    image_root: str | None = None
    consensus: Consensus = "monte_carlo"
    threshold: float | None = None


def find_inputs(
    paths: Sequence[Path],
    benchmarks: Path | None = None,
    rollouts: Path | None = None,
    visual_process_bench: Path | None = None,
    image_root: str | None = None,
) -> Inputs:
    """Find out what some paths are, and what else belongs to the scores among them.

    Scores name questions and samples, but hold no text. Where rollouts, benchmarks and VisualProcessBench are not
    given, they are those of the ``config.yaml`` of the run: beside the scores, or in a folder above.

    Args:
        paths: Folders of runs; files of scores, rollouts or annotations; ``test.jsonl`` of VisualProcessBench; what
            :func:`datamodules.supervision.annotation_files.find_annotation_files` reads.
        benchmarks: Folder of benchmark tables.
        rollouts: Rollout file or folder.
        visual_process_bench: Folder of VisualProcessBench.
        image_root: Folder or archive of the pictures of annotations.

    Raises:
        FileNotFoundError: If there is nothing at a path, or what the scores are of is not to be found.
        ValueError: If a path is none of these, two of one kind are given, or a folder holds the scores of several runs.
    """
    found = Inputs(rollouts=rollouts, visual_process_bench=visual_process_bench, image_root=image_root)
    for path in paths:
        if not path.exists() and not any(mark in str(path) for mark in "*:"):
            raise FileNotFoundError(f"{path}: no such file or folder")
        for kind, each in _kinds(path):
            _take(found, kind, each)
    scores = found.candidate_scores or found.step_scores or found.annotation_scores
    if scores is not None:
        _complete(found, scores, benchmarks)
    if benchmarks is not None:
        found.benchmarks = Benchmarks(benchmarks)
    return found


def _take(found: Inputs, kind: str, path: Path) -> None:
    if kind == "annotations":
        found.annotations.append(path)
        return
    earlier = getattr(found, kind)
    if earlier not in (None, path):
        raise ValueError(f"{path} and {earlier} are both {kind.replace('_', ' ')}; a page shows one of them")
    setattr(found, kind, path)


def _kinds(path: Path) -> Iterator[tuple[str, Path]]:
    """Fields of :class:`Inputs` and the paths for them."""
    if path.is_dir():
        run = _run_folder(path)
        if run is not None:
            yield from ((kind, run / name) for kind, name in _SCORES.items() if (run / name).is_file())
        elif (path / FILE_NAME).is_file():
            yield "visual_process_bench", path
        else:
            first = find_annotation_files([path])[0]
            yield (_kind_of_file(first.path) if first.kind == "jsonl" else "annotations"), path
    elif path.suffix == ".json" or path.name == CONFIG:
        yield from _kinds(path.parent)  # a report or the configuration: of a run
    elif path.suffix == ".jsonl":
        kind = _kind_of_file(path)
        yield kind, path.parent if kind == "visual_process_bench" else path
    else:
        yield "annotations", path


def _run_folder(path: Path) -> Path | None:
    """The folder of a run's scores, at a path or below it; None if there is none."""
    below = (folder for depth in range(_DEPTH + 1) for folder in _folders(path, depth))
    found = [folder for folder in below if any((folder / name).is_file() for name in _SCORES.values())]
    if len(found) > 1 and found[0] != path:
        names = ", ".join(map(str, found))
        raise ValueError(f"{path} holds the scores of {len(found)} tests; give the folder of one of them: {names}")
    return found[0] if found else None


def _folders(path: Path, depth: int) -> list[Path]:
    return [path] if depth == 0 else sorted(each for each in path.glob("*/" * depth) if each.is_dir())


def _kind_of_file(path: Path) -> str:
    """What a JSONL file holds, by the fields of its first row."""
    where, line = next(read_lines(path), (str(path), b""))
    if not line:
        raise ValueError(f"{path}: holds no rows")
    row = parse_json_line(line, where)
    if "response_score" in row and "step_scores" in row:
        return "candidate_scores"
    if "sample_id" in row and "step_scores" in row:
        return "step_scores" if "correctness" in row else "annotation_scores"
    if isinstance(row.get("response"), dict):
        return "visual_process_bench"
    if isinstance(row.get("search"), dict):
        return "searches"
    if "sample_index" in row and "response" in row:
        return "rollouts"
    if "steps_with_score" in row or "conversations" in row:
        return "annotations"
    raise ValueError(
        f"{where}: neither a row of scores, rollouts, annotations nor VisualProcessBench; it has {sorted(row)}"
    )


def _complete(found: Inputs, scores: Path, benchmarks: Path | None) -> None:
    """Add what the configuration of the run of some scores names, and the threshold of its report."""
    config = next((folder / CONFIG for folder in scores.absolute().parents if (folder / CONFIG).is_file()), None)
    data = _data_arguments(config) if config else {}

    def named(key: str) -> Path | None:
        value = data.get(key)
        return _existing(value, config) if isinstance(value, str) and config else None

    if found.candidate_scores is not None:
        found.rollouts = found.rollouts or named("rollouts")
        if found.rollouts is None:
            raise FileNotFoundError(f"{found.candidate_scores}: the scores hold no texts; give --rollouts FILE")
        folder = benchmarks or named("benchmarks")
        if folder is not None:
            options = {
                name: BenchmarkOptions(**{**each, "allow_incomplete": True, "on_mismatch": "ignore"})
                for name, each in (data.get("benchmark_options") or {}).items()
            }
            found.benchmarks = Benchmarks(folder, data.get("rules"), options)
    if found.step_scores is not None:
        found.visual_process_bench = found.visual_process_bench or named("visual_process_bench")
        if found.visual_process_bench is None:
            raise FileNotFoundError(
                f"{found.step_scores}: the scores hold no texts; give --visual-process-bench FOLDER"
            )
    elif found.visual_process_bench is None and found.candidate_scores and (scores.parent / _REPORT).is_file():
        # Runs from before there was a file of step scores: the labels can be shown all the same.
        found.visual_process_bench = named("visual_process_bench")
    if found.annotation_scores is not None:
        if not found.annotations:
            found.annotations += [_placed(name, config) for name in scored_files(found.annotation_scores)]
        root = named("image_root")
        found.image_root = found.image_root or (str(root) if root else None)
        found.consensus = data.get("consensus") or "monte_carlo"
    if (report := scores.with_name(_REPORT)).is_file():
        value = json.loads(report.read_text("utf-8")).get("threshold")
        found.threshold = float(value) if isinstance(value, int | float) else None


def _data_arguments(config: Path) -> dict[str, Any]:
    settings = yaml.safe_load(config.read_text("utf-8"))
    data = settings.get("data") if isinstance(settings, dict) else None
    arguments = (data.get("init_args") or data) if isinstance(data, dict) else {}
    return arguments if isinstance(arguments, dict) else {}


def _placed(name: str, config: Path | None) -> str:
    """An annotation file that scores name, below the folder that their run was started in if it is not here."""
    member, mark, path = name.rpartition("::")
    found = _existing(path, config) if config else None
    return f"{member}{mark}{found or path}"


def _existing(value: str, config: Path) -> Path | None:
    """A path of a configuration: as it is, or below one of the folders above, if the run was started there."""
    bases = [Path(), *config.absolute().parents]
    return next((base / value for base in bases if (base / value).exists()), None)
