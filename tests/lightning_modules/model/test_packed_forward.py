"""A packed forward against forwards of each conversation alone, in several families."""

import pytest
import small_models
import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForImageTextToText,
    InternVLConfig,
    InternVLForConditionalGeneration,
)
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from datamodules.batching.collate import StepBatch
from datamodules.batching.packing import pack
from lightning_modules.model import packed_forward
from lightning_modules.model.packed_forward import hidden_states, packing_obstacle, step_logits
from lightning_modules.model.step_head import StepHead

CONVERSATIONS = [
    # pictures, text, steps
    ([2], [10, 11, 12, 13, 14, 15, 16], [-3, -1]),
    ([], [20, 21, 22, 23], [-1]),
    ([3, 4], [30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40], [-5, -4, -2]),
    ([5], [13, 12, 11], [-2]),
]
CLASSES = [10, 11]
PACKED = ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "smolvlm", "qwen2", "mistral"]


def to_size(values, shape):
    """Filled up with zeros behind."""
    missing = [wanted - size for wanted, size in zip(shape, values.shape, strict=True)]
    return pad(values, [number for more in reversed(missing) for number in (0, more)])


def joined(prompts):
    """Prompts as the padded batch that a processor would make of them."""
    inputs = {}
    for name in dict.fromkeys(name for prompt in prompts for name in prompt):
        values = [prompt[name] for prompt in prompts if name in prompt]
        if values[0].shape == prompts[0]["input_ids"].shape or name.endswith("token_type_ids"):
            rows = [prompt.get(name, torch.zeros_like(prompt["input_ids"]))[0] for prompt in prompts]
            inputs[name] = pad_sequence(rows, batch_first=True)
        else:
            largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
            inputs[name] = torch.cat([to_size(value, [len(value), *largest]) for value in values])
    return inputs


def batch_of(prompts, ends):
    """The prompts as a batch whose steps are judged so many tokens before the end."""
    lengths = [prompt["input_ids"].shape[1] for prompt in prompts]
    positions = [torch.tensor(of) + length for of, length in zip(ends, lengths, strict=True)]
    positions = pad_sequence(positions, batch_first=True, padding_value=-1)
    nothing = torch.full(positions.shape, -1)
    names = [str(number) for number in range(len(prompts))]
    mc = torch.where(positions >= 0, 0.5, torch.nan)
    return StepBatch(joined(prompts), positions, mc, nothing, nothing, names, names)


def small_internvl(text):
    """InternVL with another language model than the checkpoint of the other tests has."""
    torch.manual_seed(0)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": [16, 16],
            "patch_size": [4, 4],
        },
        text_config={"model_type": text, **small_models.TEXT, "head_dim": 8},
        image_token_id=small_models.IMAGE,
        image_seq_length=4,
    )
    model = InternVLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)
        model.get_input_embeddings().weight.normal_()
    return model


def model_and_prompts(name):
    if name.startswith("internvl"):
        model, family = small_internvl(name.partition("-")[2]), "plain"
        small_models.MODELS[family] = small_models.SmallModel(lambda: model, small_models.plain_images)
    else:
        model, family = small_models.make_model(name), name
    has_pictures = small_models.MODELS[family].images is not None
    prompts = [
        small_models.make_prompt(family, model, pictures if has_pictures else [], text)
        for pictures, text, _ in CONVERSATIONS
    ]
    return model, prompts


def alone(model, head, prompts, ends):
    """Logits of each conversation's steps, from a forward of its own."""
    found = []
    for prompt, of in zip(prompts, ends, strict=True):
        states = model.model(**prompt, use_cache=False).last_hidden_state
        found.append(torch.nn.functional.linear(states[0, of], head.weight))
    return found


def packed_logits(model, head, batch):
    return step_logits(head, hidden_states(model, batch), batch)


