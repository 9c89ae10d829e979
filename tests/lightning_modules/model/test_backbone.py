"""Ten model families: loading, reading batches, freezing, checkpointing, compiling."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from original_internvl import write_checkpoint
from PIL import Image
from tiny_families import FAMILIES, MULTIMODAL, sharpen
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from datamodules.conversation.encoder import Conversation, ConversationEncoder
from lightning_modules.model import families
from lightning_modules.model.backbone import BackboneOptions, load_backbone, load_processor
from lightning_modules.model.families import PARTS, part_of
from lightning_modules.model.lora import LoraOptions
from lightning_modules.model.step_head import StepHead
from lightning_modules.process_reward import ProcessRewardModel

SYSTEM = "You check every step."
CLASSES = ("+", "-")


def picture(number, size=(40, 30)):
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def conversations(name):
    """Of no, one, two and three images, with different numbers of steps."""
    most = 4 if FAMILIES[name].is_multimodal else 1
    sizes = [(40, 30), (64, 32), (32, 64)]
    return [
        Conversation(
            [picture(10 * n + i, sizes[i]) for i in range(n)], "How many?", ["So 3.", "7 - 4 = 3"][: 1 + n % 2], "x"
        )
        for n in range(most)
    ] + [Conversation([], "Why is it 9?", ["It is.", "So 9.", "+"], "y")]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_padded_batch_scores_like_a_plain_model_on_each_conversation_written_by_hand(family_checkpoint, name):
    family, folder = FAMILIES[name], family_checkpoint(name)
    processor, backbone = load_processor(folder), load_backbone(folder).eval()
    encoder = ConversationEncoder(processor, SYSTEM, CLASSES)
    head = StepHead(backbone, encoder.class_token_ids)
    batch = conversations(name)
    with torch.no_grad():
        inputs, positions = encoder.encode(batch)
        logits = head(backbone.model(**inputs, use_cache=False).last_hidden_state, positions)
    model_class = AutoModelForImageTextToText if family.is_multimodal else AutoModelForCausalLM
    plain = model_class.from_pretrained(folder).eval()
    plus, minus = (processor.tokenizer.convert_tokens_to_ids(family.answer.replace("+", c)) for c in CLASSES)
    seen = []
    for row, conversation in enumerate(batch):
        turns = family.turns(conversation.question, len(conversation.images), conversation.steps, SYSTEM)
        for step in range(len(conversation.steps)):
            asked = "".join(turns[: 2 * step + 1]) + family.header
            read = processor(
                text=[asked],
                images=[list(conversation.images)] if conversation.images else None,
                add_special_tokens=False,
                return_tensors="pt",
            )
            with torch.no_grad():
                expected = plain(**read, use_cache=False).logits[0, -1, [plus, minus]]
            torch.testing.assert_close(logits[row, step], expected, atol=1e-4, rtol=1e-4)
            seen.append(expected)
    # Logits that did not differ would agree whatever is wrong.
    assert torch.stack(seen).std(0).min() > 0.05


@pytest.mark.parametrize("name", MULTIMODAL)
def test_each_image_matters(family_checkpoint, name):
    folder = family_checkpoint(name)
    encoder = ConversationEncoder(load_processor(folder), SYSTEM, CLASSES)
    backbone = load_backbone(folder).eval()

    def hidden(numbers):
        conversation = Conversation([picture(n) for n in numbers], "Is <image> more than <image>?", ["So 3."], "x")
        inputs, positions = encoder.encode([conversation])
        with torch.no_grad():
            return backbone.model(**inputs, use_cache=False).last_hidden_state[0, positions[0, 0]]

    first = hidden([1, 2])
    assert torch.equal(first, hidden([1, 2]))
    for other in ([3, 2], [1, 3], [2, 1]):
        assert (hidden(other) - first).abs().max() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_are_all_of_the_model(family_checkpoint, name):
    backbone = load_backbone(family_checkpoint(name))
    parts = part_of(backbone)
    assert set(parts) == {parameter for parameter, _ in backbone.named_parameters()}
    found = {part: {n for n, p in parts.items() if p == part} for part in PARTS}
    if not FAMILIES[name].is_multimodal:
        assert set(parts.values()) == {"language_model"}
        return
    assert all(found.values())
    words = {"vision": ("vision", "visual"), "projector": ("projector", "merger", "connector", "image_newline")}
    for part in ("vision", "projector"):
        assert all(any(word in n for word in words[part]) for n in found[part])
    assert not any(word in n for n in found["vision"] for word in words["projector"])
    assert {"lm_head.weight"} == {
        n for n in found["language_model"] if "language_model" not in n and "text_model" not in n
    }


@pytest.mark.parametrize("name", MULTIMODAL)
@pytest.mark.parametrize("part", PARTS)
def test_freezing_a_part(family_checkpoint, name, part):
    backbone = load_backbone(family_checkpoint(name), BackboneOptions(freeze=[part]))
    parts = part_of(backbone)
    assert {n: p.requires_grad for n, p in backbone.named_parameters()} == {n: p != part for n, p in parts.items()}


def test_freezing_by_path(family_checkpoint):
    path = "model.language_model.layers.0"
    backbone = load_backbone(family_checkpoint("internvl_qwen2"), BackboneOptions(freeze=["vision", path]))
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad != (name.startswith(f"{path}.") or "vision_tower" in name)
    with pytest.raises(
        ValueError, match=r"freeze: 'model.tower' is nothing that this 'internvl' model has; .*model.vision"
    ):
        load_backbone(family_checkpoint("internvl_qwen2"), BackboneOptions(freeze=["model.tower"]))
    with pytest.raises(ValueError, match="freeze: 'vision' is nothing that this 'qwen3' model has"):
        load_backbone(family_checkpoint("qwen3_text"), BackboneOptions(freeze=["vision"]))


def test_parts_of_an_unknown_family(family_checkpoint, monkeypatch):
    monkeypatch.delitem(families.PROJECTORS, "internvl")
    folder = family_checkpoint("internvl_qwen2")
    with pytest.raises(ValueError, match=r"of a 'internvl' model is not known \(known: \['aya_vision'.*name modules"):
        load_backbone(folder, BackboneOptions(freeze=["projector"]))
    backbone = load_backbone(folder, BackboneOptions(freeze=["model.multi_modal_projector", "language_model"]))
    trained = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"vision_tower"}


def gradients(folder, options):
    torch.manual_seed(0)  # adapters begin at random
    backbone = load_backbone(folder, options)
    encoder = ConversationEncoder(load_processor(folder), SYSTEM, CLASSES)
    head = StepHead(backbone, encoder.class_token_ids)
    name = folder.name
    inputs, positions = encoder.encode(conversations(name))
    for parameter_name, parameter in backbone.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    hidden_states = backbone.model(**inputs, use_cache=False).last_hidden_state
    head(hidden_states, positions)[positions >= 0].log_softmax(-1)[:, 0].sum().backward()
    found = {n: p.grad for n, p in [*backbone.named_parameters(), *head.named_parameters()] if p.grad is not None}
    return found, backbone


@pytest.mark.parametrize("name", ["internvl_llama", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "gemma3", "idefics3"])
@pytest.mark.parametrize(
    "options",
    [
        BackboneOptions(),
        BackboneOptions(freeze=["vision", "model.language_model.embed_tokens"]),
        BackboneOptions(lora=LoraOptions(rank=2, dropout=0.0)),
    ],
    ids=["all", "frozen inputs", "lora"],
)
def test_gradient_checkpointing_gives_the_same_gradients(family_checkpoint, name, options):
    if name == "idefics3" and options.freeze:
        options = BackboneOptions(freeze=["vision", "model.text_model.embed_tokens"])
    folder = family_checkpoint(name)
    expected, _ = gradients(folder, options)
    again = copy.copy(options)
    object.__setattr__(again, "gradient_checkpointing", True)
    found, backbone = gradients(folder, again)
    assert backbone.is_gradient_checkpointing
    assert set(found) == set(expected)
    assert len(found) > 10
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, atol=1e-5, rtol=1e-4)


def test_compilation_keeps_names_and_outputs(family_checkpoint):
    folder = family_checkpoint("internvl_qwen2")
    plain = load_backbone(folder).eval()
    compiled = load_backbone(folder, BackboneOptions(compile=True, compile_backend="eager")).eval()
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    ids = torch.arange(8)[None] + 270
    with torch.no_grad():
        torch.testing.assert_close(
            compiled.model(input_ids=ids).last_hidden_state, plain.model(input_ids=ids).last_hidden_state
        )
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 1


def test_a_text_only_checkpoint_stays_one(family_checkpoint, tmp_path):
    processor = load_processor(family_checkpoint("qwen3_text"))
    load_backbone(family_checkpoint("qwen3_text")).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*processor*"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.chat_template == processor.tokenizer.chat_template
    assert tokenizer("So 3.")["input_ids"] == processor(text=["So 3."])["input_ids"][0]
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)).__name__ == "Qwen3ForCausalLM"
    with pytest.raises(ValueError, match="reads no images: it is a text-only model"):
        processor(text=["So 3."], images=[[picture(1)]])


def test_options_are_checked():
    for wrong in ("float33", "int64", "nn"):
        with pytest.raises(ValueError, match=f"dtype must be auto, bfloat16, .* got '{wrong}'"):
            BackboneOptions(dtype=wrong)
    with pytest.raises(ValueError, match=r"quantization must be one of .*'nf4', 'int8'.* or null, got 'fp4'"):
        BackboneOptions(quantization="fp4")
    stored = {"dtype": "bfloat16", "lora": {"rank": 3, "targets": ["q_proj"]}}
    assert BackboneOptions.of(stored) == BackboneOptions(dtype="bfloat16", lora=LoraOptions(rank=3, targets=["q_proj"]))
    assert BackboneOptions.of(None) == BackboneOptions()


@pytest.mark.parametrize("name", ["internvl_llama", "qwen3_text"])
def test_a_tokenizer_without_padding_token(family_checkpoint, tmp_path, name):
    """As Llama's and Mistral's: what is padded is masked, so any token does."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(family_checkpoint(name), folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["pad_token"]
    file.write_text(json.dumps(config))
    responses = ["2 + 3 = 5.\n\nSo 5.", "7"]
    found = ProcessRewardModel.from_pretrained(folder).score(None, "2 + 3?", responses)
    expected = ProcessRewardModel.from_pretrained(family_checkpoint(name)).score(None, "2 + 3?", responses)
    assert found.step_scores == expected.step_scores
    encoder = ProcessRewardModel.from_pretrained(folder).encoder
    inputs, positions = encoder.encode([Conversation([], "2", [step], step) for step in ("2", "2 and 3")])
    assert inputs["attention_mask"].sum(-1).unique().numel() == 2
    assert (positions >= 0).all()


