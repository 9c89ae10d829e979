import torch

from datamodules.batching.collate import StepBatch
from datamodules.process_bench.solutions import ProcessBenchBatch
from lightning_modules.callbacks.labelled_steps import LabelledSteps, labelled_steps, scores_and_labels

NAN = float("nan")
# Of the first solution three steps, of the second two and padding.
POSITIONS = torch.tensor([[1, 3, 5], [2, 4, -1]])
SCORES = [[torch.tensor([0.75, 0.5, 0.25])], [torch.tensor([0.125, 1.0])]]


def batch(kind, mc, **more):
    counts = torch.full_like(POSITIONS, -1)
    inputs = {"input_ids": torch.zeros(2, 6, dtype=torch.long)}
    return kind(inputs, POSITIONS, torch.tensor(mc), counts, counts, ["a:1", "a:2"], ["s", "s"], **more)


def test_process_supervision_has_labels_where_there_are_monte_carlo_scores():
    mc = [[1.0, NAN, 0.25], [0.5, 0.0, NAN]]
    kinds = torch.tensor([[1, 0, 0], [1, 1, -1]])
    found = dict(labelled_steps(batch(StepBatch, mc, step_kinds=kinds), SCORES, mc_threshold=0.25))
    assert found == {
        ("validation", "a:1"): LabelledSteps("validation", "a:1", [0.75, 0.25], [True, False], [1, 0]),
        ("validation", "a:2"): LabelledSteps("validation", "a:2", [0.125, 1.0], [True, False], [1, 1]),
    }


def test_neutral_steps_have_no_label():
    labels = torch.tensor([[1, 0, -1], [0, -1, -2]])
    judged = batch(ProcessBenchBatch, [[NAN] * 3] * 2, correctness=labels)
    rows = [row for _, row in labelled_steps(judged, SCORES, mc_threshold=0.0)]
    assert rows == [
        LabelledSteps("process_bench", "a:1", [0.75, 0.25], [True, False], []),
        LabelledSteps("process_bench", "a:2", [1.0], [False], []),
    ]
    scores, is_right = scores_and_labels(rows)
    assert (scores.tolist(), scores.dtype) == ([0.75, 0.25, 1.0], torch.float64)
    assert is_right.tolist() == [True, False, False]
