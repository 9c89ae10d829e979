r"""Check process supervision before a run, and unpack archives safely.

Examples::

    visualprm-data check data/VisualPRM400K-v1.1-Raw --model checkpoints/InternVL2_5-8B
    visualprm-data check data/annotations --image-root data/images.zip --json report.json
    visualprm-data extract data/VisualPRM400K-v1.1/images.zip --output data/images
"""

from __future__ import annotations

import argparse
import os
import sys

from rich.console import Console
from tqdm.auto import tqdm

from datamodules.storage.archive_extraction import extract_archive, unpacked_bytes
from datamodules.storage.files import atomic_write_text, require_writable_file
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import (
    MAX_PROCESSES,
    nonempty_path,
    nonempty_text,
    number,
    whole_number,
)
from tools.data_check import check_data
from tools.data_report import as_json, tables
from tools.reading_facts import reading_facts

_GIBIBYTE = 2**30


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
    given = parser.parse_args(arguments)
    return _check(given) if given.command == "check" else _extract(given)


def _check(given: argparse.Namespace) -> int:
    if given.json:
        require_writable_file(given.json)
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


def run() -> None:
    """Console entry point."""
    sys.exit(main())


if __name__ == "__main__":
    run()
