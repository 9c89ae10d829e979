"""Beside the loss that `transformers` computes over a whole chat, and an engine that cannot tell."""

import pytest
import torch

from datamodules.policy.chat import ChatRenderer
from datamodules.policy.prompt_batches import PromptCollator
from datamodules.policy.prompts import Prompt
from lightning_modules.response_likelihood import ResponseLikelihood

SOLUTIONS = {"a": ["The digits are 3 .\n\nSo 7", "9", "The digits are 3 .\n\nSo 7"], "b": ["So the answer is 2 ."]}


def test_scores_are_those_of_a_plain_forward(sharp_checkpoint, given, picture):
    module = ResponseLikelihood(str(sharp_checkpoint), given).eval()
    prompts = [
        Prompt("a", "Why?", (), "2", "s", lambda: [picture(1)], None, text="Is <image> large ?\nThink ."),
        Prompt("b", "How many?", (), "2", "t", list, None),
        Prompt("c", "How many?", (), "2", "t", list, None),
    ]
    batch = PromptCollator(ChatRenderer(module.processor, "The answer"))(prompts)
    found = dict(module.predict_step(batch, 0))
    assert found["c"] == []
    for index, name in enumerate("ab"):
        assert [row["id"] for row in found[name]] == [f"{name}/{n}" for n in range(len(SOLUTIONS[name]))]
        for row, text in zip(found[name], SOLUTIONS[name], strict=True):
            chat = module.processor.apply_chat_template(
                batch.messages[index], tokenize=False, add_generation_prompt=True
            )
            pictures = {"images": [batch.images[index]]} if batch.images[index] else {}
            end = module.processor.tokenizer.eos_token
            options = {"add_special_tokens": False, "return_tensors": "pt", **pictures}
            inputs = module.processor(text=[chat + text + end], **options)
            begin = module.processor(text=[chat], **options)["input_ids"].shape[1]
            labels = inputs["input_ids"].clone()
            labels[:, :begin] = -100
            with torch.no_grad():
                loss = float(module.backbone(**inputs, labels=labels).loss)
            count = labels.shape[1] - begin
            assert row["num_tokens"] == count
            assert row["scores"]["mean_log_probability"] == pytest.approx(-loss, abs=1e-4)
            assert row["scores"]["log_probability"] == pytest.approx(-loss * count, abs=1e-3)
    assert found["a"][0]["scores"] == found["a"][2]["scores"]


def test_an_engine_that_tells_no_probabilities(sharp_checkpoint, given):
    class Silent:
        needs_all_ranks = False

    with pytest.raises(ValueError, match="Silent does not tell how likely tokens are"):
        ResponseLikelihood(str(sharp_checkpoint), given, engine=Silent())
