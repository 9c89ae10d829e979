"""Released folders and what they convert to, made once."""

import pytest
from internvl_reference import ReferenceModel
from original_internvl import write_checkpoint

from tools.convert_internvl import convert

QWEN_VISION = {"norm_type": "rms_norm", "qkv_bias": False, "qk_normalization": True}
KINDS = {
    "internlm2": ("InternLM2ForCausalLM", {}),
    "reward": ("InternLM2ForCausalLM", {"architecture": "InternVLRewardModel", "llm": {"num_key_value_heads": 1}}),
    "internlm2 with biases": ("InternLM2ForCausalLM", {"llm": {"bias": True, "rope_scaling": None}}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen2 tied": ("Qwen2ForCausalLM", {"llm": {"tie_word_embeddings": True}}),
    "qwen2 with the large vision": ("Qwen2ForCausalLM", {"vision": QWEN_VISION}),
    "qwen3": ("Qwen3ForCausalLM", {"llm": {"head_dim": 16, "rope_scaling": None}}),
    "llama": ("LlamaForCausalLM", {}),
}


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """Converts a released folder of a kind of :data:`KINDS`: source folder, reference, output folder, report."""
    made = {}

    def make(kind):
        if kind not in made:
            language_model, changes = KINDS[kind]
            folder = tmp_path_factory.mktemp("converted")
            tensors = write_checkpoint(folder / "source", language_model, **{k: v for k, v in changes.items()})
            report = convert(folder / "source", folder / "output", max_shard_size="150KB")
            made[kind] = (folder / "source", ReferenceModel(folder / "source", tensors), folder / "output", report)
        return made[kind]

    return make
