"""Secondary metrics of the picked responses, worked out by hand."""

import json

import pytest

from lightning_modules.metrics.benchmark_details import BenchmarkFacts, benchmark_details
from lightning_modules.metrics.selection.candidates import QuestionCandidates

# Two candidates each: (score, right, class of the answer, -1 for none).
CANDIDATES = [
    [(0.9, True, 0), (0.1, False, 1)],
    [(0.2, True, 0), (0.8, False, -1)],
    [(0.3, False, -1), (0.6, True, 0)],
    [(0.5, False, -1), (0.4, False, -1)],
]
FACTS = BenchmarkFacts(
    split="testmini",
    official_differences={"nearest_option": "the nearest option counts"},
    released_questions=1000,
    mismatches=("4 scored questions, the release has 1000",),
    excluded={"without an answer": 1},
)


def details():
    questions = [
        QuestionCandidates(
            "MathVista",
            str(number),
            [[score] for score, _, _ in candidates],
            [right for _, right, _ in candidates],
            [answer for _, _, answer in candidates],
        )
        for number, candidates in enumerate(CANDIDATES)
    ]

    def score(right):
        return {"accuracy": float(right.mean()), "first_half": float(right[:2].mean())}

    return benchmark_details("MathVista", questions, 4, score, FACTS, 2, ["mean", "min"])


def test_metrics_of_the_picked_responses():
    metrics = details().metrics
    # The reward model picks candidates 0, 1, 1, 0: right, no answer, right, no answer.
    assert metrics["prm_mean"] == {"accuracy": 0.5, "first_half": 0.5, "unparsed_share": 0.5}
    # Means over both candidates: 1/2, 1/2, 1/2, 0 right; 0, 1/2, 1/2, 1 without an answer.
    assert metrics["pass_at_1"] == pytest.approx({"accuracy": 0.375, "first_half": 0.5, "unparsed_share": 0.5})
    # A vote takes the candidate with an answer wherever there is one.
    assert metrics["self_consistency"] == {"accuracy": 0.75, "first_half": 1.0, "unparsed_share": 0.25}
    assert metrics["pass_at_n"] == {"accuracy": 0.75, "first_half": 1.0, "unparsed_share": 0.25}
    # Of the candidates with an answer the best one: 0, 0, 1, and the best of all where there is none.
    assert metrics["best_answered"] == {"accuracy": 0.75, "first_half": 1.0, "unparsed_share": 0.25}
    others = {"pass_at_1", "random_choice", "self_consistency", "prm_mean", "prm_min", "pass_at_n"}
    assert set(metrics) == others | {"weighted_vote", "best_answered"}


def test_table_and_json():
    found = details()
    table = found.to_table(["pass_at_1", "outcome", "prm_mean"]).to_markdown()
    lines = table.splitlines()
    assert lines[0] == "### MathVista, split testmini, N = 2 (%)"
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["Metric", "Pass@1", "PRM (mean)"]
    assert [cell.strip() for cell in lines[4].split("|")[1:-1]] == ["accuracy", "37.5", "50.0"]
    for part in (
        "4 questions, 4 units; the release has 1000 questions.",
        "Not the released split: 4 scored questions, the release has 1000.",
        "Rows left out: 1 without an answer.",
        "Rules: ours. The official rules differ from ours in: nearest_option.",
    ):
        assert part in table
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["facts"]["official_differences"] == {"nearest_option": "the nearest option counts"}
    assert content["metrics"]["prm_mean"]["unparsed_share"] == 0.5
