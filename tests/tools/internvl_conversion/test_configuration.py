import json

import pytest
import torch
from original_internvl import configuration

from tools.internvl_conversion.configuration import read_configuration


@pytest.fixture
def read(tmp_path):
    def run(language_model="InternLM2ForCausalLM", **changes):
        config = configuration(language_model, 500, **changes)
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_configuration(tmp_path)

    return run


def test_internlm2(read):
    source = read()
    assert (source.architecture, source.is_internlm2, source.template) == ("InternVLChatModel", True, "internvl2_5")
    assert (source.image_size, source.is_tiled, source.dtype) == (56, True, torch.float32)
    text, vision = source.native.text_config, source.native.vision_config
    assert (text.model_type, text.hidden_size, text.num_key_value_heads, text.vocab_size) == ("llama", 48, 2, 500)
    assert (text.attention_bias, text.mlp_bias, text.rms_norm_eps, text.hidden_act) == (False, False, 1e-5, "silu")
    assert text.rope_parameters == {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1000000.0}
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == (1, 2, 2)
    assert (vision.norm_type, vision.attention_bias, vision.use_qk_norm, vision.layer_norm_eps) == (
        "layer_norm",
        True,
        False,
        1e-6,
    )
    assert (list(vision.image_size), list(vision.patch_size)) == ([56, 56], [14, 14])
    # (56 / 14)^2 patches, four a token
    assert source.native.image_seq_length == 4


def test_the_released_sizes(read):
    """InternViT-300M at 448 pixels and InternLM2-7B, as VisualPRM-8B has them."""
    llm = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
    vision = {"hidden_size": 1024, "image_size": 448, "num_attention_heads": 16}
    source = read(llm=llm, vision=vision, force_image_size=448, architecture="InternVLRewardModel")
    assert source.native.image_seq_length == 256
    assert source.native.text_config.head_dim == 128
    assert source.architecture == "InternVLRewardModel"


def test_the_large_vision_tower(read):
    vision = {"norm_type": "rms_norm", "qkv_bias": False, "qk_normalization": True}
    native = read(vision=vision).native.vision_config
    assert (native.norm_type, native.attention_bias, native.use_qk_norm) == ("rms_norm", False, True)


def test_qwen(read):
    text = read("Qwen2ForCausalLM", llm={"sliding_window": None, "use_sliding_window": False}).native.text_config
    assert (text.model_type, text.num_key_value_heads) == ("qwen2", 2)
    text = read("Qwen3ForCausalLM", llm={"head_dim": 24, "rope_scaling": None}).native.text_config
    assert (text.model_type, text.head_dim, text.rope_parameters["rope_type"]) == ("qwen3", 24, "default")


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_are_those_of_the_language_model(read, tied):
    source = read("Qwen2ForCausalLM", llm={"tie_word_embeddings": tied}, tie_word_embeddings=not tied)
    assert source.native.tie_word_embeddings is tied
    assert source.native.text_config.tie_word_embeddings is tied


def test_absent_dtype(read):
    assert read(torch_dtype="absent").dtype is None
    assert read(torch_dtype="absent", dtype="bfloat16").dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "InternVLForOther"}, "'architectures' must be one of InternVLChatModel, InternVLRewardModel"),
        ({"llm": {"architectures": ["Phi3ForCausalLM"]}}, "'llm_config.architectures' must be one of InternLM2"),
        ({"llm": {"architectures": ["Qwen3MoeForCausalLM"]}}, "got \\['Qwen3MoeForCausalLM'\\]"),
        ({"ps_version": "v1"}, "'ps_version' must be 'v2' .*, got 'v1'"),
        ({"ps_version": "absent"}, "'ps_version' must be 'v2' .*, got 'v1'"),
        ({"select_layer": -4}, "'select_layer' must be -1"),
        ({"pad2square": True}, "'pad2square' must be False"),
        ({"use_llm_lora": 16}, "'use_llm_lora' must be 0 \\(merge the adapter"),
        ({"use_backbone_lora": 16}, "'use_backbone_lora' must be 0"),
        ({"use_thumbnail": False}, "'use_thumbnail' must be True"),
        ({"force_image_size": 224}, "force_image_size 224 differs from vision_config.image_size 56"),
        ({"template": "absent"}, "'template' is missing"),
        ({"torch_dtype": "int8"}, "'torch_dtype' must be a floating-point dtype"),
        ({"vision": {"norm_type": "batch_norm"}}, "'vision_config.norm_type' must be layer_norm or rms_norm"),
        ({"vision": {"qk_normalization": True, "layer_norm_eps": 1e-5}}, "'vision_config.layer_norm_eps' must be"),
        ({"llm": {"rope_scaling": {"type": "yarn", "factor": 4.0}}}, "rope_scaling' must be of type linear or dynamic"),
        ({"llm": {"rope_pos_id_version": "v2pe_rnd"}}, "'llm_config.rope_pos_id_version' must be absent"),
        ({"llm": {"hidden_size": "48"}}, "'llm_config.hidden_size' must be an integer"),
        ({"vision_config": None}, "'vision_config' must be an object"),
    ],
)
def test_what_is_refused(read, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(**changes)
    assert str(tmp_path / "config.json") in str(caught.value)
