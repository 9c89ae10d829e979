"""Worked by hand: three candidates with scores of a reward model and log-probabilities."""

import math

import pytest

from lightning_modules.callbacks.candidate_scores import CandidateScore, read_candidate_scores, write_candidate_scores
from tools.combined_scores import combined_scores
from tools.rollouts import main


def scores(values, digest="d"):
    return [CandidateScore("MMMU", "q", number, [value], value, digest) for number, value in enumerate(values)]


MODEL, OTHER = [0.5, 0.8, 0.0], [-0.1, -2.0, -0.5]


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_logarithms_are_added(weight):
    found = combined_scores(scores(MODEL), scores(OTHER)[::-1], weight)
    expected = [math.log(p) + weight * o for p, o in zip([0.5, 0.8, 1e-6], OTHER, strict=True)]
    assert [each.response_score for each in found] == pytest.approx(expected)
    assert [each.sample_index for each in found] == [0, 1, 2]


def test_the_command(tmp_path, capsys):
    write_candidate_scores(tmp_path / "model.jsonl", scores(MODEL))
    write_candidate_scores(tmp_path / "other.jsonl", scores(OTHER))
    words = ["combine", str(tmp_path / "model.jsonl"), "--with", str(tmp_path / "other.jsonl")]
    assert main([*words, "--output", str(tmp_path / "both.jsonl")]) == 0
    best = max(read_candidate_scores(tmp_path / "both.jsonl"), key=lambda each: each.response_score)
    # The model alone would take the second candidate, which the policy finds unlikely.
    assert best.sample_index == 0
    assert main([*words, "--output", str(tmp_path / "both.jsonl")]) == 2
    assert "give another file or --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "other", "message"),
    [
        (scores(MODEL), scores(OTHER)[:2], "1 of 3 candidates have no score of the other critic, the first is MMMU"),
        (scores(MODEL), scores(OTHER, "e"), "3 of 3 candidates have a score of another response there"),
        (scores([0.5, -0.5, 0.1]), scores(OTHER), r"1 of 3 .*, the first is MMMU question 'q', sample_index 1"),
    ],
)
def test_scores_that_do_not_go_together(model, other, message):
    with pytest.raises(ValueError, match=message):
        combined_scores(model, other, 1.0)
