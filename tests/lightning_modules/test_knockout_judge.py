"""Brackets worked by hand, a judge that follows a rule behind the real prompts, and the real model in its place."""

import pytest
from rule_engine import RuleEngine

from datamodules.policy.chat import ChatRenderer
from datamodules.policy.prompt_batches import PromptCollator
from datamodules.policy.prompts import Prompt
from lightning_modules.generation.engine import GeneratedText
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.knockout_judge import Bracket, KnockoutJudge, read_choice

SOLUTIONS = {"a": ["bb", "a {second}", "dddd", "ccc", "bb"], "b": ["one"], "c": ["x", "yy", "?", "zzzz"]}


class Longest(RuleEngine):
    """Names the longer solution; a pair with "?" gets no answer, and one with "x" always the first place."""

    def answer(self, request, number):
        return GeneratedText(self.choice(self.question(request)), "stop", 10, 5)

    def choice(self, text):
        first, second = text.split("### Solution 1\n")[1].split("\n\nWhich one")[0].split("\n\n### Solution 2\n")
        if "?" in (first, second):
            return "I cannot tell."
        if "x" in (first, second):
            return "1"
        return f"The better one is {1 if len(first) > len(second) else 2}."


def batch_for(judge, picture, names="abc"):
    prompts = [Prompt(name, "Is <image> large?", (), "2", "s", lambda: [picture(1)], None) for name in names]
    return PromptCollator(ChatRenderer(judge.processor, "Be brief."))(prompts)


def test_a_bracket():
    bracket = Bracket("abcde", [0, 1, 2, 3, 4], [0] * 5)
    assert bracket.pairs == [(0, 1), (2, 3)]
    # Named in both orders; a judge that prefers the first place does not decide, so that the earlier one goes on.
    bracket.play([(2, 1), (1, 1)])
    assert (bracket.left, bracket.rounds, bracket.outcomes) == ([1, 2, 4], [0, 1, 1, 0, 1], {"agreed": 1, "tie": 1})
    # One answer cannot be read; then neither can.
    bracket.play([(None, 1)])
    assert bracket.left == [2, 4]
    bracket.play([(None, None)])
    assert (bracket.left, bracket.pairs) == ([2], [])
    assert bracket.scores() == [0, 1, 3, 0, 2]
    assert bracket.outcomes == {"agreed": 2, "tie": 1, "unparsed": 1}


def test_equal_solutions_take_part_once():
    bracket = Bracket.of(["x", "y", "x"], "0/a")
    assert sorted(bracket.left) == [0, 1]
    winner = bracket.left[0]
    bracket.play([(1, 2)])
    assert bracket.scores() == ([1, 0, 1] if winner == 0 else [0, 1, 0])
    assert Bracket.of([], "0/a").pairs == []
    orders = {tuple(Bracket.of("abcdef", f"{seed}/a").left) for seed in range(20)}
    assert len(orders) > 10


def test_the_best_of_a_bracket_wins(sharp_checkpoint, given, picture):
    judge = KnockoutJudge(str(sharp_checkpoint), given, engine=Longest())
    found = dict(judge.predict_step(batch_for(judge, picture), 0))
    won = {name: [row["scores"]["rounds_won"] for row in rows] for name, rows in found.items()}
    # Five solutions, of which two are equal: two rounds, and the longest one has won both.
    assert won["a"][1] == 2 == max(won["a"])
    assert won["a"][0] == won["a"][4]
    assert won["b"] == [0]
    assert found["a"][0]["meetings"] == {"agreed": 3}
    meetings = found["c"][0]["meetings"]
    assert sum(meetings.values()) == 3
    assert 1 <= meetings["unparsed"]
    system, user = judge.engine.asked[0].messages
    assert system["content"][0]["text"] == "Be brief."
    assert [part["type"] for part in user["content"]] == ["text", "image", "text"]
    assert judge.prediction_costs["a"]["requests"] == 6
    assert judge.prediction_costs["b"]["requests"] == 0
    # Alone it is the same.
    alone = KnockoutJudge(str(sharp_checkpoint), given, engine=Longest())
    assert dict(alone.predict_step(batch_for(alone, picture, "c"), 0))["c"] == found["c"]


def test_one_order_costs_half(sharp_checkpoint, given, picture):
    judge = KnockoutJudge(str(sharp_checkpoint), given, both_orders=False, engine=Longest())
    found = dict(judge.predict_step(batch_for(judge, picture, "a"), 0))
    assert judge.prediction_costs["a"]["requests"] == 3
    assert found["a"][1]["scores"]["rounds_won"] == 2


def test_the_model_in_this_process_judges(sharp_checkpoint, given, picture):
    sampling = SamplingParameters(temperature=0, max_new_tokens=3)
    judge = KnockoutJudge(str(sharp_checkpoint), given, sampling=sampling).eval()
    found = dict(judge.predict_step(batch_for(judge, picture), 0))
    assert max(row["scores"]["rounds_won"] for row in found["c"]) == 2


@pytest.mark.parametrize(
    ("text", "choice"),
    [("1", 1), ("Solution 2.", 2), ("2, or rather 1.", 1), ("12", None), ("It is 1.5", None), ("neither", None)],
)
def test_choices(text, choice):
    assert read_choice(text) == choice


def test_what_is_no_judge(sharp_checkpoint, given):
    with pytest.raises(ValueError, match=r"must hold \{first\} and \{second\}"):
        KnockoutJudge(str(sharp_checkpoint), given, request="better? {first}")
