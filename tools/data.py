r"""Check process supervision, unpack archives safely, find benchmark questions, and describe and plan annotations.

Examples::

    visualprm-data check data/VisualPRM400K-v1.1-Raw --model checkpoints/InternVL2_5-8B
    visualprm-data check data/annotations --image-root data/images.zip --json report.json
    visualprm-data extract data/VisualPRM400K-v1.1/images.zip --output data/images
    visualprm-data agree weak.jsonl strong.jsonl --output judged.jsonl
    visualprm-data card rows.jsonl
    visualprm-data decontaminate data/VisualPRM400K-v1.1-Raw --benchmarks data/benchmarks --output data/clean
    visualprm-data estimate --from rows.jsonl --prompts 100000 --solutions 4 --steps 12 --continuations 16
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from rich.console import Console
from tqdm.auto import tqdm

from datamodules.argument_ranges import require_names
from datamodules.benchmarks import BENCHMARKS, BenchmarkOptions
from datamodules.contamination.benchmark_index import BenchmarkIndex, benchmark_entries, process_bench_entries
from datamodules.contamination.picture_hashes import BITS
from datamodules.storage.archive_extraction import extract_archive, unpacked_bytes
from datamodules.storage.files import atomic_write_text, require_another_file, require_writable_file
from datamodules.supervision.annotation_files import find_annotation_files
from lightning_modules.callbacks.prediction_record import Record
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import (
    MAX_PROCESSES,
    nonempty_path,
    nonempty_text,
    number,
    whole_number,
)
from lightning_modules.metrics.table import print_tables
from lightning_modules.monte_carlo.card import card_of
from tools.agreement import AGREE, DIFFER, UNJUDGED, write_agreement
from tools.annotation_estimate import Rates, estimate, measured_rates
from tools.data_check import check_data
from tools.data_report import as_json, tables
from tools.decontaminate import DROPS, clean_copies, find_contamination, require_new_folder, write_clean_copy
from tools.decontaminate import as_json as contamination_json
from tools.reading_facts import reading_facts

_GIBIBYTE = 2**30
_MOST = 1e12
"""Of what an estimate counts with."""


@tool("visualprm-data")
def main(arguments: list[str] | None = None) -> int:
    """Command line of the tool.

    Returns:
        0 if all is well, 1 if there are bad or odd rows or empty files, 2 if a path cannot be read at all.
    """
    parser = ToolParser(prog="visualprm-data", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="statistics of annotations, and every row that cannot be used")
    check.add_argument(
        "paths", nargs="+", type=nonempty_path, metavar="PATH", help="as train_annotations of the data module"
    )
    check.add_argument(
        "--image-root", type=nonempty_text, help="folder or zip archive that image paths are relative to"
    )
    check.add_argument(
        "--model", type=nonempty_text, help="also find what this model cannot read: a checkpoint as model_name_or_path"
    )
    check.add_argument("--no-images", action="store_true", help="do not open the images")
    check.add_argument(
        "--processes",
        type=whole_number(1, MAX_PROCESSES),
        default=len(os.sched_getaffinity(0)),
        help="that decode images",
    )
    check.add_argument("--json", type=nonempty_path, metavar="FILE", help="write the report as JSON, too")
    extract = commands.add_parser("extract", help="unpack a zip archive, also one in parts (images.zip_aa, ...)")
    extract.add_argument("archive", type=nonempty_path, help="images.zip, also where only images.zip_aa, ... are there")
    extract.add_argument("--output", type=nonempty_path, required=True, help="folder to make")
    extract.add_argument("--max-gibibytes", type=number(0), help="most to unpack; what is free on the disk by default")
    agree = commands.add_parser("agree", help="put the verdicts of a second annotation beside the scores of a first")
    agree.add_argument("first", type=nonempty_path, help="rows whose scores are kept")
    agree.add_argument("second", type=nonempty_path, help="rows of the same solutions (annotated with solutions_from)")
    agree.add_argument(
        "--output", type=nonempty_path, required=True, help="JSONL file to write; read it with data.consensus"
    )
    agree.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    card = commands.add_parser("card", help="statistics by source of an annotation, its costs and settings")
    card.add_argument("rows", type=nonempty_path, help="what the annotator wrote; the record beside it is read, too")
    card.add_argument("--output", type=nonempty_path, help="Markdown file to write; printed by default")
    costs = commands.add_parser("estimate", help="requests, tokens and hours of an annotation, from a measured one")
    costs.add_argument(
        "--from", type=nonempty_path, dest="measured", help="rows of a finished annotation to take the rates of"
    )
    costs.add_argument("--prompts", type=whole_number(1), required=True, help="number of questions")
    costs.add_argument("--solutions", type=whole_number(1), default=4, help="of each question")
    costs.add_argument(
        "--steps", type=number(0, _MOST, above=True), help="continued steps of a solution; as measured by default"
    )
    costs.add_argument("--continuations", type=whole_number(1), default=16, help="K")
    costs.add_argument(
        "--tokens-per-second", type=number(0, _MOST, above=True), help="sampled tokens a second and device; as measured"
    )
    costs.add_argument(
        "--completion-tokens", type=number(0, _MOST, above=True), help="tokens of a sampled text; as measured"
    )
    costs.add_argument(
        "--prompt-tokens", type=number(0, _MOST), help="tokens of a prompt, image tokens included; as measured"
    )
    costs.add_argument(
        "--drawn", type=number(0, 1), help="share of the K continuations that are drawn; as measured, or 1"
    )
    clean = commands.add_parser("decontaminate", help="find rows that are also in a benchmark, and write the others")
    clean.add_argument("paths", nargs="+", type=nonempty_path, metavar="PATH", help="as train_annotations")
    clean.add_argument(
        "--image-root", type=nonempty_text, help="folder or zip archive that image paths are relative to"
    )
    clean.add_argument("--benchmarks", type=nonempty_path, help="folder with benchmarks, as data.benchmarks")
    clean.add_argument("--names", nargs="+", choices=BENCHMARKS, help="of benchmarks; by default all that are there")
    clean.add_argument("--visual-process-bench", type=nonempty_path, help="folder with its test.jsonl and images")
    clean.add_argument("--ngram", type=whole_number(1), default=8, help="words of the runs that questions share")
    clean.add_argument(
        "--overlap", type=number(0.01, 1), default=0.8, help="share of the runs; the same words from it on"
    )
    clean.add_argument(
        "--distance", type=whole_number(0, BITS), default=8, help=f"bits of {BITS}; the same picture up to it"
    )
    clean.add_argument("--drop", choices=DROPS, default="any", help="what leaves a row out of the copy")
    clean.add_argument("--json", type=nonempty_path, metavar="FILE", help="write the report with every match as JSON")
    clean.add_argument("--output", type=nonempty_path, help="folder for the copy; only a report by default")
    given = parser.parse_args(arguments)
    return _COMMANDS[given.command](given)


def _require_report(json: Path | None, paths: Sequence[Path]) -> None:
    """Refuse to write a report over annotations that are read, or over a file that is no report."""
    if json is None:
        return
    require_writable_file(json)
    require_another_file(json, [file.path for file in find_annotation_files([str(path) for path in paths])])
    if json.exists() and json.suffix != ".json":
        raise FileExistsError(f"{json} is there already, and is no .json file of a report; give another file")


def _check(given: argparse.Namespace) -> int:
    _require_report(given.json, given.paths)
    report = check_data(
        given.paths,
        given.image_root,
        look_at_images=not given.no_images,
        processes=given.processes,
        model=reading_facts(given.model) if given.model else None,
    )
    console = Console()
    for table in tables(report):
        console.print(table)
    for place, reason in report.bad_rows:
        print(f"{place}: {reason}")
    for place, remark in report.remarks:
        print(f"{place}: odd, but used: {remark}")
    for file in report.empty_files:
        print(f"{file}: holds no rows")
    if given.json:
        atomic_write_text(given.json, as_json(report))
    return 0 if report.is_fine else 1


def _extract(given: argparse.Namespace) -> int:
    most = None if given.max_gibibytes is None else int(given.max_gibibytes * _GIBIBYTE)
    with tqdm(total=unpacked_bytes(given.archive), unit="B", unit_scale=True, desc=given.archive.name) as bar:
        files = extract_archive(given.archive, given.output, max_bytes=most, progress=bar.update)
    print(f"{given.output}: {files} files")
    return 0


def _agree(given: argparse.Namespace) -> int:
    require_writable_file(given.output)
    if given.output.exists() and not given.overwrite:
        raise FileExistsError(f"{given.output} is there already; give another file or --overwrite")
    for source, counts in write_agreement(given.first, given.second, given.output).items():
        judged = counts[AGREE] + counts[DIFFER]
        share = f", {100 * counts[AGREE] / judged:.1f} % of them alike" if judged else ""
        print(f"{source}: {judged} steps judged{share}; {counts[UNJUDGED]} not judged")
    return 0


def _card(given: argparse.Namespace) -> int:
    if given.output:
        require_writable_file(given.output)
        require_another_file(given.output, [given.rows])
    if not given.rows.stat().st_size:
        raise ValueError(f"{given.rows}: holds no rows")
    path = given.rows.with_name(f"{given.rows.name}.settings")
    record = Record.of(path, is_finished=True) if path.is_file() else Record({})
    text = card_of(given.rows, record.settings, record.costs, record.when)
    if given.output:
        atomic_write_text(given.output, text)
    else:
        print(text, end="")
    return 0


def _estimate(given: argparse.Namespace) -> int:
    names = ("drawn", "prompt_tokens", "completion_tokens", "tokens_per_second")
    chosen = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    if given.measured:
        rates, steps = measured_rates(given.measured)
        rates = replace(rates, **chosen)
    else:
        missing = [f"--{name.replace('_', '-')}" for name in names[1:] if name not in chosen]
        if missing or given.steps is None:
            raise ValueError(f"give --from, or {', '.join([*missing, *([] if given.steps else ['--steps'])])}")
        rates, steps = Rates(**{"drawn": 1.0, "texts_per_request": given.continuations, **chosen}), given.steps
    found = estimate(given.prompts, given.solutions, given.steps or steps, given.continuations, rates)
    for name, value in vars(found).items():
        print(
            f"{name.replace('_', ' ')}: {value:,.1f}"
            if isinstance(value, float)
            else f"{name.replace('_', ' ')}: {value:,}"
        )
    return 0


def _decontaminate(given: argparse.Namespace) -> int:
    if given.benchmarks is None and given.visual_process_bench is None:
        raise ValueError("give --benchmarks, --visual-process-bench, or both")
    require_names(names=given.names)
    _require_report(given.json, given.paths)
    if given.output:
        require_new_folder(given.output)
        clean_copies(given.paths, given.image_root)
    # What a benchmark lacks of its release is no matter here.
    options = {name: BenchmarkOptions(on_mismatch="ignore", allow_incomplete=True) for name in BENCHMARKS}
    entries = chain(
        benchmark_entries(given.benchmarks, given.names, options) if given.benchmarks else (),
        process_bench_entries(given.visual_process_bench) if given.visual_process_bench else (),
    )
    index = BenchmarkIndex(entries, given.ngram)
    found = find_contamination(given.paths, given.image_root, index, given.overlap, given.distance, given.drop)
    if not found.rows:
        raise ValueError(f"{', '.join(map(str, given.paths))}: no rows to compare")
    print_tables([found.to_table()])
    for problem in found.unreadable:
        print(problem)
    if given.json:
        atomic_write_text(given.json, contamination_json(found))
    if given.output:
        for line in write_clean_copy(given.paths, given.image_root, found.dropped, given.output):
            print(line)
    return 1 if found.unreadable else 0


_COMMANDS = {
    "check": _check,
    "extract": _extract,
    "agree": _agree,
    "card": _card,
    "estimate": _estimate,
    "decontaminate": _decontaminate,
}


def run() -> None:
    """Console entry point."""
    sys.exit(main())


if __name__ == "__main__":
    run()
