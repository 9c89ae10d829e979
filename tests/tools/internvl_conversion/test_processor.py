import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from internvl_reference import cut_into_tiles, tile_grid
from PIL import Image
from transformers import AutoProcessor

from lightning_modules.model.backbone import load_processor


@pytest.fixture(scope="module")
def output(converted):
    return converted("internlm2")[2]


def picture(width, height, mode="RGB"):
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 4)).astype(np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


SIZES = st.integers(1, 4000)


@given(width=SIZES, height=SIZES, max_tiles=st.integers(1, 12))
@example(width=100, height=100, max_tiles=12)
@example(width=56 * 2, height=56 * 2, max_tiles=12)
@example(width=80, height=80, max_tiles=12)
@example(width=79, height=79, max_tiles=12)
@example(width=17, height=12, max_tiles=12)
def test_number_of_tiles(output, width, height, max_tiles):
    images = AutoProcessor.from_pretrained(output).image_processor
    columns, rows = tile_grid(width, height, 56, max_tiles)
    expected = columns * rows + (columns * rows > 1)
    options = {"max_patches": max_tiles, "min_patches": 1, "crop_to_patches": True}
    assert images.get_number_of_image_patches(height, width, options) == expected


@pytest.mark.parametrize("size", [(56, 56), (300, 40), (40, 300), (150, 100), (112, 168), (57, 55), (5, 200)])
def test_pixels_are_those_of_the_released_code(output, size):
    """Exact with Pillow; the default of `transformers` is a few of 256 levels off in some pixels of noise."""
    image = picture(*size)
    expected = cut_into_tiles(image, 56)
    exact = load_processor(output, "pil").image_processor(images=[image], return_tensors="pt")
    assert torch.equal(exact["pixel_values"], expected)
    assert exact["num_patches"].tolist() == [len(expected)]
    near = load_processor(output).image_processor(images=[image], return_tensors="pt")["pixel_values"]
    levels = (near - expected) * 255 * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    assert levels.abs().mean() < 0.5
    if min(size) >= 40:  # narrower ones are stretched, which makes the most of a difference
        assert levels.abs().max() < 4.01


def test_tokens_of_images(output):
    processor = load_processor(output)
    images = [picture(150, 100), picture(30, 30, "L")]
    texts = ["a <IMG_CONTEXT> b <IMG_CONTEXT> c"]
    inputs = processor(text=texts, images=[images], add_special_tokens=False, return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    runs = "".join(tokens).replace("<IMG_CONTEXT>", "#")
    # 3 x 2 tiles and the thumbnail, then one tile; four tokens a tile
    assert runs == "a▁<img>" + 28 * "#" + "</img>▁b▁<img>" + 4 * "#" + "</img>▁c"
    assert inputs["pixel_values"].shape == (8, 3, 56, 56)


def test_settings(output):
    images = load_processor(output).image_processor
    assert (images.crop_to_patches, images.min_patches, images.max_patches) == (True, 1, 12)
    assert list(images.image_mean) == [0.485, 0.456, 0.406]
    assert list(images.image_std) == [0.229, 0.224, 0.225]
