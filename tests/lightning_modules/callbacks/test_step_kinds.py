import json
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from tiny_evaluation import Reader, collate_judged, collate_process, judged_solutions, make_trainer, process_rows
from torch.utils.data import DataLoader

from lightning_modules.callbacks.step_kinds import StepKinds


def kinds_like(positions):
    """The first step of every solution is perception."""
    kinds = torch.zeros_like(positions)
    kinds[:, 0] = 1
    return torch.where(positions >= 0, kinds, -1)


def with_kinds(collate):
    def make(rows):
        batch = collate(rows)
        return replace(batch, step_kinds=kinds_like(batch.step_positions))

    return make


def test_metrics_by_kind(tmp_path, capsys):
    loaders = [
        DataLoader(process_rows(), batch_size=2, collate_fn=with_kinds(collate_process)),
        DataLoader(judged_solutions(), batch_size=2, collate_fn=with_kinds(collate_judged)),
    ]
    trainer = make_trainer(tmp_path, logger=False, default_root_dir=tmp_path, callbacks=[StepKinds()])
    trainer.validate(Reader(), loaders, verbose=False)
    stored = json.loads((tmp_path / "step_kinds_validate.json").read_text())["metrics"]
    for kind, is_of_kind in (("perception", lambda place: place == 0), ("reasoning", lambda place: place > 0)):
        steps = [
            (score, value > 0)
            for _, scores, mc in process_rows()
            for place, (score, value) in enumerate(zip(scores, mc, strict=True))
            if is_of_kind(place) and value == value
        ]
        truth = [label for _, label in steps]
        found = stored[f"validation/{kind}"]
        expected = f1_score(truth, [score >= 0.5 for score, _ in steps], average="macro", zero_division=0)
        assert found["macro_f1"] == pytest.approx(expected)
        assert found["auroc"] == pytest.approx(roc_auc_score(truth, [score for score, _ in steps]))
        assert found["steps"] == len(steps)
        assert found["error_rate"] == pytest.approx(truth.count(False) / len(steps))
        judged = [
            label
            for solution in judged_solutions()
            for place, label in enumerate(solution.correctness)
            if is_of_kind(place) and label != 0
        ]
        assert stored[f"process_bench/{kind}"]["steps"] == len(judged)
    assert "VisualProcessBench, perception" in capsys.readouterr().out


def test_perception_steps_count_more_often():
    batch = with_kinds(collate_process)(process_rows()[2:4])
    StepKinds().on_train_batch_start(None, None, batch, 0)
    assert batch.step_weights is None
    StepKinds(perception_weight=3.0).on_train_batch_start(None, None, batch, 0)
    assert batch.step_weights.tolist() == [[3.0, 1.0, 1.0, 1.0], [3.0, 1.0, 1.0, 1.0]]
    batch.weigh_steps(torch.full((2, 1), 0.5).expand(2, 4))
    assert batch.step_weights[0].tolist() == [1.5, 0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="perception_weight must be above 0, got 0"):
        StepKinds(perception_weight=0)
