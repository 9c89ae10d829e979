"""Fixtures that every test may use."""

from pathlib import Path

import pytest
from transformers import AutoProcessor, ProcessorMixin

from tools.make_tiny_model import make_tiny_model

TEXTS = ["How many digits are larger than 4 ?", "The digits are 3 , 7 and 9 .", "So the answer is \\boxed{2} .", "+ - ="]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small, randomly initialised InternVL checkpoint, in the format of a large one."""
    folder = tmp_path_factory.mktemp("tiny_checkpoint")
    make_tiny_model(
        folder,
        iter(TEXTS),
        vision_hidden_size=16,
        vision_layers=1,
        text_hidden_size=32,
        text_layers=2,
        heads=2,
    )
    return folder


@pytest.fixture(scope="session")
def tiny_processor(tiny_checkpoint: Path) -> ProcessorMixin:
    """The processor of :func:`tiny_checkpoint`."""
    return AutoProcessor.from_pretrained(tiny_checkpoint)
