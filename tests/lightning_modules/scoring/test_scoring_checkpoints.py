"""Checkpoints of every family, through their own processors, score as one whole forward a response does."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from property_examples import examples
from tiny_families import FAMILIES, write_family

from datamodules.conversation.candidates import encode_candidates
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.lora import LoraOptions
from lightning_modules.process_reward import ProcessRewardModel
from lightning_modules.scoring.shared_prefix import shared_prefix_obstacle

UNSHARED = {"gemma3", "gemma2_text"}
STEPS = st.lists(
    st.sampled_from(["The digits are 3", "The digits are 37", "The", "So 3 + 4 = 7.", "+ -", "2"]),
    min_size=1,
    max_size=4,
)
QUESTIONS = {0: "How many digits are larger than 4?", 1: "How many?", 2: "Is <image> larger than <image>?"}
SIZES = [(32, 32), (64, 32), (32, 64)]


def pictures(numbers):
    """Noise, in three shapes, of which some are cut into tiles or have more tokens."""
    found = []
    for number in numbers:
        width, height = SIZES[number % 3]
        data = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(number))
        found.append(Image.fromarray(data.to(torch.uint8).numpy()))
    return found


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_family(request.param, folder)
    return request.param, folder


@pytest.fixture(scope="module")
def loaded(family):
    name, folder = family
    return name, ProcessRewardModel.from_pretrained(folder)


@torch.no_grad()
def score_literally(model, images, question, steps):
    """Vocabulary logits of the whole conversation, alone; the positions are those of the encoder, tested elsewhere."""
    inputs, positions = model.encoder.encode([(images, question, steps, "x")])
    logits = model.backbone(**inputs, use_cache=False).logits[0, positions[0]]
    return logits[:, model.encoder.class_token_ids].float().softmax(-1)[:, 0].tolist()


ASKED = st.tuples(st.lists(st.integers(0, 5), max_size=2), st.lists(STEPS, min_size=1, max_size=4))


@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.too_slow])
@given(asked=st.lists(ASKED, min_size=1, max_size=3), memory_gib=st.sampled_from([None, 1e-4]))
def test_equals_one_forward_a_response(loaded, asked, memory_gib):
    name, model = loaded
    model.hparams["scoring_memory_gib"] = memory_gib
    questions = [
        (pictures(numbers if FAMILIES[name].is_multimodal else []), candidates) for numbers, candidates in asked
    ]
    encoded = [
        encode_candidates(model.encoder, images, QUESTIONS[len(images)], candidates, "x")
        for images, candidates in questions
    ]
    found = model.score_encoded(encoded)
    for (images, candidates), of_question in zip(questions, found, strict=True):
        for steps, scores in zip(candidates, of_question, strict=True):
            expected = score_literally(model, images, QUESTIONS[len(images)], steps)
            assert scores.tolist() == pytest.approx(expected, abs=2e-5)


def test_a_picture_of_another_question_changes_scores(loaded):
    name, model = loaded
    assert (shared_prefix_obstacle(model.backbone) is not None) == (name in UNSHARED)
    first, second = "The digits are 3\n\nSo 3 + 4 = 7.", "2"
    images = pictures([1]) if FAMILIES[name].is_multimodal else []
    before = model.score(images, "How many?", [first, second])
    assert before.step_scores[0] != pytest.approx(before.step_scores[0][::-1], abs=1e-3)
    assert before.step_scores[0] == pytest.approx(model.score(images, "How many?", [first]).step_scores[0], abs=1e-5)
    assert before.step_scores[0] != pytest.approx(model.score(images, "Why?", [first]).step_scores[0], abs=1e-3)
    for others in (pictures([4]), pictures([2]), []) if images else []:
        assert before.step_scores[0] != pytest.approx(
            model.score(others, "How many?", [first]).step_scores[0], abs=1e-3
        )


def test_adapters(family):
    name, folder = family
    options = BackboneOptions(lora=LoraOptions(rank=2))
    model = ProcessRewardModel.from_pretrained(folder, backbone=options)
    images = pictures([1]) if FAMILIES[name].is_multimodal else []
    steps = ["The digits are 3", "So 3 + 4 = 7."]
    before = model.score(images, "How many?", ["\n\n".join(steps)]).step_scores[0]
    with torch.no_grad():
        for parameter_name, weight in model.backbone.named_parameters():
            if "lora_B" in parameter_name:
                weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(len(parameter_name)))
    scores = model.score(images, "How many?", ["\n\n".join(steps), "2"]).step_scores[0]
    assert scores == pytest.approx(score_literally(model, images, "How many?", steps), abs=2e-5)
    assert scores != pytest.approx(before, abs=1e-3)
