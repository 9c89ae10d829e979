"""The native processor: tokenizer, dynamic tiling and chat template."""

from __future__ import annotations

from typing import Any

from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor, PreTrainedTokenizerFast

from tools.internvl_conversion.configuration import SourceConfiguration
from tools.internvl_conversion.conversation_template import ConversationTemplate, chat_template
from tools.internvl_conversion.tokenizer import IMAGE_TOKENS, begin_of_text

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
MAX_TILES = 12
"""Of a picture, the thumbnail not counted, in the scoring example on the card of VisualPRM-8B."""


def make_processor(
    configuration: SourceConfiguration,
    tokenizer: PreTrainedTokenizerFast,
    template: ConversationTemplate,
    max_tiles: int = MAX_TILES,
) -> InternVLProcessor:
    """The processor of the converted checkpoint.

    It cuts a picture into the grid of 1 to ``max_tiles`` square tiles whose aspect ratio is nearest to the picture's
    (in a tie the larger grid, as long as the picture covers more than half of its area). If there is more than one
    tile, it adds a thumbnail. This is the rule of ``dynamic_preprocess`` in the released code.

    Args:
        configuration: Configuration of the source.
        tokenizer: The converted tokenizer.
        template: Template of the source.
        max_tiles: At least 1.
    """
    side = {"height": configuration.image_size, "width": configuration.image_size}
    pixels: dict[str, Any] = {"size": side, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            **pixels, crop_to_patches=configuration.is_tiled and max_tiles > 1, min_patches=1, max_patches=max_tiles
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**pixels),
        image_seq_length=configuration.native.image_seq_length,
        chat_template=chat_template(template, begin_of_text(tokenizer), IMAGE_TOKENS["context_image_token"]),
    )
