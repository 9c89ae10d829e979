"""A checkpoint whose outputs depend strongly on what it reads, and pictures and prompts for it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

CONTEXT = "<IMG_CONTEXT>"


@pytest.fixture(scope="session")
def sharp_checkpoint(tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint with larger attention and embedding weights: fresh weights hardly look at their context."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(3)
            if "language_model" in name and ("v_proj" in name or "o_proj" in name):
                weight.mul_(8)
        model.get_input_embeddings().weight.mul_(20)
        model.model.multi_modal_projector.linear_2.weight.mul_(60)
    folder = tmp_path_factory.mktemp("sharp_checkpoint")
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture
def sharp_model(sharp_checkpoint):
    """The model of :func:`sharp_checkpoint`, in evaluation mode."""
    return AutoModelForImageTextToText.from_pretrained(sharp_checkpoint).eval()


@pytest.fixture(scope="session")
def picture():
    """Makes different pictures for different numbers."""

    def make(number: int) -> Image.Image:
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3))
        return Image.fromarray(pixels.astype(np.uint8))

    return make


@pytest.fixture
def given(request, tmp_path) -> str:
    """A file with the `SOLUTIONS` of the test's module, lists of texts by prompt: what a judge or critic is given."""
    rows = [
        {"id": f"{name}/{n}", "response": text}
        for name, texts in request.module.SOLUTIONS.items()
        for n, text in enumerate(texts)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
