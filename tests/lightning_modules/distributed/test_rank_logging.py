import logging
import sys
import warnings

import datasets
import pytest
import transformers
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer

from lightning_modules.distributed.rank_logging import configure_logging


@pytest.fixture
def restored():
    """Puts back what the function changes for the whole process; commands run in it before may have done so, too."""
    levels = {name: logging.getLogger(name).level for name in ("lightning_modules", "datamodules")}
    enable_bars()
    with warnings.catch_warnings():
        yield
    logging.disable(logging.NOTSET)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    enable_bars()


def enable_bars():
    datasets.enable_progress_bars()
    transformers.utils.logging.enable_progress_bar()
    enable_progress_bars()


@pytest.mark.parametrize(
    ("rank", "node", "heard"),
    [(0, 0, ["news", "oddity", "failure"]), (3, 0, ["failure"]), (0, 1, ["failure"])],  # last: Lightning's own launcher
)
def test_what_is_heard_of_a_rank(rank, node, heard, restored, monkeypatch, caplog):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    monkeypatch.setenv("NODE_RANK", str(node))
    is_first = (rank, node) == (0, 0)
    configure_logging()
    log = logging.getLogger("lightning_modules.somewhere")
    log.info("news")
    log.warning("oddity")
    log.error("failure")
    assert [record.message for record in caplog.records] == heard
    with warnings.catch_warnings(record=True) as caught:
        if is_first:
            warnings.simplefilter("always")  # pytest has a filter of its own
        warnings.warn("careful", UserWarning, stacklevel=1)
    assert len(caught) == is_first
    assert are_progress_bars_disabled() != is_first
    assert datasets.are_progress_bars_disabled() != is_first


def test_a_file_has_no_bars(restored, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    configure_logging()
    assert are_progress_bars_disabled()
    assert datasets.are_progress_bars_disabled()


def test_there_are_no_advertisements(restored, monkeypatch, caplog):
    """Of Lightning's own trainer, without a logger and with a checkpoint callback."""
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    configure_logging()
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        Trainer(accelerator="cpu", logger=True, enable_checkpointing=True)
        Trainer(accelerator="cpu", fast_dev_run=2)  # says that it runs no loop to its end
    messages = [record.getMessage() for record in caplog.records]
    assert any("fast_dev_run" in message for message in messages), "what is no advertisement is heard"
    assert not any("litlogger" in message or "litmodels" in message for message in messages)
