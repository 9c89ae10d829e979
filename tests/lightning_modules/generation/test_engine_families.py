"""The engine writes what each family's own `generate` writes."""

import pytest
import torch
from PIL import Image
from tiny_families import EVERY_FAMILY, FAMILIES, write_family

from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.transformers_engine import TransformersEngine
from lightning_modules.model.backbone import load_backbone, load_processor

PARAMETERS = SamplingParameters(temperature=0, max_new_tokens=12)


@pytest.fixture(scope="module", params=EVERY_FAMILY)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_family(request.param, folder)
    model = load_backbone(folder).eval()
    if getattr(model.config.get_text_config(), "sliding_window", None):
        model.config.get_text_config().sliding_window = 8  # shorter than the prompts
    model.generation_config.eos_token_id = list(range(1, model.get_output_embeddings().out_features, 16))
    return request.param, model, load_processor(folder)


def picture(number):
    size = [(32, 32, 3), (32, 64, 3), (64, 32, 3)][number % 3]
    data = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(number))
    return Image.fromarray(data.to(torch.uint8).numpy())


def request(name, question, numbers, samples=1):
    numbers = numbers if FAMILIES[name].is_multimodal else []
    content = [*[{"type": "image"}] * len(numbers), {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content if FAMILIES[name].is_multimodal else question}]
    keys = [f"{question}/{sample}" for sample in range(samples)]
    return GenerationRequest(messages, [picture(number) for number in numbers], keys)


def generate_alone(model, processor, engine, asked):
    inputs = processor(
        text=[processor.apply_chat_template(asked.messages, add_generation_prompt=True, tokenize=False)],
        images=[list(asked.images)] if asked.images else None,
        add_special_tokens=False,
        return_tensors="pt",
    )
    ids = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=12,
        suppress_tokens=engine.banned_ids.tolist(),
        pad_token_id=engine.pad_id,
    )[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(ids[~torch.isin(ids, engine.end_ids)], skip_special_tokens=True)


def test_greedy_equals_generate(family):
    """Prompts of different lengths, with one picture, two and none, in one batch; each is generated alone."""
    name, model, processor = family
    engine = TransformersEngine.of(model, processor)
    asked = [
        request(name, "How many digits are larger than 4?", [1]),
        request(name, "How many?", []),
        request(name, "So 3 + 4 = 7 and 7 - 4 = 3.", [3, 5]),
        request(name, "How many digits are larger than 4?", [4]),
    ]
    found = [texts[0].text for texts in engine.sample(asked, PARAMETERS)]
    assert found == [generate_alone(model, processor, engine, each) for each in asked]
    assert len(set(found)) >= 2


def test_samples_are_the_same_alone_and_in_a_batch(family):
    name, model, processor = family
    engine = TransformersEngine.of(model, processor)
    asked = [
        request(name, "How many?", [2], samples=3),
        request(name, "How many digits are larger than 4?", [1, 0], samples=3),
    ]
    parameters = SamplingParameters(temperature=1.0, max_new_tokens=10, seed=3)
    together = engine.sample(asked, parameters)
    assert together == [engine.sample([each], parameters)[0] for each in asked]
    assert len({found.text for texts in together for found in texts}) > 3
