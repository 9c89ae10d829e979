"""What the engine in this process reads: counted, and compared with what the texts themselves say is needed."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_families import write_family
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.transformers_engine import TransformersEngine
from lightning_modules.model.backbone import load_backbone, load_processor

PARAMETERS = SamplingParameters(temperature=1.3, max_new_tokens=10, seed=2)
GREEDY = SamplingParameters(temperature=0, max_new_tokens=12)


class Watch:
    """What is read: pictures, and for every forward of the language model its rows and its tokens of each row."""

    def __init__(self, model):
        self.pictures, self.forwards = 0, []
        base, inner = model.base_model, model.base_model.get_image_features

        def get_image_features(pixel_values, **more):
            self.pictures += len(pixel_values)
            return inner(pixel_values, **more)

        base.get_image_features = get_image_features
        model.get_decoder().register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module, args, kwargs):
        self.forwards.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    @property
    def of_prompts(self):
        return [shape for shape in self.forwards if shape[1] > 1]

    @property
    def of_rows(self):
        return [shape[0] for shape in self.forwards if shape[1] == 1]


@pytest.fixture
def ask(picture):
    """Makes a request about a picture; messages and picture are new objects each time."""

    def make(keys, partial="", number=1, **more):
        content = [{"type": "image"}, {"type": "text", "text": "How many digits are larger than 4 ?"}]
        return GenerationRequest([{"role": "user", "content": content}], [picture(number)], keys, partial, **more)

    return make


STEPS = [
    "The digits are 3.\n\n",
    "The digits are 3.\n\nSo 7.\n\n",
    "The digits are 3.\n\nSo 7.\n\nThe answer is 4.\n\n",
]


def alone(engine, request, parameters=PARAMETERS):
    """The texts of each sample by itself."""
    return [
        text
        for key in request.sample_keys
        for text in engine.sample([replace(request, sample_keys=[key])], parameters)[0]
    ]


def test_picture_and_question_are_read_once(engine, ask, processor):
    """And of the prefixes of a solution the longest one, which the others begin with."""
    asked = [ask([f"{number}/{k}" for k in range(3)], partial) for number, partial in enumerate(["", *STEPS])]
    expected = [alone(engine, request) for request in asked]
    watch = Watch(engine.model)
    assert engine.sample(asked, PARAMETERS) == expected
    assert watch.pictures == 1
    question, longest = expected[0][0].prompt_tokens, expected[-1][0].prompt_tokens
    assert watch.of_prompts == [(1, question), (1, longest - question)]


def test_another_picture_is_another_question(engine, ask):
    asked = [ask(["a", "b", "c"], STEPS[0], number) for number in (1, 2, 3)]
    expected = [alone(engine, request) for request in asked]
    watch = Watch(engine.model)
    assert engine.sample(asked, PARAMETERS) == expected
    assert watch.pictures == 3
    assert len({str(texts) for texts in expected}) == 3


def test_tiles_are_part_of_the_question(engine, ask, picture):
    wide = picture(1).resize((96, 24))
    asked = [replace(ask(["a"], max_tiles=most), images=[wide]) for most in (1, 3)]
    watch = Watch(engine.model)
    engine.sample(asked, PARAMETERS)
    assert watch.pictures == 1 + 4


@pytest.mark.parametrize("most", [1, 3, 40])
def test_a_text_that_ends_makes_room_at_once(engine, ask, most):
    """As many forwards as a schedule needs where every text begins as soon as another one has ended."""
    asked = [ask([f"{number}"], STEPS[number % 3]) for number in range(12)]
    expected = [alone(engine, request) for request in asked]
    lengths = [texts[0].completion_tokens for texts in expected]
    assert len(set(lengths)) > 3
    waiting, running, forwards = list(lengths), [], []
    while waiting or running:
        forwards.append(len(running))
        # Enough room for a quarter of all is waited for.
        if most - len(running) >= max(1, most // 4):
            running += waiting[: most - len(running)]
            del waiting[: len(running) - (forwards[-1])]
        running = [left - 1 for left in running if left > 1]
    engine.max_samples_at_once = most
    watch = Watch(engine.model)
    assert engine.sample(asked, PARAMETERS) == expected
    assert watch.of_rows == [rows for rows in forwards if rows]


def test_what_samples_have_in_common_is_read_once(engine, ask, processor):
    """Every distinct beginning of a text takes one token of one row, however many samples have it."""
    request = ask([str(k) for k in range(16)])
    parameters = replace(PARAMETERS, temperature=0.3)
    ids, decode = [], engine.processor.tokenizer.batch_decode

    def batch_decode(found, **options):
        ids.extend(found)
        return decode(found, **options)

    engine.processor.tokenizer.batch_decode = batch_decode
    watch = Watch(engine.model)
    (texts,) = engine.sample([request], parameters)
    # What ends a text is not read, nor is its last token where it was cut.
    read = {
        tuple(each[:count]) for each in ids for count in range(1, len(each) + (len(each) < parameters.max_new_tokens))
    }
    assert sum(watch.of_rows) == len(read)
    assert len(read) < sum(text.completion_tokens for text in texts) - len(texts)
    assert texts == alone(engine, request, parameters)

    del watch.forwards[:]
    (greedy,) = engine.sample([request], replace(parameters, temperature=0))
    assert len(set(greedy)) == 1
    assert watch.of_rows == [1] * (greedy[0].completion_tokens - 1)


def test_a_stop_string_ends_a_text_at_once(engine, ask):
    """The text is the beginning of what it would be otherwise; no token is sampled behind the string."""
    request = ask([str(k) for k in range(24)])
    (whole,) = engine.sample([request], PARAMETERS)
    letters = {letter for text in whole for letter in text.text if letter != "\N{REPLACEMENT CHARACTER}"}
    stop = max(sorted(letters), key=lambda letter: sum(len(text.text.partition(letter)[2]) for text in whole))
    (found,) = engine.sample([request], replace(PARAMETERS, stop=(stop, "no text has this")))
    for text, other in zip(found, whole, strict=True):
        assert text.text == other.text.split(stop)[0]
        if stop in other.text:
            assert text.finish_reason == "stop"
            assert text.completion_tokens <= other.completion_tokens
        else:
            assert text == other
    assert sum(text.completion_tokens for text in found) < sum(text.completion_tokens for text in whole)


class TwoRounds:
    """Asks for a question, then for others, then for the first one again."""

    def __init__(self, rounds):
        self.rounds, self.texts, self.outstanding = list(rounds), [], 0

    def take(self, room):
        if self.outstanding or not self.rounds:
            return []
        self.outstanding = len(self.rounds[0])
        return self.rounds.pop(0)

    def receive(self, request, texts):
        self.outstanding -= 1
        self.texts.append(texts)


@pytest.mark.parametrize(("most", "pictures"), [(10_000, 3), (0, 4)])
def test_prefixes_are_forgotten_beyond_the_bound(engine, ask, most, pictures):
    asked = [ask(["a"], STEPS[0], 1), ask(["b"], STEPS[1], 2), ask(["c"], STEPS[0], 3), ask(["d"], STEPS[2], 1)]
    expected = [alone(engine, request) for request in asked]
    source = TwoRounds([[request] for request in asked])
    engine.max_prefix_tokens = most
    watch = Watch(engine.model)
    engine.serve(source, PARAMETERS)
    assert source.texts == expected
    assert watch.pictures == pictures


def test_more_samples_than_fit_are_sampled_in_turn(engine, ask):
    request = ask([str(k) for k in range(11)])
    expected = alone(engine, request)
    engine.max_samples_at_once = 4
    watch = Watch(engine.model)
    assert engine.sample([request, ask([])][:1], PARAMETERS) == [expected]
    assert max(watch.of_rows) <= 4
    assert engine.sample([ask([]), ask([])], PARAMETERS) == [[], []]


def test_the_same_request_twice(engine, ask):
    request = ask(["a", "b"])
    assert engine.sample([request, request, copy.deepcopy(request)], PARAMETERS) == [alone(engine, request)] * 3


def test_bounds(engine):
    with pytest.raises(ValueError, match="max_samples_at_once must be at least 1, got 0"):
        TransformersEngine(max_samples_at_once=0)
    with pytest.raises(ValueError, match="max_prefix_tokens must be at least 0, got -1"):
        TransformersEngine(max_prefix_tokens=-1)


@pytest.mark.parametrize("family", ["gemma3", "internvl_llama"])
def test_tokens_are_those_of_the_whole_prompt(family, tmp_path, picture):
    """The line break that ends the prompt and one that begins an answer are a token that neither has by itself."""
    write_family(family, tmp_path)
    model, processor = load_backbone(tmp_path).eval(), load_processor(tmp_path)
    model.generation_config.eos_token_id = list(range(1, model.get_output_embeddings().out_features, 16))
    engine = TransformersEngine.of(model, processor)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    partials = ["\n\nSo 3 + 4 = 7.\n\n", "\n\nSo 3 + 4", "So 3 + 4 = 7.\n\n", "So 3 +", ""]
    whole = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    apart, joint = (processor.tokenizer.encode(text, add_special_tokens=False) for text in (whole, whole + partials[0]))
    assert joint[: len(apart)] != apart
    asked = [GenerationRequest(messages, [picture(1)], ["a"], partial) for partial in partials]
    watch = Watch(model)
    found = engine.sample(asked, GREEDY)
    assert watch.pictures == 1
    for partial, (text,) in zip(partials, found, strict=True):
        inputs = processor(text=[whole + partial], images=[[picture(1)]], return_tensors="pt", add_special_tokens=False)
        assert (text.text, text.prompt_tokens) == (generated(engine, inputs), inputs["input_ids"].shape[1])
    assert len({text.text for (text,) in found}) > 2


def generated(engine, inputs):
    """What the model's own `generate` writes."""
    ids = engine.model.generate(
        **inputs, do_sample=False, max_new_tokens=12, suppress_tokens=engine.banned_ids.tolist(), pad_token_id=0
    )[0, inputs["input_ids"].shape[1] :]
    return engine.processor.tokenizer.decode(ids[~torch.isin(ids, engine.end_ids)], skip_special_tokens=True)


def test_sinks_of_attention(tmp_path):
    """A text model whose heads may look at nothing, with a window in every other layer, writes as by `generate`."""
    torch.manual_seed(0)
    write_family("qwen3_text", tmp_path)
    processor = load_processor(tmp_path)
    config = AutoConfig.for_model(
        "gpt_oss",
        vocab_size=len(processor.tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=6,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0.0, 1.0 if "sinks" in name else 0.3)
    model.generation_config.eos_token_id = list(range(1, len(processor.tokenizer), 16))
    engine = TransformersEngine.of(model, processor)
    texts = set()
    for partial in ("", "So 3 + 4 = 7.\n\n", "So 3 + 4 = 7.\n\nThe digits are"):
        messages = [{"role": "user", "content": "How many digits are larger than 4?"}]
        ((text,),) = engine.sample([GenerationRequest(messages, [], ["a"], partial)], GREEDY)
        whole = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) + partial
        assert text.text == generated(engine, processor.tokenizer(whole, return_tensors="pt"))
        texts.add(text.text)
    assert len(texts) > 1
