import json

import numpy as np
import pytest
import torch

from tools.benchmarks.head_memory import VOCABULARY_8B, by_formula, measured, peak_bytes
from tools.benchmarks.indexing import STEPS
from tools.benchmarks.models import IMAGE_ID, make_model
from tools.benchmarks.training import main
from tools.benchmarks.training_workload import SIZES, make_rows


def test_a_small_run(tmp_path, capsys):
    words = ["--size", "tiny", "--rounds", "2", "--samples", "6", "--batch-size", "3", "--clock", "processor"]
    head = ["--head-tokens", "64", "--head-hidden", "16", "--head-steps", "4"]
    assert main([*words, *head, "--output", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["largest_difference"] < 1e-5 < 0.1 < figures["loss_spread"]
    assert figures["ratios"][0] <= figures["ratio"] <= figures["ratios"][1]
    assert 0 < figures["padding"] < 1
    assert 0 < figures["filled"] <= 1
    printed = capsys.readouterr().out
    assert "| packed | " in printed
    assert "by formula at 8,192 tokens" in printed


def test_peak_of_allocations():
    """Three of a kilobyte at a time, of five in all."""

    def run():
        kept = torch.zeros(256)
        for _ in range(3):
            torch.zeros(256) + kept  # one, and its sum

    assert peak_bytes("cpu", run) == 3 * 1024


@pytest.mark.parametrize(("tokens", "hidden", "steps"), [(256, 64, 5), (64, 512, 28)])
def test_memory_of_heads_is_that_of_the_formula(tokens, hidden, steps):
    found = measured(tokens, hidden, 4000, steps, "cpu", torch.float32)
    expected = by_formula(tokens, hidden, 4000, steps, 4)
    assert found.full == pytest.approx(expected.full, rel=0.001)
    assert found.steps == pytest.approx(expected.steps, rel=0.1)
    with_states = measured(tokens, hidden, 4000, steps, "cpu", torch.float32, with_states=True)
    assert with_states.steps >= tokens * hidden * 4


@pytest.mark.parametrize("bytes_of_number", [2, 4])
def test_the_goal_at_the_8b(bytes_of_number):
    """Head memory is at most a hundredth, at 8,192 tokens with the five conversations of 5.6 steps that fit."""
    assert by_formula(8192, 4096, VOCABULARY_8B, 28, bytes_of_number).ratio > 100


def test_rows_have_the_statistics_of_the_paper():
    size = SIZES["large"]  # conversations as long as the 8B's
    rows = make_rows(size, 600)
    counts = np.array([len(row.steps) for row in rows])
    assert counts.mean() == pytest.approx(STEPS, abs=0.25)
    assert (counts.min(), counts.max()) == (1, 12)
    assert np.concatenate([row.labels for row in rows]).mean() == pytest.approx(0.1, abs=0.02)
    tiles = np.array([row.tiles for row in rows])
    assert set(tiles.tolist()) <= set(range(14)) - {2}  # a cut picture has two tiles at least, and a thumbnail
    assert (tiles == 0).mean() == pytest.approx(0.05, abs=0.03)
    assert all((row.ids == IMAGE_ID).sum() == 256 * row.tiles for row in rows)


@pytest.mark.parametrize("name", ["small", "medium", "large"])
def test_models_keep_the_proportions_of_the_8b(name):
    """InternLM2-7B and InternViT-300M: the head has 5.4 % of the weights that tokens meet, the vision tower's share of
    a tile's operations is a fifth."""
    size = SIZES[name]
    model = make_model(size, "meta", torch.float32)
    text = sum(p.numel() for p in model.model.language_model.layers.parameters() if p.ndim > 1)
    assert size.vocabulary * size.hidden / text == pytest.approx(0.054, rel=0.2)
    vision = sum(p.numel() for p in model.model.vision_tower.encoder.parameters() if p.ndim > 1)
    assert 4 * size.tile_tokens * vision / (size.tile_tokens * text) == pytest.approx(
        0.302e9 * 1024 / 256 / 6.98e9, rel=0.25
    )
