"""The policy's loss, against the loss that the models of `transformers` compute themselves."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from datamodules.process.labels import IGNORE_INDEX
from datamodules.prompts import SupervisedBatch
from lightning_modules.policy import Policy


@pytest.mark.parametrize("name", ["gemma2_text", "qwen3_text"])
def test_the_loss_is_that_of_the_family(family_checkpoint, name):
    """Gemma 2 caps its logits."""
    plain = AutoModelForCausalLM.from_pretrained(family_checkpoint(name)).eval()
    if name == "gemma2_text":
        plain.config.final_logit_softcapping = 2.0
    policy = Policy(str(family_checkpoint(name))).eval()
    policy.backbone.config.final_logit_softcapping = getattr(plain.config, "final_logit_softcapping", None)
    ids = (torch.arange(24).reshape(2, 12) * 7) % 80 + 270
    labels = ids.clone()
    labels[0, :5], labels[1, :8] = IGNORE_INDEX, IGNORE_INDEX
    batch = SupervisedBatch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels, ["a", "b"])
    with torch.no_grad():
        expected = plain(input_ids=ids, labels=labels).loss
        # 7 and 4 response tokens, whose losses are summed up to be divided by their number in the global batch.
        torch.testing.assert_close(policy.training_step(batch, 0) / 11, expected)
