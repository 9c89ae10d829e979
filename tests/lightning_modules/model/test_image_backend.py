import pytest
from transformers import GotOcr2ImageProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from lightning_modules.model.backbone import load_processor


@pytest.mark.parametrize(
    ("backend", "kind"),
    [(None, GotOcr2ImageProcessor), ("torchvision", GotOcr2ImageProcessor), ("pil", GotOcr2ImageProcessorPil)],
)
def test_image_backends(tiny_checkpoint, backend, kind):
    processor = load_processor(tiny_checkpoint, backend)
    assert type(processor.image_processor) is kind
    assert processor.image_processor.size.height == 32
    assert processor.image_token == "<IMG_CONTEXT>"
