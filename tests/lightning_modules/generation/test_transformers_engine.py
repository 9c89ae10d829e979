from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_modules.generation.engine import GeneratedText, GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters, uniform_draws
from lightning_modules.generation.transformers_engine import TransformersEngine

IMAGE = "<IMG_CONTEXT>"
TEXTS = {
    "text only": "<|user|>How many digits are larger than 4 ?<|end|><|assistant|>",
    "one image": f"<|user|>{IMAGE}The digits are ?<|end|><|assistant|>",
    "two images": f"<|user|>{IMAGE} and {IMAGE} So the answer is<|end|><|assistant|>The digits are 3",
}
NUMBERS = {"text only": [], "one image": [1], "two images": [2, 3]}


def part(text=None):
    """A part of a message: a text, or an image."""
    return {"type": "image"} if text is None else {"type": "text", "text": text}


CONTENT = {
    "text only": [part("How many digits are larger than 4 ?")],
    "one image": [part(), part("The digits are ?")],
    "two images": [part(), part(" and "), part(), part(" So the answer is")],
}
PARTIAL = {"two images": "The digits are 3"}


def make_request(name, images, keys):
    """What renders to the text of that name."""
    messages = [{"role": "user", "content": CONTENT[name]}]
    return GenerationRequest(messages, images, keys, PARTIAL.get(name, ""))


@pytest.fixture
def requests(picture):
    def make(samples, names=tuple(TEXTS)):
        return [make_request(n, [picture(i) for i in NUMBERS[n]], [f"{n}/{k}" for k in range(samples)]) for n in names]

    return make


def encode(processor, requests):
    """The texts, found by the keys of the requests: messages are not rendered here."""
    images = [list(request.images) for request in requests]
    return processor(
        text=[TEXTS[request.sample_keys[0].split("/")[0]] for request in requests],
        images=images if any(images) else None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )


def sample_token_by_token(engine, request, key, parameters):
    """One sample with a whole forward a token, no cache, no padding, no batch."""
    inputs = dict(encode(engine.processor, [request]))
    ids, new = inputs["input_ids"], []
    length = ids.shape[1]

    def as_text(reason, count):
        return GeneratedText(engine.processor.tokenizer.decode(new, skip_special_tokens=True), reason, length, count)

    for uniform in uniform_draws(parameters.seed, [key], parameters.max_new_tokens)[0].tolist():
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            logits = engine.model(**inputs, use_cache=False).logits[0, -1].double()
        logits[engine.banned_ids] = float("-inf")
        probabilities = (logits / parameters.temperature).softmax(-1).tolist()
        chosen, mass = 0, probabilities[0]
        while mass <= uniform:
            chosen += 1
            mass += probabilities[chosen]
        if chosen in engine.end_ids:
            return as_text("stop", len(new) + 1)
        new.append(chosen)
        ids = torch.cat([ids, torch.tensor([[chosen]])], -1)
    return as_text("length", len(new))


@pytest.mark.parametrize("names", [list(TEXTS), ["text only"], ["two images", "one image"]])
def test_greedy_equals_plain_generation(sharp_model, processor, requests, names):
    """The prompts of a batch have different lengths, and different numbers of images."""
    engine = TransformersEngine.of(sharp_model, processor)
    asked = requests(1, names)
    inputs = encode(processor, asked)
    assert len(names) == 1 or not inputs["attention_mask"].all()
    found = engine.sample(asked, SamplingParameters(temperature=0, max_new_tokens=24))
    generated = sharp_model.generate(
        **inputs, do_sample=False, max_new_tokens=24, suppress_tokens=engine.banned_ids.tolist()
    )[:, inputs["input_ids"].shape[1] :]
    expected = processor.tokenizer.batch_decode(generated, skip_special_tokens=True)
    assert [texts[0].text for texts in found] == expected
    assert len(set(expected)) == len(names)


def test_the_pictures_matter(sharp_model, processor, picture):
    """Otherwise the comparisons of this file would say nothing about images."""
    engine = TransformersEngine.of(sharp_model, processor)
    parameters = SamplingParameters(temperature=0, max_new_tokens=24)
    texts = set()
    for images in ([picture(2), picture(3)], [picture(3), picture(2)], [picture(2), picture(4)]):
        texts.add(engine.sample([make_request("two images", images, ["a"])], parameters)[0][0].text)
    assert len(texts) == 3


