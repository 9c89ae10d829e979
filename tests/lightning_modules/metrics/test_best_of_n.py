import dataclasses
import json
import random

import numpy as np
import pytest

from lightning_modules.metrics.best_of_n import ALL_QUESTIONS, OVERALL, best_of_n_report
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.selection.methods import method_accuracies
from lightning_modules.metrics.selection.pool import candidate_pool


def question(benchmark, number, right, scores=None, classes=None, outcome=None):
    scores = scores or [0.5] * len(right)
    classes = classes or [0 if grade else 1 + index for index, grade in enumerate(right)]
    return QuestionCandidates(
        benchmark, str(number), [[score] for score in scores], [bool(grade) for grade in right], classes, outcome
    )


def random_questions(benchmark, count, seed, candidates=4, outcome=False):
    rng = random.Random(seed)
    return [
        question(
            benchmark,
            number,
            [rng.random() < 0.5 for _ in range(candidates)],
            [rng.random() for _ in range(candidates)],
            [rng.randrange(-1, 3) for _ in range(candidates)],
            [rng.random() for _ in range(candidates)] if outcome else None,
        )
        for number in range(count)
    ]


def every_question(correct):
    return correct


def pairs_both_right(correct):
    """Units of two neighbouring questions: right if both are."""
    return correct[0::2] * correct[1::2]


def test_worked_example_with_units():
    candidates = {
        "flat": [
            question("flat", 0, [0, 1], [0.1, 0.9]),
            question("flat", 1, [1, 0], [0.1, 0.9]),
            question("flat", 2, [1, 1]),
            question("flat", 3, [0, 0], classes=[-1, -1]),
        ],
        "paired": [
            question("paired", 0, [0, 1], [0.1, 0.9]),
            question("paired", 1, [1, 1]),
            question("paired", 2, [0, 1], [0.9, 0.1], classes=[-1, 0]),
            question("paired", 3, [1, 1]),
        ],
    }
    scorers = {"flat": every_question, "paired": pairs_both_right}
    report = best_of_n_report(candidates, scorers, ns=(2, 1), aggregations=("mean",), resamples=20)
    value = {key: estimate.value for key, estimate in report.accuracies.items()}
    assert report.ns == (1, 2)
    assert value["flat", "prm_mean", 2] == 2 / 4
    assert value["paired", "prm_mean", 2] == 1 / 2
    assert value[OVERALL, "prm_mean", 2] == 1 / 2
    assert value[ALL_QUESTIONS, "prm_mean", 2] == 5 / 8
    # Expected accuracies multiply inside a unit: 0.5 * 1 for both units.
    assert value["paired", "pass_at_1", 1] == value["paired", "random_choice", 2] == 0.5
    assert value["paired", "pass_at_n", 2] == 1
    assert value["paired", "self_consistency", 2] == 1 / 2
    assert report.differences["paired", "prm_mean", "self_consistency", 2].value == 0
    assert report.differences[ALL_QUESTIONS, "self_consistency", "pass_at_1", 2].value == 5 / 8 - 5 / 8
    assert report.coverage["paired"].units == 2
    assert report.coverage["paired"].questions == 4
    everything = report.coverage[ALL_QUESTIONS]
    assert (everything.candidates, everything.unparsed_candidates, everything.unparsed_questions) == (16, 3, 1)
    assert everything.unparsed_share == 3 / 16


def test_intervals_against_a_slow_bootstrap():
    """Drawing whole questions again and running the methods on them gives the same distribution."""
    questions = random_questions("b", 30, seed=3)
    report = best_of_n_report({"b": questions}, {"b": every_question}, ns=(4,), aggregations=("mean",), resamples=4000)
    rng = np.random.default_rng(11)
    samples = []
    for _ in range(1500):
        drawn = [questions[index] for index in rng.integers(0, 30, 30)]
        samples.append(method_accuracies(candidate_pool(drawn, 4, ["mean"]), [4]).mean(axis=0)[0])
    slow = np.array(samples)
    names = report.methods
    for column, name in enumerate(names):
        estimate = report.accuracies["b", name, 4]
        assert (estimate.low, estimate.high) == pytest.approx(np.quantile(slow[:, column], [0.025, 0.975]), abs=0.04)
    difference = slow[:, names.index("prm_mean")] - slow[:, names.index("self_consistency")]
    estimate = report.differences["b", "prm_mean", "self_consistency", 4]
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(difference, [0.025, 0.975]), abs=0.04)


def test_overall_is_stratified():
    """Benchmarks that are each certain leave nothing to chance overall, however different they are."""
    candidates = {
        "easy": [question("easy", number, [1, 1]) for number in range(3)],
        "hard": [question("hard", number, [0, 0]) for number in range(9)],
    }
    report = best_of_n_report(candidates, dict.fromkeys(candidates, every_question), ns=(2,), resamples=50)
    overall = report.accuracies[OVERALL, "prm_mean", 2]
    assert (overall.low, overall.value, overall.high) == (0.5, 0.5, 0.5)
    pooled = report.accuracies[ALL_QUESTIONS, "prm_mean", 2]
    assert (pooled.low, pooled.value, pooled.high) == (0.25, 0.25, 0.25)


