import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples
from sklearn.metrics import accuracy_score, f1_score

from lightning_modules.metrics.step_overall import METRICS, step_overall
from lightning_modules.metrics.step_overall_table import first_wrong_table, threshold_table
from lightning_modules.metrics.step_report import ScoredSolution, step_report
from lightning_modules.metrics.step_threshold import StepThreshold

HALF = StepThreshold(0.5)

WORKED = [
    # First wrong step at 2 and found there.
    ScoredSolution("a", "MMMU", [0.9, 0.6, 0.1], [1, 1, -1]),
    # At 2; step 1 is judged wrong, one away.
    ScoredSolution("b", "MMMU", [0.9, 0.2, 0.1], [1, 1, -1]),
    # At 3; step 0 is judged wrong, three away.
    ScoredSolution("c", "MMMU", [0.1, 0.9, 0.9, 0.1], [1, 1, 1, -1]),
    # At 1; the neutral step 0 is passed over, though its score is low.
    ScoredSolution("d", "WeMath", [0.1, 0.2], [0, -1]),
    # At 0; no step is judged wrong.
    ScoredSolution("e", "WeMath", [0.8], [-1]),
    # Right and judged right; right and judged wrong.
    ScoredSolution("f", "WeMath", [0.8, 0.9], [1, 1]),
    ScoredSolution("g", "WeMath", [0.8, 0.3], [1, 1]),
]


def test_worked_example():
    overall = step_overall(WORKED, HALF)
    # MMMU finds 1 of 3 exactly and 2 within one; WeMath 1 of 2.
    assert overall.sources["MMMU"]["first_wrong_exact"] == pytest.approx(1 / 3)
    assert overall.sources["MMMU"]["first_wrong_within_one"] == pytest.approx(2 / 3)
    assert overall.sources["WeMath"]["first_wrong_exact"] == pytest.approx(1 / 2)
    assert overall.pooled["first_wrong_exact"].value == pytest.approx(2 / 5)
    assert overall.pooled["first_wrong_within_one"].value == pytest.approx(3 / 5)
    assert overall.mean_of_sources["first_wrong_exact"].value == pytest.approx((1 / 3 + 1 / 2) / 2)
    # Solutions: a, b, c, d wrong and judged wrong, e wrong and passed, f right, g right and judged wrong.
    assert overall.pooled["response_accuracy"].value == pytest.approx(5 / 7)
    assert overall.pooled["response_macro_f1"].value == pytest.approx((2 * 4 / (8 + 2) + 2 * 1 / (2 + 2)) / 2)
    assert overall.sources["MMMU"]["response_accuracy"] == 1
    assert (overall.steps, overall.solutions, overall.wrong_solutions) == (
        {"MMMU": 10, "WeMath": 6},
        {"MMMU": 3, "WeMath": 4},
        {"MMMU": 3, "WeMath": 2},
    )


def reference(solutions, threshold):
    """The metrics of some solutions by scikit-learn and plain loops; None where undefined."""
    steps = [
        (label == 1, score >= threshold)
        for s in solutions
        for score, label in zip(s.scores, s.correctness, strict=True)
        if label
    ]
    truth, judged = [truth for truth, _ in steps], [judged for _, judged in steps]
    exact, near, whole = [], [], []
    for solution in solutions:
        places = [place for place, label in enumerate(solution.correctness) if label]
        wrong = [place for place in places if solution.correctness[place] == -1]
        found = [place for place in places if solution.scores[place] < threshold]
        whole.append((not wrong, not found))
        if wrong:
            exact.append(bool(found) and found[0] == wrong[0])
            near.append(bool(found) and abs(found[0] - wrong[0]) <= 1)

    def macro(truth, judged):
        return f1_score(truth, judged, labels=[True, False], average="macro", zero_division=0) if truth else 0.0

    return {
        "macro_f1": macro(truth, judged),
        "accuracy": accuracy_score(truth, judged) if truth else None,
        "first_wrong_exact": np.mean(exact) if exact else None,
        "first_wrong_within_one": np.mean(near) if near else None,
        "response_macro_f1": macro(*map(list, zip(*whole, strict=True))),
        "response_accuracy": accuracy_score(*zip(*whole, strict=True)),
    }


STEPS = st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from([-1, 0, 1])), min_size=1, max_size=6)