def test_samples_equal_whole_forwards_token_by_token(engine, requests):
    parameters = SamplingParameters(temperature=1.3, max_new_tokens=8, seed=5)
    asked = requests(6)
    found = engine.sample(asked, parameters)
    lengths = []
    for request, texts in zip(asked, found, strict=True):
        assert len(texts) == 6
        for key, text in zip(request.sample_keys, texts, strict=True):
            assert text == sample_token_by_token(engine, request, key, parameters)
            lengths.append((text.completion_tokens, text.finish_reason))
    # Rows ended early, late and at the limit: finished rows were dropped on the way.
    assert min(lengths) <= (2, "stop")
    assert (8, "length") in lengths
    assert len(set(lengths)) >= 5


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_sample_is_the_same_alone_and_in_a_batch(engine, requests, top_p):
    """Shared reading of a prompt equals reading it once a sample; other prompts and other samples change nothing."""
    parameters = SamplingParameters(temperature=1.0, top_p=top_p, max_new_tokens=12, seed=1)
    asked = requests(4)
    together = engine.sample(asked, parameters)
    assert engine.sample(asked[::-1], parameters) == together[::-1]
    for request, texts in zip(asked, together, strict=True):
        assert engine.sample([request], parameters) == [texts]
        for key, text in zip(request.sample_keys, texts, strict=True):
            alone = replace(request, sample_keys=[key])
            assert engine.sample([alone], parameters) == [[text]]
    assert len({found.text for texts in together for found in texts}) > 6


def test_the_limit_only_cuts(engine, requests):
    asked = requests(4)
    longer = engine.sample(asked, SamplingParameters(temperature=1.0, max_new_tokens=12))
    shorter = engine.sample(asked, SamplingParameters(temperature=1.0, max_new_tokens=3))
    for long_texts, short_texts in zip(longer, shorter, strict=True):
        for long_text, short_text in zip(long_texts, short_texts, strict=True):
            assert long_text.text.startswith(short_text.text)
            assert short_text.finish_reason == "length" or long_text == short_text
            assert short_text.completion_tokens == min(3, long_text.completion_tokens)


def test_banned_tokens_are_never_sampled(sharp_model, processor, requests):
    """The model wants to write image tokens; a plain generation does so, the engine samples among all others."""
    parameters = SamplingParameters(temperature=1.0, max_new_tokens=8)
    asked = requests(3)
    before = TransformersEngine.of(sharp_model, processor).sample(asked, parameters)
    head = sharp_model.get_output_embeddings()
    image_id = processor.tokenizer.vocab[IMAGE]
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    with torch.no_grad():
        head.bias[[image_id, processor.tokenizer.pad_token_id]] = 1000.0
    inputs = encode(processor, asked[:1])
    plain = sharp_model.generate(**inputs, do_sample=False, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
    assert set(plain.tolist()) <= {image_id, processor.tokenizer.pad_token_id}
    engine = TransformersEngine.of(sharp_model, processor)
    assert {image_id, processor.tokenizer.pad_token_id} <= set(engine.banned_ids.tolist())
    assert engine.sample(asked, parameters) == before


def test_an_end_token_may_be_the_pad_token(sharp_model, processor, requests):
    pad_id = processor.tokenizer.pad_token_id
    sharp_model.generation_config.eos_token_id = [pad_id, *range(1, 313, 4)]
    engine = TransformersEngine.of(sharp_model, processor)
    assert pad_id not in engine.banned_ids
    (texts,) = engine.sample(requests(8, ["text only"]), SamplingParameters(temperature=1.3, max_new_tokens=12))
    for key, text in zip([f"text only/{k}" for k in range(8)], texts, strict=True):
        assert text == sample_token_by_token(
            engine, requests(1, ["text only"])[0], key, SamplingParameters(temperature=1.3, max_new_tokens=12)
        )


def test_requests(engine, requests):
    assert engine.sample([], SamplingParameters()) == []
    with pytest.raises(ValueError, match="must ask for the same number of samples"):
        engine.sample([*requests(2), *requests(3)], SamplingParameters())


def test_the_tokenizer_says_what_ends_a_text_where_the_generation_configuration_does_not(sharp_model, processor):
    sharp_model.generation_config.eos_token_id = None
    assert TransformersEngine.of(sharp_model, processor).end_ids.tolist() == [processor.tokenizer.eos_token_id]
    processor.tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"put eos_token_id into the generation_config\.json"):
        TransformersEngine.of(sharp_model, processor)