def assert_packing_changes_nothing(model, prompts, ends):
    assert packing_obstacle(model) is None
    head = StepHead(model, CLASSES)
    batch = batch_of(prompts, ends)
    packed = packed_logits(model, head, pack(batch))
    assert packed.shape == (len(prompts), max(map(len, ends)), 2)
    expected = alone(model, head, prompts, ends)
    for of_row, wanted in zip(packed, expected, strict=True):
        torch.testing.assert_close(of_row[: len(wanted)], wanted, atol=1e-5, rtol=1e-5)
    # Something to be told apart: the steps have different logits.
    assert torch.cat(expected).std(0).min() > 0.01

    is_step = batch.step_positions >= 0
    gradients = []
    for logits in (packed, step_logits(head, hidden_states(model, batch), batch)):
        model.zero_grad()
        head.zero_grad()
        logits[is_step].log_softmax(-1)[:, 0].sum().backward()
        gradients.append(
            {n: p.grad.clone() for n, p in [*model.named_parameters(), *head.named_parameters()] if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert (gradient - other).abs().max() <= 1e-5 + 1e-4 * other.abs().max(), name


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*PACKED, "internvl-qwen2", "internvl-llama", "internvl-qwen3"])
def test_packing_changes_no_logit_and_no_gradient(name, implementation):
    model, prompts = model_and_prompts(name)
    model.set_attn_implementation(implementation)
    assert_packing_changes_nothing(model, prompts, [ends for *_, ends in CONVERSATIONS])


def test_the_mask_that_transformers_makes_of_positions_gives_the_same(monkeypatch):
    """Also where the attention is not told the lengths of conversations, as with compiled layers."""
    monkeypatch.setattr(packed_forward, "_attention_arguments", lambda *_: {})
    for name in ("qwen2_5_vl", "internvl-qwen2"):
        model, prompts = model_and_prompts(name)
        assert_packing_changes_nothing(model, prompts, [ends for *_, ends in CONVERSATIONS])


def test_with_checkpointed_activations():
    """Layers compute their attention a second time in the backward, and must keep conversations apart then."""
    model, prompts = model_and_prompts("internvl-qwen2")
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_packing_changes_nothing(model, prompts, [ends for *_, ends in CONVERSATIONS])


@pytest.mark.parametrize("name", ["internvl-qwen2", "qwen2"])
def test_without_new_positions_conversations_leak(name):
    """What the equality would not be if conversations were simply put one after another."""
    model, prompts = model_and_prompts(name)
    head, ends = StepHead(model, CLASSES), [ends for *_, ends in CONVERSATIONS]
    batch = pack(batch_of(prompts, ends))
    tokens = batch.inputs["input_ids"].shape[1]
    expected = alone(model, head, prompts, ends)
    states = model.model(**batch.inputs | {"position_ids": torch.arange(tokens)[None]}, use_cache=False)
    leaking = step_logits(head, states.last_hidden_state, batch)
    torch.testing.assert_close(leaking[0, :2], expected[0], atol=1e-5, rtol=1e-5)
    for row in (1, 2, 3):
        assert (leaking[row, : len(expected[row])] - expected[row]).abs().max() > 1e-2


def test_pictures_belong_to_their_conversations():
    model, prompts = model_and_prompts("internvl-qwen2")
    head, ends = StepHead(model, CLASSES), [ends for *_, ends in CONVERSATIONS]
    before = packed_logits(model, head, pack(batch_of(prompts, ends)))
    prompts[2]["pixel_values"] = prompts[2]["pixel_values"].flip(0)
    after = packed_logits(model, head, pack(batch_of(prompts, ends)))
    changed = (before - after).abs().amax((1, 2))
    assert changed[2] > 1e-2
    assert changed[[0, 1, 3]].max() < 1e-5


def test_boundaries_for_flash_attention_are_those_of_transformers():
    """Flash attention itself needs a GPU; what it is told must be what `transformers` finds in the positions."""
    model, prompts = model_and_prompts("qwen2")
    batch = pack(batch_of(prompts, [ends for *_, ends in CONVERSATIONS]))
    model.config._attn_implementation_internal = "flash_attention_2"
    told = packed_forward._attention_arguments(model.model, batch.boundaries)
    (queries, keys), (longest, longest_key) = prepare_fa_kwargs_from_position_ids(batch.inputs["position_ids"])
    assert told["cu_seq_lens_q"].tolist() == queries.tolist() == [0, 7, 11, 22, 25]
    assert told["cu_seq_lens_k"].tolist() == keys.tolist()
    assert (told["max_length_q"], told["max_length_k"]) == (longest, longest_key) == (11, 11)


def test_who_cannot_pack(tiny_checkpoint):
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    assert packing_obstacle(model) is None
    assert "family 'gemma3'" in packing_obstacle(small_models.make_model("gemma3"))
    model.get_decoder().config._attn_implementation_internal = "paged|eager"
    assert "'paged|eager'" in packing_obstacle(model)
    model.get_decoder().config.model_type = "falcon_mamba"
    assert "'falcon_mamba' language models" in packing_obstacle(model)
