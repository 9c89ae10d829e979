"""Export the checkpoint of a training run as a folder that plain `transformers` loads.

Takes a `.ckpt` file or the folder of a sharded (FSDP2) run, which is consolidated. Example::

    visualprm-export runs/prm/checkpoints/last.ckpt --config runs/prm/config.yaml --output exported/prm
"""

from __future__ import annotations

import sys
from pathlib import Path

from datamodules.storage.files import atomic_folder, require_writable_folder
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import file_size, nonempty_path, nonempty_text
from lightning_modules.export.pretrained_folder import MAX_SHARD_SIZE, require_replaceable
from lightning_modules.export.trained_module import load_module


def export(
    checkpoint: Path,
    output: Path,
    config: Path | None = None,
    model_name_or_path: str | None = None,
    max_shard_size: str = MAX_SHARD_SIZE,
    overwrite: bool = False,
) -> None:
    """Write the folder, completely or not at all.

    Args:
        checkpoint: Checkpoint of a reward model or a policy.
        output: Folder to write.
        config: The ``config.yaml`` of the run.
        model_name_or_path: The base model, if it is in another place now.
        max_shard_size: Largest weight file.
        overwrite: Replace an exported folder.

    Raises:
        FileExistsError: If ``output`` exists and is not to be replaced, or is not an exported folder.
        ValueError: If the checkpoint cannot be read or does not fit.
    """
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} is there already; give another folder or --overwrite")
    require_replaceable(output)
    require_writable_folder(output)
    module = load_module(checkpoint, config, model_name_or_path)
    with atomic_folder(output) as folder:
        module.save_pretrained(folder, max_shard_size)  # type: ignore[operator]


@tool("visualprm-export", status=1)
def main() -> int:
    """Console entry point; returns the exit status."""
    parser = ToolParser(prog="visualprm-export", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=nonempty_path, help="a .ckpt file, or the folder of a sharded run")
    parser.add_argument("--output", type=nonempty_path, required=True, help="folder to write")
    parser.add_argument(
        "--config", type=nonempty_path, help="config.yaml of the run; by default what the checkpoint says"
    )
    parser.add_argument(
        "--model-name-or-path", type=nonempty_text, help="the model that the run began with, if it lies elsewhere now"
    )
    parser.add_argument(
        "--max-shard-size",
        type=file_size,
        default=MAX_SHARD_SIZE,
        help="largest file of weights (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an exported folder")
    arguments = parser.parse_args()
    export(**vars(arguments))
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
