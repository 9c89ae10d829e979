"""A window against an arithmetic policy: whether continuation k of a prefix is right is known beforehand."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.benchmarks.base import Grade
from datamodules.policy.prompt_batches import PromptBatch
from datamodules.policy.prompts import Prompt
from lightning_modules.generation.engine import GeneratedText
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.monte_carlo.plan import AnnotationPlan
from lightning_modules.monte_carlo.rows import rows_of
from lightning_modules.monte_carlo.window import AnnotationWindow

COLD, WARM = SamplingParameters(temperature=0.5, max_new_tokens=9), SamplingParameters(temperature=2, max_new_tokens=9)
K = 8


def number(*parts):
    """A number in [0, 1) of some texts."""
    return int.from_bytes(hashlib.blake2b("|".join(parts).encode(), digest_size=4).digest(), "big") / 2**32


def solution(prompt_id, index):
    """Up to 6 steps; the first ones are shared by many solutions."""
    draw = [number(prompt_id, str(index), str(place)) for place in range(8)]
    steps = [f"step {place} is {int(draw[place] * 2)}" for place in range(1 + int(draw[6] * 6))]
    return "\n\n".join([*steps[:-1], f"{steps[-1]} ok" if draw[7] < 0.4 else steps[-1]])


def continuation(prompt_id, prefix, k):
    """Right with a probability of the prefix's own; some are cut or say nothing."""
    rate = number(prompt_id, prefix) ** 2
    kind = number(prompt_id, prefix, str(k), "kind")
    if number(prompt_id, prefix, str(k)) < rate:
        return "ok"
    return "cut" if kind < 0.1 else "mumble" if kind < 0.2 else "no"


def grade(response):
    return Grade(response.endswith("ok"), None if response.endswith("mumble") else response[-2:], "test")


class Policy:
    """Takes requests in portions, and answers them in any order; checks what it is asked."""

    def __init__(self, seed, at_once):
        self.random, self.at_once = random.Random(seed), at_once
        self.asked = []

    def serve(self, window):
        waiting, running = [], 0
        while True:
            room = max(0, self.at_once - running)
            taken = window.take(self.random.randint(1, room)) if room > 0 else []
            size = sum(len(request.sample_keys) for request in taken)
            assert size <= room or (len(taken) == 1 and not waiting)
            waiting += taken
            running += size
            if not waiting:
                if not window.take(self.at_once):
                    return
                raise AssertionError("a window that had nothing to ask has")
            if taken and self.random.random() < 0.7:
                continue
            request = waiting.pop(self.random.randrange(len(waiting)))
            running -= len(request.sample_keys)
            window.receive(request, [self.answer(request, key) for key in request.sample_keys])

    def answer(self, request, key):
        self.asked.append(key)
        prompt_id = request.messages[0]["id"]
        if request.parameters is WARM:
            head, _, index = key.rpartition("/")
            assert head == f"{prompt_id}/solution"
            assert not request.partial_response
            text = solution(prompt_id, index)
        else:
            prefix = request.partial_response
            assert key.startswith(f"{prompt_id}/{prefix}/")
            text = continuation(prompt_id, prefix, key.rpartition("/")[2])
        return GeneratedText(text, "length" if text == "cut" else "stop", 10, len(text))


def annotate(seed=0, at_once=64, num_prompts=4, given=None, left_out=(), **options):
    plan = AnnotationPlan(3, K, COLD, WARM, **options)
    names = [f"prompt-{n}" for n in range(num_prompts)]
    prompts = [Prompt(name, "How many?", (), "2", "somewhere", list, grade) for name in names]
    messages = [[{"id": name}] for name in names]
    batch = PromptBatch(prompts, [[] for _ in names], messages, dict.fromkeys(left_out, "broken"))
    window, policy = AnnotationWindow(batch, plan, given=given), Policy(seed, at_once)
    policy.serve(window)
    rows = [rows_of(p, s, plan, "bare") for p, s in zip(prompts, window.solutions, strict=True)]
    return rows, policy, window


def expected_rate(prompt_id, steps, step):
    """Outcomes of all K continuations of a step, or of the finished solution."""
    if step == len(steps):
        return ["ok" if steps[-1].endswith("ok") else "no"]
    prefix = "\n\n".join(steps[:step]) + "\n\n"
    return [continuation(prompt_id, prefix, k) for k in range(K)]


RULES = [{"stopping": "all"}, {"stopping": "first_success"}, {"stopping": "confident"}, {"early_stop": True}]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 100), st.sampled_from(RULES))
def test_rows_depend_on_neither_room_nor_order(seed, at_once, options):
    rows, _, window = annotate(seed, at_once, **options)
    assert rows == annotate(1, 10**4, **options)[0]
    assert window.take(100) == []


