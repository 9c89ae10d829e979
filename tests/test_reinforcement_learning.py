"""The example of reinforcement learning, with TRL's own trainer."""

import json
import runpy

import pytest
import torch
from cli_runs import REPOSITORY
from literal_server import literal_server
from transformers import AutoModelForImageTextToText

pytest.importorskip("trl", reason="needs TRL: pip install 'visualprm[rl]'")

EXAMPLE = REPOSITORY / "experiments" / "reinforcement_learning" / "grpo.py"


def test_two_steps_of_grpo(tiny_checkpoint, tiny_world, tmp_path):
    """A random policy learns from a random reward model behind a server: pictures, rewards and updates are real."""
    main = runpy.run_path(str(EXAMPLE))["main"]
    with literal_server(tiny_checkpoint) as server:
        arguments = {
            "--policy": tiny_checkpoint,
            "--reward_model": tiny_checkpoint,
            "--base_urls": server.url,
            "--aggregation": "min",
            "--prompts": tiny_world / "prompts" / "annotations.jsonl",
            "--limit": 4,
            "--output": tmp_path / "policy",
            "--max_steps": 2,
            "--num_generations": 4,
            "--max_new_tokens": 12,
            "--learning_rate": 1e-2,
        }
        words = [str(word) for pair in arguments.items() for word in pair]
        assert main(words) == 0
        assert any(isinstance(body["messages"][1]["content"], list) for body in server.bodies)  # with a picture
    log = json.loads((tmp_path / "policy" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in log if "loss" in entry]
    assert len(steps) == 2
    for entry in steps:
        assert 0 < entry["rewards/process_reward_min/mean"] == entry["reward"] < 1
    assert any(entry["reward_std"] > 0 for entry in steps)
    before, after = (AutoModelForImageTextToText.from_pretrained(f) for f in (tiny_checkpoint, tmp_path / "policy"))
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_mistakes_end_in_a_few_lines(tiny_checkpoint, tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLE))["main"]
    words = [
        *("--policy", str(tiny_checkpoint), "--reward_model", str(tiny_checkpoint), "--output", str(tmp_path / "out")),
        *("--prompts", str(tmp_path / "missing.jsonl")),
    ]
    assert main(words) == 2
    assert "missing.jsonl" in capsys.readouterr().err
    assert main([*words, "--aggregation", "median"]) == 2
    assert "aggregation must be one of" in capsys.readouterr().err
