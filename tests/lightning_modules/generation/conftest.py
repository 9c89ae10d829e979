"""The engine in this process around the model whose attention is not flat."""

import pytest
from transformers import AutoProcessor

from lightning_modules.generation.transformers_engine import TransformersEngine


@pytest.fixture
def processor(sharp_checkpoint):
    return AutoProcessor.from_pretrained(sharp_checkpoint)


@pytest.fixture
def engine(sharp_model, processor):
    """Every fourth token ends a text, so that samples end at different lengths."""
    vocabulary = sharp_model.get_output_embeddings().out_features
    sharp_model.generation_config.eos_token_id = list(range(1, vocabulary, 4))
    return TransformersEngine.of(sharp_model, processor)
