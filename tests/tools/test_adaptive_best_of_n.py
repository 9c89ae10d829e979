import sys

import pytest

from datamodules.rollouts.records import Rollout, write_rollouts
from lightning_modules.callbacks.candidate_scores import CandidateScore, response_digest, write_candidate_scores
from tools import adaptive_best_of_n


def write(folder, uncertainties=True):
    rollouts, scores = [], []
    for question in range(6):
        for index in range(3):
            text = f"word {question} {index}"
            is_right = (question + index) % 3 == 0
            rollouts.append(Rollout("MMMU", str(question), index, text, "A", is_right, "p", 1.0, 1.0, 8, 0))
            steps = [0.9, 0.7] if is_right else [0.2, 0.4]
            unsure = [0.1, 0.3] if uncertainties else None
            scores.append(
                CandidateScore("MMMU", str(question), index, steps, sum(steps) / 2, response_digest(text), unsure)
            )
    write_rollouts(folder / "rollouts.jsonl", rollouts)
    write_candidate_scores(folder / "scores.jsonl", scores)
    return rollouts, scores


@pytest.mark.parametrize("uncertainties", [True, False])
def test_the_tables(tmp_path, monkeypatch, capsys, uncertainties):
    write(tmp_path, uncertainties)
    arguments = [tmp_path / "scores.jsonl", "--rollouts", tmp_path / "rollouts.jsonl", "--z", "1"]
    monkeypatch.setattr(sys, "argv", ["x", *map(str, arguments), "--output", str(tmp_path / "t.md")])
    assert adaptive_best_of_n.main() == 0
    text = (tmp_path / "t.md").read_text()
    assert "Adaptive Best-of-3 on 6 questions" in text
    assert "| 1   | 100.0 |    100.0 | [+0.0, +0.0] |" in text  # a right candidate always has the best score
    assert ("uncertainty of the pick" in text) == uncertainties
    assert "Adaptive Best-of-3" in capsys.readouterr().out


def test_the_candidates(tmp_path):
    rollouts, scores = write(tmp_path)
    stored = adaptive_best_of_n.stored_candidates(scores, rollouts)
    assert stored.scores.shape == (6, 3)
    assert stored.uncertainties[0].tolist() == pytest.approx([0.2] * 3)
    assert stored.correct[0].tolist() == [True, False, False]
    assert stored.costs[0].tolist() == [3, 3, 3]
    with pytest.raises(ValueError, match="MMMU question '5', sample 2: there is no such rollout"):
        adaptive_best_of_n.stored_candidates(scores, rollouts[:-1])
    other = [*rollouts[:-1], Rollout("MMMU", "5", 2, "another", "A", True, "p", 1.0, 1.0, 8, 0)]
    with pytest.raises(ValueError, match="its rollout is another response"):
        adaptive_best_of_n.stored_candidates(scores, other)
    with pytest.raises(ValueError, match="there are no scores"):
        adaptive_best_of_n.stored_candidates([], rollouts)