def test_scores_are_those_of_the_policy():
    rows, policy, window = annotate()
    seen, prefixes = set(), set()
    for of_prompt, name in zip(rows, (f"prompt-{n}" for n in range(4)), strict=True):
        assert [row["id"] for row in of_prompt] == [f"{name}/{n}" for n in range(3)]
        for index, row in enumerate(of_prompt):
            steps = solution(name, str(index)).split("\n\n")
            assert row["response"] == "\n\n".join(steps)
            for step, scored in enumerate(row["steps_with_score"], start=1):
                outcomes = expected_rate(name, steps, step)
                assert scored["step"] == steps[step - 1]
                assert scored["num_mc_correct"] == outcomes.count("ok")
                assert scored["num_mc_total"] == len(outcomes)
                assert scored.get("num_mc_cut", 0) == outcomes.count("cut")
                assert scored.get("num_mc_unparsed", 0) == outcomes.count("mumble")
                seen |= set(scored)
                if step < len(steps):
                    prefixes.add((name, *steps[:step]))
            assert "question_accuracy" not in row  # solutions are warmer
    assert seen >= {"num_mc_cut", "num_mc_unparsed"}, "no step has such continuations"
    assert len(policy.asked) == len(set(policy.asked)) == 4 * 3 + K * len(prefixes)
    assert sum(costs.continuations for costs in window.costs) == K * len(prefixes)
    assert sum(costs.solutions for costs in window.costs) == 12
    assert sum(costs.requests for costs in window.costs) == 4 + len(prefixes)
    assert sum(costs.surplus for costs in window.costs) == 0


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_labels_of_first_success_are_those_of_all(at_once):
    everything, _, whole = annotate(num_prompts=30)
    rows, _, window = annotate(5, at_once, num_prompts=30, stopping="first_success")
    labels = set()
    for of_prompt, found in zip(everything, rows, strict=True):
        for row, other in zip(of_prompt, found, strict=True):
            assert other["num_mc_stopping"] == "first_success"
            steps = [step["step"] for step in row["steps_with_score"]]
            for number, (step, stopped) in enumerate(
                zip(row["steps_with_score"], other["steps_with_score"], strict=True), start=1
            ):
                assert (stopped["score"] > 0) == (step["score"] > 0)
                labels.add(step["score"] > 0)
                outcomes = expected_rate(row["id"].partition("/")[0], steps, number)
                first = outcomes.index("ok") + 1 if "ok" in outcomes else len(outcomes)
                assert stopped["num_mc_total"] == first
                assert stopped["num_mc_correct"] == int("ok" in outcomes)
    assert labels == {True, False}
    drawn, counted, all_drawn = (sum(costs.continuations for costs in each.costs) for each in (window, window, whole))
    counted -= sum(costs.surplus for costs in window.costs)
    assert counted < 0.6 * all_drawn
    if at_once == 1:
        assert drawn == counted  # one by one, since nothing is idle


def test_early_stop_draws_nothing_behind_a_wrong_step():
    everything, stopped = annotate()[0], annotate(early_stop=True)[0]
    stops = 0
    for row, other in ((r, o) for a, b in zip(everything, stopped, strict=True) for r, o in zip(a, b, strict=True)):
        is_over = False
        for step, found in zip(row["steps_with_score"], other["steps_with_score"], strict=True):
            if is_over:
                stops += 1
                assert (found["num_mc_correct"], found["num_mc_total"], found["score"]) == (0, 0, 0.0)
            else:
                assert found == step
            is_over = is_over or step["score"] == 0
    assert stops


def test_binary_search_scores_few_steps_and_infers_the_others():
    everything, whole = annotate(num_prompts=20)[::2]
    halved, window = annotate(num_prompts=20, search="binary")[::2]
    inferred = 0
    for row, other in ((r, o) for a, b in zip(everything, halved, strict=True) for r, o in zip(a, b, strict=True)):
        found = other["steps_with_score"]
        scores = [step["score"] > 0 for step in found]
        wrong = scores.index(False) if False in scores else len(scores)
        # Right up to a step that was found wrong, unless a later one was seen to be right.
        assert all(scores[:wrong])
        for step, truth in zip(found, row["steps_with_score"], strict=True):
            if step.get("is_inferred"):
                inferred += 1
                assert "num_mc_total" not in step
                assert step["score"] in (0.0, 1.0)
            else:
                assert step == truth
        if row["steps_with_score"][-1]["score"] > 0:
            assert all(scores)
            assert all(step.get("is_inferred") for step in found[:-1])
    assert inferred
    drawn = [sum(costs.continuations for costs in each.costs) for each in (window, whole)]
    assert drawn[0] < drawn[1] / 2


def test_given_solutions_are_scored_and_none_is_sampled():
    texts = {"prompt-0": ["one\n\ntwo ok", "one\n\nthree"], "prompt-2": ["four"]}
    rows, policy, window = annotate(given=texts)
    assert [[row["response"] for row in of_prompt] for of_prompt in rows] == [texts["prompt-0"], [], ["four"], []]
    assert sum(costs.solutions for costs in window.costs) == 0
    assert sorted(policy.asked) == sorted(f"prompt-0/one\n\n/{k}" for k in range(K))


def test_prompts_that_are_left_out_are_not_asked():
    rows, policy, _ = annotate(left_out=["prompt-1"])
    assert rows[1] == []
    assert all(rows[:1] + rows[2:])
    assert not any(key.startswith("prompt-1/") for key in policy.asked)
