"""Conversations beyond the bound of dynamic rotary positions are scored as by one plain forward each."""

import pytest
import torch
from literal_scoring import score_literally
from transformers import AutoModelForImageTextToText, AutoProcessor

from datamodules.conversation.candidates import encode_candidates
from datamodules.conversation.encoder import ConversationEncoder
from lightning_modules.model.step_head import StepHead
from lightning_modules.scoring.candidates import score_candidates
from lightning_modules.scoring.stretched_positions import forget_longer_sequences, stretched_beyond

SHORT = ["So 3", "So 7"]
LONG = ["The digits are 3 , 7 and 9 .", "So the answer is \\boxed{2} ."] * 6


@pytest.fixture
def dynamic(sharp_checkpoint):
    """A model whose positions are stretched beyond 96 tokens."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = AutoModelForImageTextToText.from_pretrained(sharp_checkpoint).config
    config.text_config.rope_parameters = rope
    config.text_config.max_position_embeddings = 96
    return AutoModelForImageTextToText.from_pretrained(sharp_checkpoint, config=config).eval()


def scores(model, encoder, picture, candidates):
    group = encode_candidates(encoder, [picture(1)], "How many?", candidates, "q")
    head = StepHead(model, encoder.class_token_ids)
    with torch.no_grad():
        (found,) = score_candidates(model, head, [group], 0)
    return [logits.softmax(-1)[:, 0].tolist() for logits in found]


def test_scores_are_those_of_a_plain_forward(dynamic, sharp_checkpoint, picture):
    processor = AutoProcessor.from_pretrained(sharp_checkpoint)
    encoder = ConversationEncoder(processor, "", ("+", "-"))
    assert stretched_beyond(dynamic) == 96
    for candidates in ([SHORT, LONG], [SHORT], [LONG, SHORT], [LONG[:10], LONG]):
        found = scores(dynamic, encoder, picture, candidates)
        for steps, of_candidate in zip(candidates, found, strict=True):
            forget_longer_sequences(dynamic)
            literal = score_literally(dynamic, processor, [picture(1)], "How many?", steps, "")
            assert of_candidate == pytest.approx(literal, abs=1e-5)


def test_positions_do_stretch(dynamic, sharp_model, sharp_checkpoint, picture):
    """Otherwise the comparison above would say little."""
    processor = AutoProcessor.from_pretrained(sharp_checkpoint)
    assert stretched_beyond(sharp_model) is None
    arguments = (processor, [picture(1)], "How many?")
    plain, stretched = (score_literally(model, *arguments, LONG, "") for model in (sharp_model, dynamic))
    assert max(abs(a - b) for a, b in zip(plain, stretched, strict=True)) > 1e-3
    kept = score_literally(dynamic, *arguments, LONG[:10], "")
    forget_longer_sequences(dynamic)
    fresh = score_literally(dynamic, *arguments, LONG[:10], "")
    assert max(abs(a - b) for a, b in zip(kept, fresh, strict=True)) > 1e-6
