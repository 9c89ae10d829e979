"""Rows of prompts and demonstrations, and pictures for them."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def prompt_file(tmp_path, write_lines, pictures):
    """Writes rows; the pictures a.png, b.png and c.png are in the folder ``pictures`` beside the file."""
    for number, name in enumerate("bc"):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(pictures / f"{name}.png")
    return lambda rows: write_lines(tmp_path / "annotations.jsonl", rows)


@pytest.fixture
def prompt_rows():
    """Three demonstrations with no, one and two pictures of the files that are beside them."""
    return [
        {"question": "Why?", "answer": "2", "response": "3 + 4\n\nAnswer: \\boxed{2}"},
        {
            "id": "x",
            "source": "s",
            "image": "pictures/a.png",
            "question": "How many?",
            "answer": "7",
            "response": "So 7",
        },
        {
            "id": 5,
            "image": ["pictures/b.png", "pictures/c.png"],
            "question": "Is <image> larger than <image> ?",
            "answer": "A",
            "response": "The digits are 3",
        },
    ]