def test_a_benchmark_keeps_its_interval_when_others_join():
    first, second = random_questions("a", 12, 0), random_questions("b", 9, 1)
    scorers = {"a": every_question, "b": every_question}
    alone = best_of_n_report({"a": first}, scorers, ns=(4,), resamples=100)
    joined = best_of_n_report({"b": second, "a": first}, scorers, ns=(4,), resamples=100)
    assert alone.accuracies["a", "prm_min", 4] == joined.accuracies["a", "prm_min", 4]
    assert joined == best_of_n_report({"b": second, "a": first}, scorers, ns=(4,), resamples=100)
    other_seed = best_of_n_report({"b": second, "a": first}, scorers, ns=(4,), resamples=100, seed=1)
    assert joined.accuracies != other_seed.accuracies


def test_outcome_comparison_only_with_outcome_scores():
    without = best_of_n_report({"b": random_questions("b", 5, 0)}, {"b": every_question}, ns=(4,), resamples=10)
    candidates = {"b": random_questions("b", 5, 0, outcome=True)}
    given = best_of_n_report(candidates, {"b": every_question}, ns=(4,), aggregations=("min", "mean"), resamples=10)
    assert "outcome" not in without.methods
    assert ("prm_min", "outcome") in given.comparisons
    assert given.primary == "prm_min"
    of_judge = [dataclasses.replace(entry, critic_scores={"judge": [0.5] * 4}) for entry in candidates["b"]]
    judged = best_of_n_report({"b": of_judge}, {"b": every_question}, ns=(4,), resamples=10)
    assert ("prm_mean", "critic_judge") in judged.comparisons
    for better, other in judged.comparisons:
        assert {better, other} <= set(judged.methods)


def test_dictionary_is_json_and_holds_every_number():
    report = best_of_n_report({"b": random_questions("b", 5, 0)}, {"b": every_question}, ns=(1, 4), resamples=10)
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    for (column, method, n), estimate in report.accuracies.items():
        assert stored["accuracies"][column][method][str(n)] == {
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
        }
    for (column, better, other, n), estimate in report.differences.items():
        assert stored["differences"][column][f"{better} - {other}"][str(n)]["value"] == estimate.value
    assert stored["bootstrap"] == {"resamples": 10, "seed": 0, "confidence": 0.95}
    assert stored["coverage"]["b"]["questions"] == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": {}}, "no questions of any benchmark"),
        ({"candidates": {"b": []}}, "no questions of b"),
        ({"ns": (0, 1)}, r"got \[0, 1\]"),
        ({"ns": (2, 2)}, "different positive"),
        ({"aggregations": ()}, "at least one"),
        ({"resamples": 0}, "at least one unit and one resample"),
        ({"unit_scorers": {"b": lambda correct: correct[:, 0]}}, r"expected unit scores of shape \(U,"),
        ({"unit_scorers": {"b": lambda correct: correct * 2}}, r"b: unit scores must be in \[0, 1\]"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    arguments = {
        "candidates": {"b": random_questions("b", 3, 0)},
        "unit_scorers": {"b": every_question},
        "ns": (1, 4),
        "resamples": 10,
    }
    with pytest.raises(ValueError, match=message):
        best_of_n_report(**arguments | changes)


def test_outcome_scores_of_one_benchmark_only_are_refused():
    candidates = {"a": random_questions("a", 3, 0), "b": random_questions("b", 3, 0, outcome=True)}
    with pytest.raises(ValueError, match="for all questions of all benchmarks or for none"):
        best_of_n_report(candidates, dict.fromkeys(candidates, every_question), ns=(1,))


def test_overall_of_some_benchmarks():
    candidates = {name: random_questions(name, 6, seed) for seed, name in enumerate(("MMMU", "WeMath", "GSM8K"))}
    scorers = dict.fromkeys(candidates, every_question)
    report = best_of_n_report(candidates, scorers, (1, 4), ("mean",), 20, overall=["MMMU", "WeMath"])
    values = [report.accuracies[name, "prm_mean", 4].value for name in ("MMMU", "WeMath")]
    assert report.accuracies[OVERALL, "prm_mean", 4].value == pytest.approx(sum(values) / 2)
    assert report.to_dict()["overall_of"] == ["MMMU", "WeMath"]
    pooled = [report.accuracies[name, "prm_mean", 4].value for name in candidates]
    assert report.accuracies[ALL_QUESTIONS, "prm_mean", 4].value == pytest.approx(sum(pooled) / 3)
    for wrong in ([], ["Math"]):
        with pytest.raises(ValueError, match="overall must be some of MMMU, WeMath, GSM8K, got"):
            best_of_n_report(candidates, scorers, (1,), ("mean",), 2, overall=wrong)
