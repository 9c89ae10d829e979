from PIL import Image

from datamodules.batching.collate import StepCollator
from datamodules.batching.lengths import TokenCounter
from tools.benchmarks.collation import SIZES, make_encoder, make_row


def test_pictures_are_cut_as_internvl_cuts_them(tmp_path):
    """Into 1, 2, 4, 6 and 12 tiles, with a thumbnail where there are several; a tile has 256 tokens."""
    encoder = make_encoder(tmp_path / "model")
    rows = []
    for number, size in enumerate(SIZES):
        Image.new("RGB", size).save(tmp_path / f"{number}.jpg")
        rows.append(make_row(tmp_path / f"{number}.jpg", 0))
    batches = [StepCollator(encoder)([row]) for row in rows]
    assert [len(batch.inputs["pixel_values"]) for batch in batches] == [1, 3, 5, 7, 13]
    tokens = [batch.inputs["input_ids"].shape[1] for batch in batches]
    assert [more - tokens[0] for more in tokens] == [256 * more for more in (0, 2, 4, 6, 12)]
    assert TokenCounter(encoder, 12)(rows) == (tokens, [""] * 5)
