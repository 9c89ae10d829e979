"""The charts, read back from the event files."""

import math
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from lightning_modules.callbacks.score_charts import show_response_charts, show_step_charts
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.step_report import ScoredSolution

SOLUTIONS = [
    ScoredSolution("a:1", "MMMU", [0.9, 0.2, 0.6], [1, -1, 0]),
    ScoredSolution("a:2", "MMMU", [0.7, 0.8], [-1, 1]),
    ScoredSolution("a:3", "MMMU", [0.1], [-1]),
]


@pytest.fixture
def trainer(tmp_path):
    return SimpleNamespace(loggers=[TensorBoardLogger(tmp_path, name="", version="run")], global_step=7)


def events_of(trainer):
    (logger,) = trainer.loggers
    logger.experiment.flush()
    return EventAccumulator(logger.log_dir, size_guidance={"tensors": 0, "histograms": 0}).Reload()


def by_hand(scores, is_sought, threshold):
    """Precision and recall of taking what has at least a score."""
    found = [sought for score, sought in zip(scores, is_sought, strict=True) if score >= threshold]
    return sum(found) / max(len(found), 1), sum(found) / sum(is_sought)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_precision_and_recall(trainer, low):
    span = 1 - low
    solutions = [
        ScoredSolution(each.sample_id, each.source, [low + span * score for score in each.scores], each.correctness)
        for each in SOLUTIONS
    ]
    show_step_charts(trainer, "process_bench", solutions, (low, 1.0))
    events = events_of(trainer)
    decided = [(0.9, True), (0.2, False), (0.7, False), (0.8, True), (0.1, False)]
    for label, scores, is_sought in (
        ("correct", [score for score, _ in decided], [right for _, right in decided]),
        ("wrong", [1 - score for score, _ in decided], [not right for _, right in decided]),
    ):
        (event,) = events.Tensors(f"process_bench_precision_recall/{label}")
        curve = tensor_util.make_ndarray(event.tensor_proto)
        assert event.step == 7
        for place in (1, 30, 63, 90, 110):
            # Row 4 is the precision and row 5 the recall at each of 127 thresholds from 0 to 1.
            precision, recall = by_hand(scores, is_sought, place / 126)
            assert curve[4:, place] == pytest.approx([precision, recall], abs=1e-6)


def test_histograms(trainer):
    # No score lies on the edge of a bin.
    steps = [ScoredSolution("a:1", "MMMU", [0.91, 0.21, 0.61, 0.81, 0.11], [1, -1, 0, 1, -1])]
    show_step_charts(trainer, "process_bench", steps, (0.0, 1.0))
    candidates = QuestionCandidates("MMMU", "1", [[0.2, 0.44], [0.9, 0.72], [0.51]], [False, True, False], [0, 1, 0])
    show_response_charts(trainer, [candidates], "mean")
    events = events_of(trainer)
    expected = {
        "process_bench_scores/correct": [0.91, 0.81],
        "process_bench_scores/wrong": [0.21, 0.11],
        "process_bench_scores/neutral": [0.61],
        "best_of_n_scores/right": [0.81],
        "best_of_n_scores/wrong": [0.32, 0.51],
    }
    assert sorted(events.Tags()["histograms"]) == sorted(expected)
    for tag, values in expected.items():
        (event,) = events.Histograms(tag)
        found = event.histogram_value
        assert (found.num, found.sum, found.min) == pytest.approx((len(values), sum(values), min(values)))
        limits = zip(found.bucket_limit, found.bucket, strict=True)
        filled = {round(float(limit), 3): count for limit, count in limits if count}
        # 40 bins: each value below the next multiple of 0.025.
        assert filled == {round(math.ceil(value * 40) / 40, 3): 1 for value in values}


def test_labels_of_one_kind_have_no_curve(trainer):
    show_step_charts(trainer, "process_bench", SOLUTIONS[2:], (0.0, 1.0))
    assert events_of(trainer).Tags()["tensors"] == []


def test_without_tensorboard():
    show_step_charts(SimpleNamespace(loggers=[]), "process_bench", SOLUTIONS, (0.0, 1.0))