@settings(deadline=None, max_examples=examples(100))
@given(st.lists(st.tuples(st.sampled_from(["x", "y", "z"]), STEPS), min_size=1, max_size=8))
def test_against_scikit_learn_and_loops(rows):
    solutions = [
        ScoredSolution(str(n), source, [score for score, _ in steps], [label for _, label in steps])
        for n, (source, steps) in enumerate(rows)
    ]
    overall = step_overall(solutions, HALF, resamples=10)
    expected = reference(solutions, 0.5)
    by_source = {name: reference([s for s in solutions if s.source == name], 0.5) for name in overall.sources}
    for metric, value in expected.items():
        assert (metric in overall.pooled) == (value is not None)
        if value is not None:
            assert overall.pooled[metric].value == pytest.approx(value)
        defined = [each[metric] for each in by_source.values() if each[metric] is not None]
        assert (metric in overall.mean_of_sources) == bool(defined)
        if defined:
            assert overall.mean_of_sources[metric].value == pytest.approx(np.mean(defined))
        for name, each in by_source.items():
            assert overall.sources[name][metric] == (None if each[metric] is None else pytest.approx(each[metric]))


def test_the_two_overalls_differ_where_sources_differ_in_size():
    easy = [ScoredSolution(f"e{n}", "large", [0.9, 0.1], [1, -1]) for n in range(30)]
    hard = [ScoredSolution(f"h{n}", "small", [0.1, 0.9], [1, -1]) for n in range(10)]
    overall = step_overall(easy + hard, HALF)
    assert overall.pooled["macro_f1"].value == pytest.approx(0.75)
    assert overall.mean_of_sources["macro_f1"].value == pytest.approx(0.5)


def test_intervals_against_a_bootstrap_with_loops():
    random = np.random.default_rng(1)
    solutions = [
        ScoredSolution(str(n), "xy"[n % 2], random.random(5).tolist(), random.choice([-1, 1], 5).tolist())
        for n in range(120)
    ]
    overall = step_overall(solutions, HALF, resamples=2000)
    other = np.random.default_rng(2)
    samples = []
    for _ in range(2000):
        drawn = []
        for name in "xy":
            own = [solution for solution in solutions if solution.source == name]
            drawn += [own[index] for index in other.integers(0, len(own), len(own))]
        judged = [(s.scores[i] >= 0.5, s.correctness[i] == 1) for s in drawn for i in range(5)]
        truth, found = np.array([t for _, t in judged]), np.array([j for j, _ in judged])
        f1 = [
            2 * (truth & found).sum() / (truth.sum() + found.sum()),
            2 * (~truth & ~found).sum() / ((~truth).sum() + (~found).sum()),
        ]
        samples.append(np.mean(f1))
    low, high = np.quantile(samples, [0.025, 0.975])
    estimate = overall.pooled["macro_f1"]
    # Both ends within a tenth of the width: four standard errors of a quantile of 2,000 draws.
    assert estimate.low == pytest.approx(low, abs=0.1 * (high - low))
    assert estimate.high == pytest.approx(high, abs=0.1 * (high - low))
    assert estimate.low < estimate.value < estimate.high
    assert step_overall(solutions, HALF, resamples=2000) == overall
    assert set(overall.pooled) == set(METRICS)


def test_thresholds_side_by_side():
    others = [StepThreshold(0.5), StepThreshold(0.7, "validation", "v.jsonl"), None]
    report = step_report(WORKED, HALF, others=others, resamples=20)
    assert [each.threshold.source for each in report.thresholds] == ["fixed", "validation", "oracle"]
    assert report.thresholds[0].pooled["macro_f1"].value == pytest.approx(report.overall.macro_f1)
    assert report.thresholds[2].pooled["macro_f1"].value == max(
        each.pooled["macro_f1"].value for each in report.thresholds
    )
    table = threshold_table(report.thresholds)
    assert [row[0].text for row in table.rows[:3]] == [
        "fixed 0.5, pooled",
        "fixed 0.5, mean of sources",
        "validation 0.7, pooled",
    ]
    assert table.rows[4][0].text.startswith("ORACLE 0.")
    assert "chosen on v.jsonl" in table.note
    assert "an upper bound and no result" in table.note
    assert table.rows[0][2].text.startswith("40.0 [")
    # An oracle needs both labels, and is left out without.
    single = step_report(WORKED[-2:], HALF, others=[None], resamples=20)
    assert len(single.thresholds) == 1


def test_first_wrong_steps_by_source():
    table = first_wrong_table(step_overall(WORKED, HALF, resamples=20))
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert list(rows) == ["MMMU", "WeMath", "Overall", "Mean of sources"]
    assert rows["MMMU"] == ["33.3", "66.7", "50.0", "100.0", "3", "3"]
    assert rows["Overall"][0] == "40.0"
    assert rows["Overall"][-2:] == ["5", "7"]
    right = first_wrong_table(step_overall(WORKED[-2:], HALF, resamples=20))
    assert [cell.text for cell in right.rows[0]][1:3] == ["-", "-"]
    oracle = first_wrong_table(step_overall(WORKED, StepThreshold(0.5, "oracle", "x"), resamples=20))
    assert "ORACLE" in oracle.title