@pytest.mark.parametrize("load", [load_processor, load_backbone, ProcessRewardModel.from_pretrained])
def test_a_released_folder_that_is_not_converted_yet(tmp_path, load):
    write_checkpoint(tmp_path, architecture="InternVLRewardModel")
    with pytest.raises(ValueError, match=r"is of the original InternVL layout; convert it first: visualprm-convert"):
        load(tmp_path)


@pytest.mark.parametrize("model_type", ["gpt_neox", "falcon"])
def test_text_models_that_name_their_parts_otherwise(family_checkpoint, tmp_path, model_type):
    folder = tmp_path / "checkpoint"
    shutil.copytree(family_checkpoint("qwen3_text"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **sizes, **ids)
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config).eval()
    sharpen(plain)
    plain.save_pretrained(folder)
    model = ProcessRewardModel.from_pretrained(folder)
    steps = ["So 3.", "The answer is 2."]
    inputs, positions = model.encoder.encode([Conversation([], "How many?", steps, "x")])
    with torch.no_grad():
        logits = plain(**inputs).logits[0, positions[0]][:, model.encoder.class_token_ids]
    scored = model.score(None, "How many?", ["\n\n".join(steps), "2"])
    assert scored.step_scores[0] == pytest.approx(logits.softmax(-1)[:, 0].tolist(), abs=1e-4)


def test_a_text_model_has_no_projector_to_train(family_checkpoint):
    options = BackboneOptions(lora=LoraOptions(rank=2, train_projector=True))
    with pytest.raises(ValueError, match=r"^lora\.train_projector: 'projector' is nothing that this 'qwen3' model has"):
        load_backbone(family_checkpoint("qwen3_text"), options)
