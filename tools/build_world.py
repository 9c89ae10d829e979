"""Write the miniature world of handwritten digits to disk, in the released file formats.

Example::

    python -m tools.build_world --output data/quickstart/world --demonstrations 20000 --prompts 3000
"""

from __future__ import annotations

import os
import sys
import time

from datamodules.handwritten.world import WorldSize, build_world
from datamodules.storage.files import errors_name, require_writable_folder
from lightning_modules.checkpointing.run_lock import RunLock
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import MAX_PROCESSES, nonempty_path, whole_number


@tool("build_world")
def main() -> int:
    """Command line of the tool; returns the exit status."""
    default = WorldSize()
    parser = ToolParser(prog="build_world", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=nonempty_path, required=True, help="folder to write")
    parser.add_argument(
        "--statements",
        type=whole_number(1),
        default=default.statements,
        help="pictures with statements, for the base model",
    )
    parser.add_argument(
        "--demonstrations", type=whole_number(1), default=default.demonstrations, help="worked solutions to learn from"
    )
    parser.add_argument(
        "--prompts", type=whole_number(1), default=default.prompts, help="questions to annotate for training"
    )
    parser.add_argument(
        "--validation", type=whole_number(1), default=default.validation, help="questions to annotate for validation"
    )
    parser.add_argument(
        "--benchmark-questions", type=whole_number(1), default=default.benchmark_questions, help="questions a benchmark"
    )
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0)
    parser.add_argument(
        "--processes",
        type=whole_number(1, MAX_PROCESSES),
        default=os.cpu_count() or 1,
        help="that draw at the same time",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files of a world that is there")
    arguments = parser.parse_args()
    size = WorldSize(
        statements=arguments.statements,
        demonstrations=arguments.demonstrations,
        prompts=arguments.prompts,
        validation=arguments.validation,
        benchmark_questions=arguments.benchmark_questions,
    )
    require_writable_folder(arguments.output)
    if (arguments.output / "truth.jsonl").exists() and not arguments.overwrite:
        raise FileExistsError(f"{arguments.output} holds a world already; give another folder or --overwrite")
    start = time.monotonic()
    with RunLock(arguments.output).held(0.0), errors_name(arguments.output):
        build_world(arguments.output, size, arguments.seed, arguments.processes)
    print(f"{arguments.output}: {size} in {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
