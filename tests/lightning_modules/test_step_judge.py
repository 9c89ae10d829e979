"""A judge that follows a rule, behind the real prompts, and the real model in its place."""

import json

import pytest

from datamodules.policy.prompts import ChatRenderer, Prompt, PromptCollator
from lightning_modules.generation.batches import serve_in_batches
from lightning_modules.generation.engine import GeneratedText
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.step_judge import StepJudge, read_verdict


class Rule:
    """Says yes to a step with an even number of letters; of three votes one is the opposite. Mumbles at {x}."""

    needs_all_ranks = False

    def __init__(self):
        self.asked = []

    def attach(self, model, processor):
        pass

    def sample(self, requests, parameters):
        self.asked += requests
        return [[self.answer(request, n) for n in range(len(request.sample_keys))] for request in requests]

    def serve(self, source, parameters):
        serve_in_batches(self, source, parameters, 8)

    def answer(self, request, number):
        text = request.messages[-1]["content"][-1]["text"]
        step = text.split("### Next step\n")[1].split("\n\nIs the")[0]
        says = "who knows" if "{x}" in step else "yes" if (len(step) % 2 == 0) != (number == 1) else "no"
        return GeneratedText(f"Let me see. So {says}.", "stop", 10, 5)


SOLUTIONS = {"a": ["even\n\nodd\n\n{step} {x}", "even\n\nlast"], "b": ["odd"]}


@pytest.fixture
def given(tmp_path):
    rows = [
        {"id": f"{name}/{n}", "response": text} for name, texts in SOLUTIONS.items() for n, text in enumerate(texts)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompts_for(judge, picture):
    prompts = [
        Prompt(
            "a", "Is <image> large?", ("1.png",), "2", "s", lambda: [picture(1)], None, text="Is <image> large? Think."
        ),
        Prompt("b", "How many?", (), "2", "s", list, None),
    ]
    return PromptCollator(ChatRenderer(judge.processor, "Be brief."))(prompts)


@pytest.mark.parametrize("votes", [1, 3])
def test_every_step_is_judged_once(sharp_checkpoint, given, picture, votes):
    judge = StepJudge(str(sharp_checkpoint), given, num_votes=votes, engine=Rule())
    found = dict(judge.predict_step(prompts_for(judge, picture), 0))
    assert [row["id"] for row in found["a"] + found["b"]] == ["a/0", "a/1", "b/0"]
    none = {"num_mc_correct": 0, "num_mc_total": 0}
    assert found["a"][0]["steps_with_score"] == [
        {"step": "even", "score": 1.0},
        {"step": "odd", "score": 0.0},
        {"step": "{step} {x}", "score": 0.0, **none},
    ]
    assert [step["score"] for step in found["a"][1]["steps_with_score"]] == [1.0, 1.0]
    assert [step["score"] for step in found["b"][0]["steps_with_score"]] == [0.0]
    # "even" begins both solutions of the first question.
    assert len(judge.engine.asked) == 5
    system, user = judge.engine.asked[2].messages
    assert system["content"][0]["text"] == "Be brief."
    assert [part["type"] for part in user["content"]] == ["text", "image", "text"]
    assert "### Beginning\neven\n\nodd\n\n### Next step\n{step} {x}\n\nIs the next step" in user["content"][-1]["text"]
    assert judge.prediction_costs["a"]["continuations"] == 4 * votes


def test_two_votes_that_differ_are_no_verdict(sharp_checkpoint, given, picture):
    judge = StepJudge(str(sharp_checkpoint), given, num_votes=2, engine=Rule())
    rows = [row for _, of_prompt in judge.predict_step(prompts_for(judge, picture), 0) for row in of_prompt]
    assert all(step["num_mc_total"] == 0 for row in rows for step in row["steps_with_score"])


def test_the_model_in_this_process_judges(sharp_checkpoint, given, picture):
    sampling = SamplingParameters(temperature=0, max_new_tokens=4)
    judge = StepJudge(str(sharp_checkpoint), given, sampling=sampling).eval()
    found = dict(judge.predict_step(prompts_for(judge, picture), 0))
    assert [len(row["steps_with_score"]) for row in found["a"] + found["b"]] == [3, 2, 1]
    assert judge.prediction_costs["a"]["completion_tokens"] >= 4


@pytest.mark.parametrize(
    ("text", "verdict"), [("Yes", True), ("no, or: YES.", True), ("Nothing", None), ("yes... no", False), ("", None)]
)
def test_verdicts(text, verdict):
    assert read_verdict(text) is verdict


@pytest.mark.parametrize(
    ("options", "message"),
    [({"request": "right? {step}"}, "must hold {before} and {step}"), ({"num_votes": 0}, "num_votes")],
)
def test_what_is_no_judge(sharp_checkpoint, given, options, message):
    with pytest.raises(ValueError, match=message):
        StepJudge(str(sharp_checkpoint), given, **options)
