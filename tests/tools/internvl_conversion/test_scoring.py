"""The converted reward model scores as the released code does, restated from the released folder alone.

Text is cut by SentencePiece, pictures by Pillow, and the forward is the one of ``internvl_reference``; the scored side
is ``ProcessRewardModel.score`` with its shared prefix.
"""

import numpy as np
import pytest
import torch
from internvl_reference import cut_into_tiles
from literal_scoring import RELEASED, response_at_once, step_by_step, write_turns
from original_internvl import SYSTEM_PROMPT
from PIL import Image

from lightning_modules.process_reward import ProcessRewardModel

RESPONSES = [
    "The digits are 3 , 7 and 9 .\n\nSo 2 are larger .\n\nSo the answer is \\boxed{2} .",
    "So the answer is \\boxed{12} .",
    "The digits are 3 , 7\n\nThe answer is 5",
]
QUESTIONS = {
    "text only": ([], "How many digits are larger than 4 ?"),
    "one picture of one tile": ([(50, 50)], "How many digits are larger than 4 ?"),
    "one picture of six tiles": ([(150, 100)], "Is 3 + 4 = 7 ?"),
    "two pictures": ([(150, 70), (40, 40)], "Are both + or - ?"),
    "two pictures, placed": ([(60, 120), (40, 40)], "Is <image> larger than <image> ?"),
    "a picture in the middle": ([(60, 60)], "The digits <image>\nare 漢字 ."),
}


def pictures(sizes):
    random = np.random.default_rng(3)
    return [Image.fromarray(random.integers(0, 256, (h, w, 3)).astype(np.uint8)) for w, h in sizes]


@pytest.fixture(scope="module")
def released(converted):
    _, reference, output, _ = converted("reward")
    return reference, ProcessRewardModel.from_pretrained(output)


def literal(reference, images, question, steps):
    """Step scores with one forward a response, and with one forward a step."""
    tiles = [cut_into_tiles(image, 56) for image in images]
    tokens = ["<img>" + "<IMG_CONTEXT>" * 4 * len(of_image) + "</img>" for of_image in tiles]
    turns = write_turns(question, tokens, steps, SYSTEM_PROMPT, RELEASED)
    pixels = torch.cat(tiles) if tiles else None
    arguments = (turns, RELEASED, reference.sentencepiece_ids, lambda ids: reference.logits(ids, pixels))
    return response_at_once(*arguments), step_by_step(*arguments)


@pytest.mark.parametrize("name", QUESTIONS)
def test_scores_are_those_of_the_released_protocol(released, name):
    reference, model = released
    sizes, question = QUESTIONS[name]
    images = pictures(sizes)
    scored = model.score(images, question, RESPONSES)
    for steps, scores, response, mean in zip(
        scored.steps, scored.step_scores, RESPONSES, scored.response_scores, strict=True
    ):
        assert steps == response.split("\n\n")
        at_once, one_by_one = literal(reference, images, question, steps)
        assert at_once == pytest.approx(one_by_one, abs=1e-9)
        assert scores == pytest.approx(at_once, abs=1e-4)
        assert mean == pytest.approx(sum(at_once) / len(at_once), abs=1e-4)
    flat = [score for scores in scored.step_scores for score in scores]
    assert max(flat) - min(flat) > 0.01


def test_long_responses_are_merged(released):
    reference, model = released
    steps = [f"Step {number} ." for number in range(14)]
    (scored,) = [model.score(None, "How many?", ["\n\n".join(steps)])]
    # ceil(14 / 12) = 2 steps each
    merged = [f"Step {number} .\n\nStep {number + 1} ." for number in range(0, 14, 2)]
    assert scored.steps == [merged]
    at_once, one_by_one = literal(reference, [], "How many?", merged)
    assert scored.step_scores[0] == pytest.approx(at_once, abs=1e-4)
    assert scored.step_scores[0] == pytest.approx(one_by_one, abs=1e-4)


def test_the_layout_matters(released):
    """Pictures before the header, as our own models have them, or another system prompt give other scores."""
    reference, model = released
    images, question = pictures([(150, 100)]), "Is 3 + 4 = 7 ?"
    scores = model.score(images, question, RESPONSES[:1]).step_scores[0]
    tiles = cut_into_tiles(images[0], 56)
    tokens = "<img>" + "<IMG_CONTEXT>" * 4 * len(tiles) + "</img>"
    turns = write_turns(question, [tokens], RESPONSES[0].split("\n\n"), SYSTEM_PROMPT, RELEASED)
    variants = {
        "picture first": [turn.replace(tokens + "\n", "").replace("### Q", tokens + "### Q") for turn in turns],
        "no line break": [turn.replace(tokens + "\n", tokens) for turn in turns],
        "no system turn": [turn for turn in turns if "system" not in turn],
        "no beginning": turns[1:],
    }
    for name, changed in variants.items():
        assert changed != turns, name
        other = response_at_once(
            changed, RELEASED, reference.sentencepiece_ids, lambda ids: reference.logits(ids, tiles)
        )
        assert max(abs(a - b) for a, b in zip(scores, other, strict=True)) > 1e-3, name


def test_what_comes_with_the_checkpoint(released):
    _, model = released
    protocol = model.protocol
    assert protocol.system_prompt == SYSTEM_PROMPT
    assert (protocol.objective, protocol.max_steps, protocol.aggregation) == ("value", 12, "mean")
    assert (protocol.image_layout, protocol.image_backend) == ("in_question", "pil")
    assert (protocol.question_text, protocol.pictures, protocol.white_space) == ("as_asked", "released", "released")
    assert (protocol.past_verdicts, protocol.max_steps) == ("labels", 12)
    assert protocol.step_threshold == 0.85


def test_a_saved_copy_scores_alike(released, tmp_path):
    _, model = released
    images, question = pictures([(150, 100)]), "Is 3 + 4 = 7 ?"
    model.save_pretrained(tmp_path)
    copy = ProcessRewardModel.from_pretrained(tmp_path)
    assert copy.protocol == model.protocol
    expected = model.score(images, question, RESPONSES).step_scores
    for scores, other in zip(expected, copy.score(images, question, RESPONSES).step_scores, strict=True):
        assert other == pytest.approx(scores, abs=1e-6)
