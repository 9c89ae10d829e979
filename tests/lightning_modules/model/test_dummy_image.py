"""A blank picture lets the vision tower take part and changes nothing."""

import pytest
import torch
from PIL import Image
from tiny_families import FAMILIES, write_family

from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.transformers_engine import TransformersEngine
from lightning_modules.model.backbone import load_backbone, load_processor
from lightning_modules.model.dummy_image import DummyImage
from lightning_modules.model.families import part_of


@pytest.fixture(scope="module", params=[name for name, family in FAMILIES.items() if family.is_multimodal])
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_family(request.param, folder)
    return load_backbone(folder).eval(), load_processor(folder)


def vision_calls(backbone):
    """Counts forwards of the vision tower, in a list."""
    calls, base = [], backbone.base_model
    inner = base.get_image_features
    base.get_image_features = lambda *args, **kwargs: calls.append(1) or inner(*args, **kwargs)
    return calls


def gradients(backbone, inputs):
    backbone.zero_grad()
    backbone.base_model(**inputs, use_cache=False).last_hidden_state.square().sum().backward()
    return {name: parameter.grad for name, parameter in backbone.named_parameters() if parameter.requires_grad}


def test_texts_alone(family):
    backbone, processor = family
    ids = processor.tokenizer("The digits are 3, 7 and 9.", return_tensors="pt")
    inputs = {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"]}
    parts = part_of(backbone)
    before = gradients(backbone, inputs)
    assert all(before[name] is None for name in before if parts[name] == "vision")
    with torch.no_grad():
        expected = backbone.base_model(**inputs).last_hidden_state
    DummyImage(backbone, processor)
    calls = vision_calls(backbone)
    with torch.no_grad():
        assert torch.equal(backbone.base_model(**inputs).last_hidden_state, expected)
    assert len(calls) == 1
    after = gradients(backbone, inputs)
    for name, gradient in after.items():
        if parts[name] in ("vision", "projector"):
            # As with a picture: the same weights have a gradient.
            assert gradient is None or not gradient.any(), name
        elif before[name] is not None:
            assert torch.equal(gradient, before[name]), name
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    picture = Image.effect_noise((40, 40), 90).convert("RGB")
    with_picture = dict(processor(text=[text], images=[[picture]], return_tensors="pt"))
    del calls[:]
    needed = {name for name, gradient in gradients(backbone, with_picture).items() if gradient is not None}
    assert len(calls) <= 1  # no blank one beside it
    assert needed - {name for name, gradient in after.items() if gradient is not None} == set()

    # Once for the prompt, not for every token.
    del calls[:]
    plain = [{"role": "user", "content": [{"type": "text", "text": "How many?"}]}]
    backbone.generation_config.eos_token_id = [1]
    TransformersEngine.of(backbone, processor).sample(
        [GenerationRequest(plain, [], ["a"])], SamplingParameters(temperature=0, max_new_tokens=4)
    )
    assert len(calls) == 1
