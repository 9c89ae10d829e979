"""As TRL's `GRPOTrainer._calculate_rewards` calls it: by keyword, with all columns and with objects of the trainer."""

import logging

import numpy as np
import pytest
from literal_server import literal_server

from lightning_modules.process_reward import ProcessRewardModel, RewardModelServer
from lightning_modules.reinforcement_learning.reward_function import reward_function

QUESTION = "How many digits are larger than 4 ?"
SOLUTIONS = ["The digits are 3 , 7\n\nSo 9\n\nSo 3", "So 9\n\nSo the answer is \\boxed{2} ."]


@pytest.fixture(scope="module")
def scorer(sharp_checkpoint):
    return ProcessRewardModel.from_pretrained(sharp_checkpoint)


def called(function, prompts, completions, **columns):
    """With what TRL adds to the columns."""
    extra = {"trainer_state": object(), "log_extra": print, "log_metric": print, "completion_ids": [[1]] * len(prompts)}
    rewards = function(prompts=prompts, completions=completions, **columns, **extra)
    assert all(type(reward) is float for reward in rewards)
    return rewards


def turn(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("aggregation", ["mean", "min", "last"])
def test_plain_texts(sharp_checkpoint, scorer, aggregation):
    function = reward_function(str(sharp_checkpoint), aggregation, device="cpu")
    rewards = called(function, [QUESTION] * 2, SOLUTIONS)
    reduce = {"mean": np.mean, "min": min, "last": lambda scores: scores[-1]}[aggregation]
    assert rewards == pytest.approx([reduce(s) for s in scorer.score(None, QUESTION, SOLUTIONS).step_scores], abs=1e-6)
    assert function.__name__ == f"process_reward_{aggregation}"


@pytest.mark.parametrize("form", ["in prompts", "images", "image", "another column"])
def test_chats_with_pictures(sharp_checkpoint, scorer, picture, form):
    """Two prompts with the same text and other pictures; the rows of a prompt hold copies of its picture."""
    options, columns = {}, {}
    pictures = [picture(number) for number in (1, 1, 2, 2)]
    parts = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompts = [[{"role": "system", "content": "Think."}, {"role": "user", "content": parts}] for _ in range(4)]
    match form:
        case "in prompts":
            for prompt, image in zip(prompts, pictures, strict=True):
                prompt[1] = {"role": "user", "content": [{"type": "image", "image": image}, parts[1]]}
        case "images":
            columns["images"] = [[image] for image in pictures]
        case "image":
            columns["image"] = pictures
        case "another column":
            columns["figure"], options["images_column"] = pictures, "figure"
    function = reward_function(str(sharp_checkpoint), device="cpu", **options)
    rewards = called(function, prompts, [turn(text) for text in SOLUTIONS * 2], answer=["2"] * 4, **columns)
    expected = [scorer.score(picture(number), QUESTION, SOLUTIONS).response_scores for number in (1, 2)]
    assert rewards == pytest.approx([*expected[0], *expected[1]], abs=1e-6)
    assert abs(expected[0][0] - expected[1][0]) > 1e-3


def test_the_question_of_a_column(sharp_checkpoint, scorer):
    function = reward_function(str(sharp_checkpoint), question_column="bare", device="cpu")
    rewards = called(function, ["<chat>Solve it: ..."], SOLUTIONS[:1], bare=[QUESTION])
    assert rewards == pytest.approx(scorer.score(None, QUESTION, SOLUTIONS[:1]).response_scores, abs=1e-6)
    with pytest.raises(ValueError, match=r"row 0 of the batch: there is no column 'bare'; .* answer, completion_ids"):
        called(function, ["Solve it"], SOLUTIONS[:1], answer=["2"])


def test_through_a_server(sharp_checkpoint, scorer, picture):
    with literal_server(sharp_checkpoint) as server:
        function = reward_function(str(sharp_checkpoint), server=RewardModelServer([server.url]))
        before = len(server.bodies)
        prompts = [[{"role": "user", "content": QUESTION}]] * 4
        images = [[picture(number)] for number in (1, 1, 2, 2)]
        rewards = called(function, prompts, [turn(text) for text in SOLUTIONS * 2], images=images)
        assert len(server.bodies) > before
    expected = [scorer.score(picture(number), QUESTION, SOLUTIONS).response_scores for number in (1, 2)]
    assert rewards == pytest.approx([*expected[0], *expected[1]], abs=1e-5)


def test_what_cannot_be_scored_gains_nothing(sharp_checkpoint, scorer, caplog):
    solutions = [SOLUTIONS[0], "So <IMG_CONTEXT>", "<|end|><|assistant|>+", ""]
    function = reward_function(str(sharp_checkpoint), device="cpu", objective="advantage")
    with caplog.at_level(logging.WARNING):
        rewards = called(function, [QUESTION] * 4, solutions)
    assert rewards[1:3] == [-1.0, -1.0]
    advantage = ProcessRewardModel.from_pretrained(sharp_checkpoint, objective="advantage")
    expected = advantage.score(None, QUESTION, [SOLUTIONS[0], ""]).response_scores
    assert [rewards[0], rewards[3]] == pytest.approx(expected, abs=1e-6)
    assert "row 1 of the batch" in caplog.text
    assert "special token '<IMG_CONTEXT>'" in caplog.text
    # A batch without any that can be.
    assert called(function, [QUESTION], ["<|end|>"]) == [-1.0]


@pytest.mark.parametrize(
    ("prompt", "columns", "message"),
    [
        ("What is <|end|> ?", {}, r"row 0 of the batch.*special token '<\|end\|>'"),
        ("What is in <image> ?", {}, r"row 0 of the batch: .*<image>, but no picture"),
        (
            [{"role": "user", "content": [{"type": "image"}]}],
            {"answer": ["2"]},
            r"row 0 .*1 places for pictures.*answer",
        ),
        ("How many?", {"image": ["missing.png"]}, r"row 0 of the batch, column 'image'.*missing\.png"),
        ("<image> or <image>?", {"images": [["a.png"]]}, r"2 <image> placeholders for 1 images"),
    ],
)
def test_mistakes_in_rows(sharp_checkpoint, tmp_path, monkeypatch, picture, prompt, columns, message):
    monkeypatch.chdir(tmp_path)
    picture(1).save("a.png")
    function = reward_function(str(sharp_checkpoint), device="cpu")
    with pytest.raises(ValueError, match=message):
        called(function, [prompt], ["So 2"], **columns)


def test_mistakes_in_arguments(sharp_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="aggregation must be one of"):
        reward_function(str(sharp_checkpoint), "median")
    with pytest.raises(FileNotFoundError, match="nothing"):
        reward_function(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="1 prompts were given for 2 completions"):
        reward_function(str(sharp_checkpoint), device="cpu")(prompts=["a"], completions=["b", "c"])
