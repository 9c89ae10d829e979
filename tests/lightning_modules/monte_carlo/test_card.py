"""Counted by hand."""

import json

import pytest

from lightning_modules.monte_carlo.card import card_of
from lightning_modules.monte_carlo.statistics import Statistics, statistics_of


def step(text, correct=None, total=None, **more):
    counts = {} if total is None else {"num_mc_correct": correct, "num_mc_total": total}
    return {"step": text, "score": correct / total if total else 0.0, **counts, **more}


ROWS = [
    {
        "id": "a/0",
        "source": "geometry",
        "steps_with_score": [
            step("one two", 0, 8, num_mc_cut=3, num_mc_unparsed=1),
            step("three", 4, 8, num_mc_cut=1),
            step("four five six", 1, 1),
        ],
    },
    {"id": "a/1", "source": "geometry", "response_cut": True, "steps_with_score": [step("x", 2, 4), step("y", 0, 1)]},
    {
        "id": "b/0",
        "source": "charts",
        "question_accuracy": 0.25,
        "steps_with_score": [step("x", 0, 8), step("y", 0, 0), step("z") | {"score": 0.0, "is_inferred": True}],
    },
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_statistics(rows):
    found = statistics_of(rows)
    assert found["geometry"] == Statistics(
        rows=2,
        questions=1,
        steps=5,
        scored=5,
        wrong=2,
        words=8,
        continuations=20,
        right=6,
        cut=4,
        unparsed=1,
        right_solutions=1.0,
        known_solutions=2,
        cut_solutions=1,
        not_monotone=1,
        finished=2,
    )
    # Of three steps one was not sampled, and one was inferred.
    charts = found["charts"]
    assert (charts.rows, charts.steps, charts.scored, charts.wrong, charts.inferred) == (1, 3, 2, 2, 1)
    assert (charts.continuations, charts.right_solutions, charts.known_solutions) == (8, 0.25, 1)
    assert (found["geometry"] + charts).continuations == 28


def test_a_card(rows):
    costs = {
        "requests": 9,
        "solutions": 3,
        "continuations": 30,
        "surplus": 2,
        "prompt_tokens": 1234567,
        "completion_tokens": 7200,
        "seconds": 3600.0,
    }
    card = card_of(rows, {"num_solutions": 2}, costs, "2026-11-30T12:00:00+00:00")
    assert "| geometry | 2 | 1 | 5 | 40.0 | 1.6 | 50.0 |" in card
    assert "| charts | 1 |" in card
    assert "| all | 3 | 2 | 8 |" in card
    assert "| prompt tokens, once a request | 1,234,567 |" in card
    assert "| hours, of all devices together | 1.000 |" in card
    assert "| sampled tokens a second and device | 2.0 |" in card
    assert '"num_solutions": 2' in card
    assert "Costs" not in card_of(rows, {}, {})


def test_a_row_that_is_none(rows):
    rows.write_text('{"id": "a/0"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: not an annotated row \(KeyError: 'steps_with_score'\)"):
        statistics_of(rows)