def test_models_that_carry_a_state_are_refused_by_name(processor):
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    layers = {"num_attention_heads": 2, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}
    config = AutoConfig.for_model("lfm2", **text, **layers)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(
        ValueError, match=r"cannot sample from a 'lfm2' model here: its cache has layers of type Linear"
    ):
        TransformersEngine.of(model, processor)


@pytest.mark.parametrize("tiles", [(2, 2), (None, 2), (3, 1)])
def test_pictures_are_cut_into_tiles_as_asked(engine, picture, tiles):
    """Requests with numbers of their own in one batch are answered as each by itself, and read those many tiles."""
    wide = picture(1).resize((96, 24))
    parameters = SamplingParameters(temperature=0.7, max_new_tokens=12, seed=5)
    messages = [{"role": "user", "content": CONTENT["one image"]}]
    asked = [
        GenerationRequest(messages, [wide], [f"{number}/{k}" for k in range(2)], max_tiles=most)
        for number, most in enumerate(tiles)
    ]
    asked.append(make_request("text only", [], ["t/0", "t/1"]))
    together = engine.sample(asked, parameters)
    assert together == [engine.sample([request], parameters)[0] for request in asked]
    processor = engine.processor
    for request, most, texts in zip(asked, tiles, together, strict=False):
        cut = {} if most is None else {"crop_to_patches": most > 1, "min_patches": 1, "max_patches": most}
        inputs = processor(text=[TEXTS["one image"]], images=[[wide]], return_tensors="pt", **cut)
        # A picture four times as wide as high is cut into as many tiles as it may, and the whole one comes beside them.
        assert len(inputs["pixel_values"]) == (most + 1 if (most or 1) > 1 else 1)
        assert {found.prompt_tokens for found in texts} == {inputs["input_ids"].shape[1]}, request


class FollowUps:
    """Asks for one more sample of a prompt until it has two, and notes what it was given."""

    def __init__(self, requests):
        self.waiting = list(requests)
        self.texts = {}

    def take(self, room):
        taken = []
        while self.waiting and room >= len(self.waiting[0].sample_keys):
            taken.append(self.waiting.pop(0))
            room -= len(taken[-1].sample_keys)
        return taken

    def receive(self, request, texts):
        for key, text in zip(request.sample_keys, texts, strict=True):
            assert self.texts.setdefault(key, text) is text
        name, number = request.sample_keys[0].rsplit("/", 1)
        if number == "0" and len(texts) == 1:
            self.waiting.append(replace(request, sample_keys=[f"{name}/1"]))


def test_what_a_source_asks_for_is_sampled_as_in_one_batch(engine, requests):
    """Requests of several sizes, with parameters of their own, some of them asked for because of an answer."""
    parameters, warm = SamplingParameters(1.0, max_new_tokens=6, seed=5), SamplingParameters(2.0, max_new_tokens=4)
    source = FollowUps([*requests(1), *[replace(request, parameters=warm) for request in requests(3, ["one image"])]])
    source.waiting[-1] = replace(source.waiting[-1], sample_keys=["warm/0", "warm/1", "warm/2"])
    engine.max_samples_at_once = 3
    engine.serve(source, parameters)
    whole = {
        key: text
        for request, texts in zip(requests(2), engine.sample(requests(2), parameters), strict=True)
        for key, text in zip(request.sample_keys, texts, strict=True)
    }
    of_warm = replace(requests(1, ["one image"])[0], sample_keys=["warm/0", "warm/1", "warm/2"])
    whole |= dict(zip(of_warm.sample_keys, engine.sample([of_warm], warm)[0], strict=True))
    assert source.texts == whole
    assert len(whole) == 9
