r"""Measure reading of a large set of process supervision: first indexing, second start, memory.

Rows are generated with the statistics of the paper (section 3.2: 5.6 steps of 22.6 words), in the layout of
VisualPRM400K-v1.1-Raw, with pictures in an archive that is read in place. Every measurement runs in a process of its
own. Example::

    python -m tools.benchmarks.indexing --rows 400000 --folder data/indexing
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

STEPS, WORDS_PER_STEP = 5.6, 22.6
NUM_SOURCES = 38
SOLUTIONS_PER_QUESTION = 4
BATCHES = 50
"""Read after the first one, before memory is measured."""
_MEBIBYTE = 2**20


def generate(folder: Path, rows: int, seed: int = 0) -> None:
    """Write annotations and an archive of pictures: about four solutions and one picture per question."""
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = np.array(["".join(random.choice(letters, size)) for size in random.integers(1, 9, 20_000)])
    (folder / "annotations").mkdir(parents=True)
    questions = -(-rows // SOLUTIONS_PER_QUESTION)
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(picture, "PNG")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for question in range(questions):
            archive.writestr(f"images/source_{question % NUM_SOURCES:02d}/{question}.png", picture.getvalue())
    files = [(folder / "annotations" / f"source_{n:02d}.jsonl").open("w") for n in range(NUM_SOURCES)]
    for start in range(0, rows, 10_000):
        count = min(10_000, rows - start)
        num_steps = 1 + random.poisson(STEPS - 1, count)
        num_words = 1 + random.poisson(WORDS_PER_STEP - 1, num_steps.sum())
        words = iter(vocabulary[random.integers(0, len(vocabulary), num_words.sum() + 20 * count)].tolist())
        lengths = iter(num_words.tolist())
        scores = iter(random.integers(0, 17, num_steps.sum()).tolist())
        for index in range(count):
            question = (start + index) // SOLUTIONS_PER_QUESTION
            steps = [" ".join(next(words) for _ in range(next(lengths))) for _ in range(num_steps[index])]
            scored = [
                {"step": step, "score": (correct := next(scores)) / 16, "num_mc_correct": correct, "num_mc_total": 16}
                for step in steps
            ]
            asked = " ".join(f"w{question}" if n == 0 else vocabulary[(question * 31 + n) % 20_000] for n in range(20))
            source = question % NUM_SOURCES
            row = {
                "image": f"VisualPRM400K-v1.1-Raw/source_{source:02d}/{question}.png",
                "question": f"<image>\n{asked}",
                "answer": "42",
                "response": "\n\n".join(steps),
                "steps_with_score": scored,
                "num_mc_sequences": 16,
            }
            files[source].write(json.dumps(row) + "\n")
    for file in files:
        file.close()


def measure(folder: Path, workers: int) -> dict[str, float]:
    """Start a training run's data in this process, and measure; see :func:`main` for the names."""
    started = time.perf_counter()
    from datamodules.visual_prm_400k import VisualPRM400KDataModule

    module = VisualPRM400KDataModule(
        train_annotations=str(folder / "annotations"),
        cache_dir=str(folder / "cache"),
        model_name_or_path=str(folder / "model"),
        batch_size=8,
        num_workers=workers,
    )
    # Opening the checkpoint's processor is the model's part of a start.
    _ = module.model_facts
    result = {"imports": time.perf_counter() - started, "rss_before": _rss()}
    started, cpu = time.perf_counter(), time.process_time()
    module.prepare_data()
    module.setup("fit")
    result |= {"setup": time.perf_counter() - started, "setup_cpu": time.process_time() - cpu}
    loader = module.train_dataloader()
    batches = iter(loader)
    next(batches)
    result |= {"start": time.perf_counter() - started, "start_cpu": time.process_time() - cpu, "rss_start": _rss()}
    result["rows"] = len(loader.dataset)  # type: ignore[arg-type]
    for _ in range(BATCHES):
        next(batches)
    result["rss"] = _rss()
    result["rss_anonymous"] = _anonymous()
    result["peak_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pss = [_proportional(child.pid) for child in multiprocessing.active_children() if child.pid is not None]
    result["workers"] = len(pss)
    result["worker_pss"] = sum(pss) / len(pss) if pss else 0.0
    result["total_pss"] = _proportional(os.getpid()) + sum(pss)
    return result


def _rss() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _anonymous() -> float:
    return _kibibytes(Path("/proc/self/status"), "RssAnon:")


def _kibibytes(file: Path, name: str) -> float:
    """A line of a file of the proc file system, in bytes."""
    (line,) = (line for line in file.read_text().splitlines() if line.startswith(name))
    return float(line.split()[1]) * 1024


def _proportional(process: int) -> float:
    return _kibibytes(Path(f"/proc/{process}/smaps_rollup"), "Pss:")


def _measure_apart(folder: Path, workers: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tools.benchmarks.indexing", "--measure", "--folder", str(folder)]
    done = subprocess.run([*command, "--workers", str(workers)], check=True, stdout=subprocess.PIPE)  # noqa: S603
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def run(folder: Path, rows: int, workers: int) -> dict[str, Any]:
    """Generate, index, start again without and with workers; returns what was measured."""
    from tools.make_tiny_model import make_tiny_model

    started = time.perf_counter()
    if not (folder / "model").is_dir():
        generate(folder, rows)
        make_tiny_model(folder / "model", iter(["a b c + - ="]), vision_hidden_size=16, vision_layers=1, text_layers=1)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    size = sum(path.stat().st_size for path in (folder / "annotations").iterdir())
    print(f"generated {rows} rows, {size / _MEBIBYTE:.0f} MiB, in {time.perf_counter() - started:.0f} s", flush=True)
    first = _measure_apart(folder, 0)
    return {
        "annotations_bytes": size,
        "first": first,
        "second": _measure_apart(folder, 0),
        "second_with_workers": _measure_apart(folder, workers),
    }


def report(results: dict[str, Any]) -> Table:
    """The table that is printed."""
    table = Table("", "first indexing", "second start", f"with {results['second_with_workers']['workers']:.0f} workers")
    columns = [results["first"], results["second"], results["second_with_workers"]]
    seconds = {"imports": "imports and processor (s)"}
    seconds |= {"setup": "prepare_data and setup (s)", "setup_cpu": "... CPU time (s)"}
    seconds |= {"start": "up to the first batch (s)", "start_cpu": "... CPU time (s)"}
    for name, title in seconds.items():
        table.add_row(title, *(f"{column[name]:.2f}" for column in columns))
    for name, title in {"setup": "rows/s", "setup_cpu": "rows per second of CPU time"}.items():
        table.add_row(title, f"{columns[0]['rows'] / columns[0][name]:.0f}", "", "")
    sizes = {
        "rss_before": "RSS before (MiB)",
        "rss_start": "RSS at the first batch (MiB)",
        "rss": "RSS after 50 batches (MiB)",
        "rss_anonymous": "... not backed by files (MiB)",
        "peak_rss": "peak RSS (MiB)",
        "worker_pss": "PSS of a worker (MiB)",
        "total_pss": "PSS of all processes (MiB)",
    }
    for name, title in sizes.items():
        table.add_row(title, *(f"{column[name] / _MEBIBYTE:.0f}" for column in columns))
    return table


def main() -> None:
    """Command line of the tool."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--folder", type=Path, help="to work in, kept; a temporary one by default")
    parser.add_argument("--workers", type=int, default=4, help="dataloader workers")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.folder, arguments.workers)))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="indexing-"))
    try:
        results = run(folder, arguments.rows, arguments.workers)
        Console().print(report(results))
        print(json.dumps(results))
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
