import re

import pytest
from PIL import Image

from datamodules.policy.chat import ChatRenderer, render_prompt
from datamodules.policy.prompt_batches import PromptCollator
from datamodules.policy.prompt_rows import read_prompts
from datamodules.storage.images import ImageError


def test_prompt_collator(prompt_file, prompt_rows, tiny_processor):
    prompts = read_prompts(prompt_file(prompt_rows), instruction="")
    batch = PromptCollator(ChatRenderer(tiny_processor))(prompts)
    assert batch.prompts == prompts
    assert [len(images) for images in batch.images] == [0, 1, 2]
    assert [render_prompt(tiny_processor, messages) for messages in batch.messages] == [
        "<|user|>Why?<|end|><|assistant|>",
        "<|user|><IMG_CONTEXT>How many?<|end|><|assistant|>",
        "<|user|>Is <IMG_CONTEXT> larger than <IMG_CONTEXT> ?<|end|><|assistant|>",
    ]


def test_a_picture_that_cannot_be_used_is_replaced(prompt_file, tiny_processor):
    """The batch keeps its prompts, and says whose answers do not count."""
    rows = [
        {"id": "good", "question": "q", "answer": "1", "image": "pictures/a.png"},
        {
            "id": "cut",
            "question": "<image> or <image>",
            "answer": "1",
            "image": ["pictures/a.png", "pictures/broken.png"],
        },
    ]
    prompts = read_prompts(prompt_file(rows))
    renderer = ChatRenderer(tiny_processor)
    batch = PromptCollator(renderer, "skip")(prompts)
    assert [len(images) for images in batch.images] == [1, 2]
    assert list(batch.left_out) == ["cut"]
    assert re.search(r"annotations\.jsonl:2: field 'image': .*broken\.png' cannot be opened", batch.left_out["cut"])
    with pytest.raises(ImageError, match=r"annotations\.jsonl:2: field 'image'"):
        PromptCollator(renderer)(prompts)


def test_a_picture_that_the_processor_refuses(prompt_file, pictures):
    """As some families do for pictures that are far too wide."""

    class Processor:
        def image_processor(self, images, return_tensors):
            if images[0].width / images[0].height > 200:
                raise ValueError("absolute aspect ratio must be smaller than 200, got 210.0")

    for name, size in (("wide", (2100, 10)), ("long", (600, 10))):
        Image.new("RGB", size).save(pictures / f"{name}.png")
    rows = [{"id": name, "question": "q", "answer": "1", "image": f"pictures/{name}.png"} for name in ("wide", "long")]
    batch = PromptCollator(ChatRenderer(Processor()), "skip")(read_prompts(prompt_file(rows)))
    assert list(batch.left_out) == ["wide"]
    assert re.search(
        r":1: a picture of 2100 x 10 pixels cannot be used with this model: .* ratio", batch.left_out["wide"]
    )


# ----------------------------------------------------------------- benchmarks
