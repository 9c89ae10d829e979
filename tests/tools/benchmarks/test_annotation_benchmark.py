"""What the benchmark of annotation counts, with a policy of random weights."""

import json

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from tools.benchmarks import annotation
from tools.benchmarks.annotation_work import random_work, write_random_policy
from tools.benchmarks.scoring_variants import SIZES


def test_tokens_of_both_ways(tmp_path, capsys):
    """`generate` reads every prompt once for each sample; the engine reads the question, and the longest prefix."""
    options = {"questions": 1, "solutions": 1, "samples": 3, "rounds": 1, "output": tmp_path / "rows.json"}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    assert annotation.main(["--size=tiny", *arguments]) == 0
    assert "| engine | 9 |" in capsys.readouterr().out
    plain, ours = json.loads((tmp_path / "rows.json").read_text())

    write_random_policy(tmp_path / "policy", SIZES["tiny"])
    processor = AutoProcessor.from_pretrained(tmp_path / "policy")
    requests = random_work(SIZES["tiny"], 1, 1, 3).requests
    lengths = []
    for partial in ["", *[request.partial_response for request in requests]]:
        text = processor.apply_chat_template(requests[0].messages, add_generation_prompt=True, tokenize=False) + partial
        inputs = processor(text=[text], images=[[requests[0].images[0]]], return_tensors="pt", add_special_tokens=False)
        assert len(inputs["pixel_values"]) == 4
        lengths.append(inputs["input_ids"].shape[1])
    assert len(lengths) == 4
    assert plain["prompt_tokens"] == pytest.approx(sum(lengths[1:]) * 3 / 9)
    assert ours["prompt_tokens"] == pytest.approx(lengths[-1] / 9)
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "policy").config.image_seq_length == 4
