import torch

from lightning_modules.scoring.scored_batch import ScoredBatch


def test_conversations_without_their_padding():
    scores = torch.tensor([[0.1, 0.2, 0.3], [0.4, 7.0, float("nan")]], requires_grad=True)
    found = ScoredBatch.of_conversations(scores, torch.tensor([[3, 5, 9], [4, -1, -1]]))
    assert [[steps.tolist() for steps in of_sample] for of_sample in found.step_scores] == [
        [torch.tensor([0.1, 0.2, 0.3]).tolist()],
        [torch.tensor([0.4]).tolist()],
    ]
    assert not found.step_scores[0][0].requires_grad
