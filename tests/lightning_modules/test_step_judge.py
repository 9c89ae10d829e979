"""A judge that follows a rule, behind the real prompts, and the real model in its place."""

import math

import pytest
import torch
from rule_engine import RuleEngine

from datamodules.policy.chat import ChatRenderer
from datamodules.policy.process_bench_prompts import process_bench_prompts
from datamodules.policy.prompt_batches import PromptCollator
from datamodules.policy.prompts import Prompt
from lightning_modules.generation.engine import GeneratedText
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.step_judge import StepJudge, read_verdict


class Rule(RuleEngine):
    """Says yes to a step with an even number of letters; of three votes one is the opposite. Mumbles at {x}."""

    def answer(self, request, number):
        step = self.question(request).split("### Next step\n")[1].split("\n\nIs the")[0]
        says = "who knows" if "{x}" in step else "yes" if (len(step) % 2 == 0) != (number == 1) else "no"
        return GeneratedText(f"Let me see. So {says}.", "stop", 10, 5)


SOLUTIONS = {"a": ["even\n\nodd\n\n{step} {x}", "even\n\nlast"], "b": ["odd"]}


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


class Sure(Rule):
    """Tells, too, how likely yes is: e to the number of letters before it, against 1 for no."""

    def option_logprobs(self, groups, options):
        assert options == (("yes", "Yes", "YES"), ("no", "No", "NO"))
        self.followed = [[request.partial_response for request in group] for group in groups]
        step = "### Next step\n"
        letters = [[self.question(r).split(step)[1].index("\n") for r in g] for g in groups]
        return [[torch.tensor([n / 10 - 0.45, 0.0]) for n in of_group] for of_group in letters]

    def response_logprobs(self, groups, cut_at=None):
        raise NotImplementedError


def test_the_probability_of_the_verdict_is_the_score(sharp_checkpoint, given, picture):
    judge = StepJudge(str(sharp_checkpoint), given, engine=Sure(), score="probability")
    found = dict(judge.predict_step(prompts_for(judge, picture), 0))
    # "even" has 4 letters, "odd" 3, "last" 4: exp(x) against 1 with x = 4 / 10 - 0.45 and 3 / 10 - 0.45.
    four, three = 1 / (1 + math.exp(0.05)), 1 / (1 + math.exp(0.15))
    steps = found["a"][0]["steps_with_score"]
    assert [step["score"] for step in steps] == pytest.approx([four, three, 0.0])
    # No verdict is written for the third step, so that there is no probability either.
    assert [step.get("is_right") for step in steps] == [False, False, None]
    assert steps[2]["num_mc_total"] == 0
    assert found["b"][0]["steps_with_score"][0]["score"] == pytest.approx(three)
    # Asked where the verdict stands, by question.
    assert judge.engine.followed == [["Let me see. So "] * 3, ["Let me see. So "]]
    assert judge.prediction_settings["score"] == "probability"
    assert "score" not in StepJudge(str(sharp_checkpoint), given, engine=Sure()).prediction_settings


def test_probabilities_need_an_engine_that_tells_them(sharp_checkpoint, given):
    with pytest.raises(ValueError, match="score: probability needs an engine"):
        StepJudge(str(sharp_checkpoint), given, engine=Rule(), score="probability")


def test_the_model_in_this_process_tells_probabilities(sharp_checkpoint, given, picture, monkeypatch):
    # A random model writes no verdicts, so what it has written is taken for one.
    monkeypatch.setattr("lightning_modules.step_judge.text_before_verdict", lambda text: "")
    monkeypatch.setattr("lightning_modules.step_judge._OPTIONS", (("3",), ("7",)))
    sampling = SamplingParameters(temperature=0, max_new_tokens=2)
    judge = StepJudge(str(sharp_checkpoint), given, sampling=sampling, score="probability").eval()
    found = dict(judge.predict_step(prompts_for(judge, picture), 0))
    scores = [step["score"] for row in found["a"] + found["b"] for step in row["steps_with_score"]]
    assert all(0 < score < 1 for score in scores)
    assert len(set(scores)) >= 4


def test_solutions_of_visual_process_bench_are_judged_as_they_are(sharp_checkpoint, tmp_path, write_lines):
    row = {
        "question": "How many?",
        "response": {"steps": ["even", "two\n\nparts", "odd"], "process_correctness": [1, -1, 1]},
        "policy_model": "p",
        "data_source": "MMMU",
    }
    write_lines(tmp_path / "bench/test.jsonl", [row])
    prompts = process_bench_prompts(tmp_path / "bench")
    judge = StepJudge(str(sharp_checkpoint), engine=Rule())
    (found,) = judge.predict_step(PromptCollator(ChatRenderer(judge.processor))(prompts), 0)
    assert (found[0], found[1][0]["id"], found[1][0]["source"]) == (
        "VisualProcessBench/1",
        "VisualProcessBench/1/0",
        "MMMU",
    )
    assert [(step["step"], step["score"]) for step in found[1][0]["steps_with_score"]] == [
        ("even", 1.0),
        ("two\n\nparts", 1.0),
        ("odd", 0.0),
    ]
    batch = PromptCollator(ChatRenderer(judge.processor))([Prompt("b", "How many?", (), "2", "s", list, None)])
    with pytest.raises(ValueError, match="b: the prompt comes without solutions to judge; give solutions_from"):
        judge.predict_step(batch, 0)


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
