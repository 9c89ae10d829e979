"""Scores through a real vLLM server, beside the same model in this process. One server for all tests of a family."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_families import FAMILIES, sharpen, widen
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from vllm_server import vllm_server

from datamodules.conversation.encoder import Conversation
from lightning_modules.process_reward import ProcessRewardModel, QuestionWithResponses, RewardModelServer
from lightning_modules.scoring.class_logprobs import ClassLogprobs, MissingClassError
from lightning_modules.scoring.step_requests import step_body, step_chats
from lightning_modules.servers.messages import PictureEncoder

pytestmark = pytest.mark.server

HEAD_SIZE = 32  # the smallest that vLLM knows on a CPU
TOLERANCE = 1e-4
SERVED = {
    "internvl_qwen2": ("--logprobs-mode", "processed_logprobs"),
    "qwen2_5_vl": (),
    "qwen3_text": (),
}
QUESTION = "How many digits are larger than 4?"
RESPONSES = [
    "The digits are 3, 7 and 9.\n\nSo 3 + 4 = 7.\n\nSo 7 - 4 = 3.\n\nSo the answer is \\boxed{2}.\n\nSo 3",
    "The digits are 3, 7 and 9.\n\nSo the answer is \\boxed{3}.",
    "So 7",
    "",
]


@pytest.fixture(
    scope="module",
    params=[
        "internvl_qwen2",
        pytest.param("qwen2_5_vl", marks=pytest.mark.thorough),
        pytest.param("qwen3_text", marks=pytest.mark.thorough),
    ],
)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def checkpoint(family, tmp_path_factory):
    """An exported reward model: a folder that `save_pretrained` wrote."""
    folder = tmp_path_factory.mktemp(family)
    processor, config = FAMILIES[family].make()
    if FAMILIES[family].is_multimodal:
        widen(config, HEAD_SIZE)
    else:
        config.hidden_size, config.head_dim = 2 * HEAD_SIZE, HEAD_SIZE
    torch.manual_seed(0)
    kind = AutoModelForImageTextToText if FAMILIES[family].is_multimodal else AutoModelForCausalLM
    model = kind.from_config(config)
    sharpen(model)
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    reward_model = ProcessRewardModel(str(folder / "base"), system_prompt="Check every step.")
    with torch.no_grad():
        reward_model.head.weight.normal_(0.0, 0.5)
    reward_model.save_pretrained(folder / "exported")
    return folder / "exported"


@pytest.fixture(scope="module")
def server(family, checkpoint, tmp_path_factory):
    with vllm_server(checkpoint, tmp_path_factory.mktemp("vllm") / "log.txt", *SERVED[family]) as started:
        yield started


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, [(32, 32, 3), (32, 64, 3), (64, 48, 3)][number % 3])
    return Image.fromarray(pixels.astype(np.uint8))


def questions_of(family):
    asked = [QuestionWithResponses(None, QUESTION, RESPONSES, "text")]
    if FAMILIES[family].is_multimodal:
        asked += [
            QuestionWithResponses(picture(0), QUESTION, RESPONSES, "a picture"),
            QuestionWithResponses(picture(3), QUESTION, RESPONSES, "another picture of the same size"),
            QuestionWithResponses(
                [picture(1), picture(2)], "Is <image> larger than <image>?", RESPONSES, "in the text"
            ),
            QuestionWithResponses([picture(1), picture(2)], "Which is larger?", RESPONSES, "two"),
        ]
    return asked


def steps_of(scored):
    return [score for response in scored.step_scores for score in response]


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_steps": 2, "aggregation": "min"}, {"objective": "advantage"}, {"objective": "outcome"}],
    ids=["value", "max_steps", "advantage", "outcome"],
)
def test_scores_are_those_of_this_process(family, checkpoint, server, settings):
    here = ProcessRewardModel.from_pretrained(checkpoint, **settings).score_questions(questions_of(family))
    model = ProcessRewardModel.from_pretrained(checkpoint, server=RewardModelServer([server.url]), **settings)
    for _ in range(2):  # the second time from the server's prefix cache
        there = model.score_questions(questions_of(family))
        for one, other in zip(here, there, strict=True):
            assert other.steps == one.steps
            assert steps_of(other) == pytest.approx(steps_of(one), abs=TOLERANCE)
            assert other.response_scores == pytest.approx(one.response_scores, abs=TOLERANCE)
    everything = [score for scored in here for score in steps_of(scored)]
    assert np.std(everything) > 0.01  # no comparison of constants
    if FAMILIES[family].is_multimodal:
        # Prefixes that begin alike but for the picture are told apart.
        differences = np.abs(np.subtract(steps_of(there[1]), steps_of(there[2])))
        assert differences.max() > 100 * TOLERANCE


def test_the_server_reads_the_very_same_tokens(family, checkpoint, server):
    """At every step, and not only where it is checked before scoring."""
    model = ProcessRewardModel.from_pretrained(checkpoint, server=RewardModelServer([server.url]))
    encoder = copy.copy(model.encoder)
    encoder.encodes_pictures = True
    classes = ClassLogprobs(tuple(encoder.class_token_ids))
    for asked in questions_of(family):
        images = [asked.images] if isinstance(asked.images, Image.Image) else asked.images or []
        conversation = Conversation(images, asked.question, RESPONSES[0].split("\n\n"), asked.name)
        inputs, positions = encoder.encode([conversation])
        ids = inputs["input_ids"][0].tolist()
        chats = step_chats(encoder, conversation, PictureEncoder())
        bodies = [{**step_body("tiny", chat, classes, {}), "return_token_ids": True} for chat in chats]
        answers = model.served.client.complete([(asked.name, body) for body in bodies])
        assert [answer["prompt_token_ids"] for answer in answers] == [ids[: p + 1] for p in positions[0].tolist()]


def test_ways_to_ask(family, checkpoint, server):
    """A server that reports processed probabilities can be asked without `logprob_token_ids`; others cannot."""
    model = ProcessRewardModel.from_pretrained(checkpoint, server=RewardModelServer([server.url]))
    conversation = Conversation([], QUESTION, ["So 7"], "text")
    ids = tuple(model.encoder.class_token_ids)
    (chat,) = step_chats(model.encoder, conversation, PictureEncoder())
    scores = {}
    for by_ids in (True, False):
        way = ClassLogprobs(ids, by_ids)
        (answer,) = model.served.client.complete([("text", step_body("tiny", chat, way, {}))])
        if not by_ids and not SERVED[family]:
            with pytest.raises(MissingClassError):
                way.read(answer)
        else:
            scores[by_ids] = way.read(answer).softmax(-1).tolist()
    assert len(scores) == 1 + bool(SERVED[family])
    if len(scores) == 2:
        assert scores[False] == pytest.approx(scores[True], abs=1e-5)
