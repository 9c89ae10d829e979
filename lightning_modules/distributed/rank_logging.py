"""Logging of a distributed run: rank zero logs, the other ranks only report errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import datasets
import transformers
from huggingface_hub.utils.tqdm import disable_progress_bars

from datamodules.batching.ranks import rank_of_process

_NO_NEWS = (
    # Lightning's use of PyTorch.
    r".*isinstance\(treespec, LeafSpec\)` is deprecated",
    # A run without an evaluation has none of its dataloaders, on purpose.
    r".*Total length of `list` across ranks is zero",
)
"""Beginnings of warnings that say nothing to a user of this package."""

_NO_NEWS_OF_LIGHTNING = (
    "\N{ELECTRIC LIGHT BULB} Tip: For seamless cloud",
    # What is not there and was not asked for.
    "GPU available: False, used: False",
    "TPU available: False, using: 0 TPU cores",
)
"""Beginnings of lines of every command."""


def configure_logging() -> None:
    """Let rank zero log our own packages from level INFO, and silence what other ranks would repeat.

    Other ranks show no log records below ERROR, no warnings, and no progress bars of loading and indexing. Exceptions
    and errors still come from every rank. The rank is taken from the environment, where `torchrun`, SLURM or Lightning
    set it. If Lightning starts the processes of every node, ``NODE_RANK`` tells the nodes apart.

    If the output goes to a file, rank zero shows no such bars either, since all states of one would be one long line.
    Advertisements of Lightning, its lines about processors that are not there, and warnings about what a user of this
    package cannot change, are never shown.
    """
    node = int(os.environ.get("NODE_RANK", "0"))
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)
    if rank_of_process() == 0 and node == 0:
        # This does nothing if the root logger is configured already.
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
        for name in ("lightning_modules", "datamodules"):
            logging.getLogger(name).setLevel(logging.INFO)
        if not sys.warnoptions:
            for message in _NO_NEWS:
                warnings.filterwarnings("ignore", message)
        if not sys.stderr.isatty():
            _disable_bars()
        return
    logging.disable(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    _disable_bars()


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NO_NEWS_OF_LIGHTNING)


def _disable_bars() -> None:
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bars()
