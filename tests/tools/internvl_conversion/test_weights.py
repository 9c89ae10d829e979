import json

import pytest
import torch
from original_internvl import configuration, weights, write_weights
from transformers import InternVLConfig

from tools.internvl_conversion.configuration import read_configuration
from tools.internvl_conversion.source import SourceTensor, SourceWeights
from tools.internvl_conversion.weights import check_tied_head, grouped, native_shapes, plan_conversion, third

FUSED = "language_model.model.layers.0.attention.wqkv.weight"


def test_grouped_heads_by_hand():
    """Two key-value heads of head size 2, three queries each: q q q k v | q q q k v, two rows a head."""
    rows = torch.arange(20)[:, None]
    q, k, v = (grouped(part, 3, 2)(rows).flatten().tolist() for part in range(3))
    assert q == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]
    assert k == [6, 7, 16, 17]
    assert v == [8, 9, 18, 19]


def test_thirds_by_hand():
    assert [third(part)(torch.arange(6)).tolist() for part in range(3)] == [[0, 1], [2, 3], [4, 5]]


@pytest.fixture
def source(tmp_path):
    """Makes a native configuration, the headers of the original tensors, and the tensors."""

    def make(language_model="InternLM2ForCausalLM", **changes):
        config = configuration(language_model, 260, **changes)
        tensors = weights(config)
        (tmp_path / "config.json").write_text(json.dumps(config))
        native = read_configuration(tmp_path).native
        headers = {n: SourceTensor(tmp_path / "x", tuple(t.shape), t.dtype) for n, t in tensors.items()}
        return native, headers, tensors

    return make


def changed(headers, name, shape):
    return {**headers, name: SourceTensor(headers[next(iter(headers))].file, shape, torch.float32)}


def test_every_tensor_is_used_and_made_once(source):
    native, headers, _ = source()
    plan = plan_conversion(headers, native, is_internlm2=True)
    assert sorted(target.name for target in plan) == sorted(native_shapes(native))
    uses = [target.source for target in plan]
    assert set(uses) == set(headers)
    fused = [name for name in headers if name.endswith((".wqkv.weight", ".qkv.weight", ".qkv.bias"))]
    assert len(fused) == 6
    assert all(uses.count(name) == (3 if name in fused else 1) for name in headers)


@pytest.mark.parametrize(
    "name",
    [
        "v_head.weight",
        "language_model.model.layers.0.attention.rotary_emb.inv_freq",
        "language_model.model.layers.7.attention.wo.weight",
        "vision_model.encoder.layers.0.attn.q_norm.weight",
        "base_model.model.vision_model.embeddings.class_embedding",
    ],
)
def test_unknown_tensors_are_refused_by_name(source, name):
    native, headers, _ = source()
    with pytest.raises(ValueError, match=f"unknown tensors: {name}"):
        plan_conversion(changed(headers, name, (48, 48)), native, is_internlm2=True)


def test_missing_tensors_are_named(source):
    native, headers, _ = source()
    del headers[FUSED], headers["mlp1.3.bias"]
    with pytest.raises(ValueError, match=r"nothing makes: .*linear_2\.bias.*self_attn\.q_proj\.weight"):
        plan_conversion(headers, native, is_internlm2=True)


@pytest.mark.parametrize("shape", [(96, 47), (48, 48), (95, 48), (96,)])
def test_wrong_shapes_are_named(source, shape):
    native, headers, _ = source()
    with pytest.raises(ValueError, match=r"wqkv\.weight' is \[.*\], but 'model.*_proj\.weight' needs"):
        plan_conversion(changed(headers, FUSED, shape), native, is_internlm2=True)


def test_the_layout_of_the_other_language_model(source):
    native, headers, _ = source("Qwen2ForCausalLM")
    name = "language_model.model.tok_embeddings.weight"
    with pytest.raises(ValueError, match=f"unknown tensors: {name}"):
        plan_conversion(changed(headers, name, (260, 48)), native, is_internlm2=False)


@pytest.mark.parametrize("equal", [True, False])
def test_a_stored_head_of_tied_embeddings(source, tmp_path, equal):
    native, _, tensors = source("Qwen2ForCausalLM", llm={"tie_word_embeddings": True})
    assert "language_model.lm_head.weight" not in tensors
    head = tensors["language_model.model.embed_tokens.weight"].clone()
    head[3, 4] += 0 if equal else 1
    write_weights(tmp_path, {**tensors, "language_model.lm_head.weight": head})
    stored = SourceWeights(tmp_path)
    plan = plan_conversion(stored.tensors, native, is_internlm2=False)
    assert "lm_head.weight" not in {target.name for target in plan}
    if equal:
        check_tied_head(stored, native, is_internlm2=False)
    else:
        with pytest.raises(ValueError, match="tie_word_embeddings is true"):
            check_tied_head(stored, native, is_internlm2=False)


def test_native_shapes_come_from_the_native_model():
    shapes = native_shapes(InternVLConfig(text_config={"model_type": "qwen2"}, tie_word_embeddings=False))
    assert shapes["model.language_model.embed_tokens.weight"] == shapes["lm_head.weight"]
    assert shapes["model.vision_tower.embeddings.position_embeddings"] == (1, 1025, 1024)
