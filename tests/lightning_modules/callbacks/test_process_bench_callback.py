import json
import math

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.metrics import f1_score, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_evaluation import Reader, collate_judged, judged_solutions, make_trainer
from torch.utils.data import DataLoader

from lightning_modules.callbacks.process_bench import ProcessBench


def validate(folder, threshold=0.5, module=None):
    logger = TensorBoardLogger(folder, name="", version="run")
    trainer = make_trainer(folder, logger=logger, callbacks=[ProcessBench(threshold)])
    loader = DataLoader(judged_solutions(), batch_size=2, collate_fn=collate_judged)
    (metrics,) = trainer.validate(module or Reader(), loader, verbose=False)
    return metrics, json.loads((folder / "run" / "process_bench_validate.json").read_text())


def decided_steps(source=None):
    """Scores and labels of the steps that are not neutral."""
    return [
        (float(step), label == 1)
        for solution in judged_solutions()
        for step, label in zip(solution.steps, solution.correctness, strict=True)
        if label != 0 and source in (None, solution.data_source)
    ]


def macro_f1(steps, threshold=0.5):
    truth = [label for _, label in steps]
    return f1_score(truth, [score >= threshold for score, _ in steps], average="macro", zero_division=0)


def test_metrics_against_scikit_learn(tmp_path):
    metrics, stored = validate(tmp_path)
    steps = decided_steps()
    assert metrics["process_bench/macro_f1"] == pytest.approx(macro_f1(steps))
    assert metrics["process_bench/auroc"] == pytest.approx(
        roc_auc_score([label for _, label in steps], [score for score, _ in steps])
    )
    for source in ("MMMU", "DynaMath"):
        assert metrics[f"process_bench_sources/{source}"] == pytest.approx(macro_f1(decided_steps(source)))
        assert stored["sources"][source]["macro_f1"] == pytest.approx(macro_f1(decided_steps(source)))
    assert stored["overall"]["solutions"] == 5
    assert stored["overall"]["neutral_steps"] == 15 - len(steps)
    assert stored["overall"]["neutral_steps"] > 0
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"tensors": 0}).Reload()
    (text,) = events.Tensors("process_bench/table/text_summary")[0].tensor_proto.string_val
    assert "| Overall" in text.decode()


def test_threshold_is_used(tmp_path):
    metrics, stored = validate(tmp_path, threshold=0.85)
    assert stored["threshold"] == 0.85
    assert metrics["process_bench/macro_f1"] == pytest.approx(macro_f1(decided_steps(), threshold=0.85))
    with pytest.raises(ValueError, match="got 85"):
        ProcessBench(threshold=85)


class NotANumber(Reader):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        outputs = super().validation_step(batch, batch_idx, dataloader_idx)
        outputs["step_scores"][1, 1] = math.nan
        return outputs


def test_score_that_is_not_a_number_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"test.jsonl:2, step 1: the score is nan"):
        validate(tmp_path, module=NotANumber())
