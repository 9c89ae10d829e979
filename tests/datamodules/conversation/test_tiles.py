import pytest
import torch
from PIL import Image

from datamodules.conversation.tiles import model_inputs

CONTEXT = "<IMG_CONTEXT>"
TEXTS = ["How many digits are larger?", f"{CONTEXT}So 3", f"{CONTEXT}The digits are 3 and 7"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_conversations_with_tiles_of_their_own_are_padded_on_either_side(tiny_processor, side):
    """A batch of a text, a picture in up to 2 tiles and one in a single tile: each row is that conversation alone."""
    wide = Image.effect_noise((96, 24), 60).convert("RGB")
    images, tiles = [[], [wide], [wide]], [5, 2, 1]
    batch = model_inputs(tiny_processor, TEXTS, images, tiles, side)
    alone = [model_inputs(tiny_processor, [t], [i], [m], side) for t, i, m in zip(TEXTS, images, tiles, strict=True)]
    # Two tiles and the whole picture beside them; a single tile is the whole picture.
    assert [len(one["pixel_values"]) for one in alone[1:]] == [3, 1]
    assert torch.equal(batch["pixel_values"], torch.cat([one["pixel_values"] for one in alone[1:]]))
    length = max(one["input_ids"].shape[1] for one in alone)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, length)
    for ids, mask, one in zip(batch["input_ids"], batch["attention_mask"], alone, strict=True):
        count = one["input_ids"].shape[1]
        text = slice(length - count, None) if side == "left" else slice(count)
        assert torch.equal(ids[text], one["input_ids"][0])
        assert mask.sum() == mask[text].sum() == count
        assert set(ids[mask == 0].tolist()) <= {tiny_processor.tokenizer.pad_token_id}
