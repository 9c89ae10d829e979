"""What a process of a distributed run says: rank zero everything once, the others nothing unless they fail."""

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


def configure_logging() -> None:
    """Let rank zero log from level INFO on our own packages, and silence what other ranks would repeat.

    That is log records below ERROR of all libraries, warnings, and progress bars of loading and indexing; exceptions
    and errors still come from every rank. The rank is what `torchrun`, SLURM or Lightning have put into the
    environment; where Lightning itself starts the processes of every node, the first one of a node is known by
    ``NODE_RANK``.

    In a file rank zero has no such bars either, since all states of one would be one long line. Nowhere are there
    advertisements of Lightning, or warnings about what a user of this package cannot change.
    """
    node = int(os.environ.get("NODE_RANK", "0"))
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    if rank_of_process() == 0 and node == 0:
        # Nothing happens where the root logger is configured already.
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


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("\N{ELECTRIC LIGHT BULB} Tip: For seamless cloud")


def _disable_bars() -> None:
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bars()
