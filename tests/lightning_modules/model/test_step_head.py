import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from lightning_modules.model.backbone import BackboneOptions, load_backbone, load_processor
from lightning_modules.model.step_head import (
    StepHead,
    language_model_head,
    untie_language_model_head,
)


@pytest.fixture
def backbone(tiny_checkpoint):
    return AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)


def test_logits_are_rows_of_the_vocabulary_logits(backbone):
    head = StepHead(backbone, [7, 3])
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[1, 4, 2], [0, -1, -1]])
    logits = head(hidden, positions)
    assert logits.shape == (2, 3, 2)
    vocabulary = hidden @ backbone.lm_head.weight.T
    for row, of_row in enumerate(positions.tolist()):
        for step, position in enumerate(of_row):
            if position >= 0:
                torch.testing.assert_close(logits[row, step], vocabulary[row, position, [7, 3]])


def test_logits_are_float32(backbone):
    backbone.to(torch.bfloat16)
    head = StepHead(backbone, [7, 3])
    assert head.weight.dtype == torch.bfloat16
    assert head(torch.zeros(1, 2, 32, dtype=torch.bfloat16), torch.tensor([[0]])).dtype == torch.float32


def test_the_head_has_weights_of_its_own(backbone):
    head = StepHead(backbone, [7, 3])
    before = backbone.lm_head.weight.detach().clone()
    with torch.no_grad():
        head.weight += 1
    assert torch.equal(backbone.lm_head.weight, before)
    head.write_back(backbone)
    expected = before.clone()
    expected[7] += 1
    expected[3] += 1
    assert torch.equal(backbone.lm_head.weight, expected)


def test_gradient_reaches_judged_tokens_alone(backbone):
    head = StepHead(backbone, [7, 3])
    hidden = torch.zeros(1, 4, 32, requires_grad=True)
    head(hidden, torch.tensor([[2]])).sum().backward()
    assert hidden.grad.abs().sum(-1).nonzero().tolist() == [[0, 2]]


@pytest.fixture
def tied_checkpoint(tiny_checkpoint, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.lm_head.weight = model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "tied")
    AutoProcessor.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


def test_tied_weights_are_parted(tied_checkpoint, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(tied_checkpoint)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    embeddings = model.get_input_embeddings().weight.detach().clone()
    untie_language_model_head(model)
    assert torch.equal(model.lm_head.weight, embeddings)
    with torch.no_grad():
        model.lm_head.weight[3] += 1
    assert torch.equal(model.get_input_embeddings().weight, embeddings)
    model.save_pretrained(tmp_path / "parted")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "parted")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert torch.equal(again.get_input_embeddings().weight, embeddings)


def test_untied_weights_stay(backbone):
    weight = backbone.lm_head.weight
    untie_language_model_head(backbone)
    assert backbone.lm_head.weight is weight


def test_a_model_without_a_linear_head(backbone):
    backbone.lm_head = torch.nn.Identity()
    with pytest.raises(TypeError, match="has no linear language-model head, but Identity"):
        language_model_head(backbone)


def test_load_backbone(tiny_checkpoint):
    assert load_backbone(tiny_checkpoint).dtype == torch.float32
    loaded = load_backbone(tiny_checkpoint, BackboneOptions(dtype="bfloat16", attention_implementation="eager"))
    assert loaded.dtype == torch.bfloat16
    assert loaded.config._attn_implementation == "eager"
    assert loaded.training
    for wrong in ("float33", "int64", "nn"):
        with pytest.raises(ValueError, match=f"dtype must be auto, bfloat16, .* got '{wrong}'"):
            BackboneOptions(dtype=wrong)


def test_load_processor(tiny_checkpoint):
    assert type(load_processor(tiny_checkpoint)).__name__ == "InternVLProcessor"


@pytest.mark.parametrize("model_type", ["gemma2", "cohere", "granite", "qwen2"])
def test_logits_are_those_of_the_family(model_type):
    """Some scale or cap the products with the rows."""
    options = {
        "gemma2": {"final_logit_softcapping": 2.0},
        "cohere": {"logit_scale": 0.3},
        "granite": {"logits_scaling": 7.0},
    }
    config = AutoConfig.for_model(
        model_type,
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        **options.get(model_type, {}),
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_()
        ids = torch.tensor([[3, 4, 5]])
        expected = model(input_ids=ids).logits[0, [0, 2]][:, [7, 8]]
        found = StepHead(model, [7, 8])(model.model(input_ids=ids).last_hidden_state, torch.tensor([[0, 2]]))[0]
    torch.testing.assert_close(found, expected)
    assert expected.abs().max() > 0.1


def test_biases_of_the_language_model_head_are_part_of_it():
    """Phi's head has biases."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("phi", vocab_size=20, **sizes)).eval()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_(0.0, 3.0)
        head = StepHead(model, [7, 8])
        states, positions = model.model(input_ids=ids).last_hidden_state, torch.tensor([[0, 2]])
        expected = model(input_ids=ids).logits[0, [0, 2]][:, [7, 8]]
        torch.testing.assert_close(head(states, positions)[0], expected)
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter))
        head.write_back(model)
        trained = model(input_ids=ids).logits[0, [0, 2]][:, [7, 8]]
        torch.testing.assert_close(head(states, positions)[0], trained)
    assert (trained - expected).abs().max() > 0.1
