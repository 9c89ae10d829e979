"""Write the miniature world of handwritten digits to disk, in the released file formats.

Example::

    python -m tools.build_world --output data/quickstart/world --demonstrations 20000 --prompts 3000
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from datamodules.handwritten.world import WorldSize, build_world
from datamodules.storage.files import require_writable_folder
from lightning_modules.configuration.mistakes import ToolParser, tool


@tool("build_world")
def main() -> int:
    """Command line of the tool; returns the exit status."""
    default = WorldSize()
    parser = ToolParser(prog="build_world", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--statements", type=int, default=default.statements, help="pictures with statements, for the base model"
    )
    parser.add_argument(
        "--demonstrations", type=int, default=default.demonstrations, help="worked solutions to learn from"
    )
    parser.add_argument("--prompts", type=int, default=default.prompts, help="questions to annotate for training")
    parser.add_argument(
        "--validation", type=int, default=default.validation, help="questions to annotate for validation"
    )
    parser.add_argument(
        "--benchmark-questions", type=int, default=default.benchmark_questions, help="questions a benchmark"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that draw at the same time")
    arguments = parser.parse_args()
    size = WorldSize(
        statements=arguments.statements,
        demonstrations=arguments.demonstrations,
        prompts=arguments.prompts,
        validation=arguments.validation,
        benchmark_questions=arguments.benchmark_questions,
    )
    require_writable_folder(arguments.output)
    start = time.monotonic()
    build_world(arguments.output, size, arguments.seed, arguments.processes)
    print(f"{arguments.output}: {size} in {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
