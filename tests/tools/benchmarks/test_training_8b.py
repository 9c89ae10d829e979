import json

import pytest
import torch
from transformers import InternVLForConditionalGeneration

from tools.benchmarks.models import make_model
from tools.benchmarks.training_8b import main
from tools.benchmarks.training_workload import SIZES


def test_a_small_run(tmp_path, capsys):
    words = ["--size", "tiny", "--device", "cpu", "--steps", "2", "--warmup", "1", "--peak-flops", "1e12"]
    assert main([*words, "--output", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["mfu"] == pytest.approx(figures["operations_per_second"] / 1e12)
    assert 0 < figures["mfu"] < 1
    assert 0.5 < figures["filled"] <= 1
    # All but the language-model head, of which the step head has two rows.
    size = SIZES["tiny"]
    assert figures["parameters"] - figures["trained_parameters"] == (size.vocabulary - 2) * size.hidden
    assert "tokens/s: " in capsys.readouterr().out


def test_the_shape_is_that_of_the_8b():
    """InternVL2.5-8B has 8,075,365,376 parameters by the index of its weight files; see the comment for the rest."""
    model = make_model(SIZES["8b"], "meta", torch.bfloat16)
    assert isinstance(model, InternVLForConditionalGeneration)
    text = model.config.text_config
    assert (text.num_attention_heads, text.num_key_value_heads, text.intermediate_size) == (32, 8, 14336)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(8_075_365_376, rel=1e-3)
    assert SIZES["8b"].packed_tokens == 8192
