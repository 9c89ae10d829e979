import json
import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from sklearn.metrics import f1_score, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_evaluation import (
    Reader,
    collate_judged,
    collate_process,
    judged_solutions,
    make_trainer,
    process_rows,
)
from torch.utils.data import DataLoader

from lightning_modules.callbacks.process_bench import ProcessBench
from lightning_modules.protocol import Protocol
from lightning_modules.scoring.scored_batch import ScoredBatch


def trainer_of(folder, threshold, logger):
    return make_trainer(folder, logger=logger(folder, name="", version="run"), callbacks=[ProcessBench(threshold)])


# TensorBoard draws figures, which take longer than all else here.
def validate(folder, threshold=0.5, module=None, logger=CSVLogger):
    trainer = trainer_of(folder, threshold, logger)
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
    metrics, stored = validate(tmp_path, logger=TensorBoardLogger)
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
    assert text.decode() == (tmp_path / "run" / "process_bench_validate.md").read_text()
    assert "| Overall" in text.decode()
    assert "5 samples with 15 steps" in text.decode()
    assert events.Images("process_bench/calibration_and_places")
    assert (stored["is_released_set"], stored["threshold_source"]) == (False, "fixed")


def test_errors_by_place_against_the_solutions(tmp_path):
    _, stored = validate(tmp_path, logger=TensorBoardLogger)
    places = {}
    for solution in judged_solutions():
        for place, label in enumerate(solution.correctness):
            if label != 0:
                places.setdefault(place, []).append(label == -1)
    expected = {place: sum(wrong) / len(wrong) for place, wrong in places.items()}
    assert {row["step_index"]: row["error_rate"] for row in stored["by_step_index"]} == pytest.approx(expected)
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    for place, rate in expected.items():
        (event,) = events.Scalars(f"process_bench_step_index/error_rate/{place}")
        assert event.value == pytest.approx(rate)


def test_threshold_is_used(tmp_path):
    metrics, stored = validate(tmp_path, threshold=0.85)
    assert stored["threshold"] == 0.85
    assert metrics["process_bench/macro_f1"] == pytest.approx(macro_f1(decided_steps(), threshold=0.85))
    with pytest.raises(ValueError, match="got 85"):
        ProcessBench(threshold=85)


class NotANumber(Reader):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        outputs = super().validation_step(batch, batch_idx, dataloader_idx)
        outputs.step_scores[1][0][1] = math.nan
        return outputs


def test_score_that_is_not_a_number_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"test.jsonl:2, step 1: the score is nan"):
        validate(tmp_path, module=NotANumber())


# ------------------------------------------------------------------ thresholds


def labelled_steps():
    """Scores and labels of the labelled steps of the process validation split: right where mc > 0."""
    return [
        (score, mc > 0)
        for _, scores, mcs in process_rows()
        for score, mc in zip(scores, mcs, strict=True)
        if not math.isnan(mc)
    ]


def run(folder, function, threshold, module=None, with_process=True, logger=CSVLogger):
    trainer = trainer_of(folder, threshold, logger)
    loaders = [DataLoader(judged_solutions(), batch_size=2, collate_fn=collate_judged)]
    if with_process:
        loaders.insert(0, DataLoader(process_rows(), batch_size=2, collate_fn=collate_process))
    module = module or Reader()
    metrics = getattr(trainer, function)(module, loaders, verbose=False)
    return metrics[-1], module


def test_threshold_of_the_validation_split(tmp_path):
    metrics, module = run(tmp_path, "validate", "validation")
    stored = json.loads((tmp_path / "run" / "process_bench_validate.json").read_text())
    threshold = stored["threshold"]
    steps = labelled_steps()
    points = sorted({0.0, 1.0, *(score for score, _ in steps)})
    points += [(low + high) / 2 for low, high in pairwise(points)]
    best = max(macro_f1(steps, point) for point in points)
    assert macro_f1(steps, threshold) == pytest.approx(best)
    assert macro_f1(steps, 0.5) < best  # or else the test could not tell
    assert metrics["process_bench/threshold"] == pytest.approx(threshold)
    assert metrics["process_bench/macro_f1"] == pytest.approx(macro_f1(decided_steps(), threshold))
    assert stored["threshold_source"] == "validation"
    chosen_on = f"the process validation split ({len(steps)} labelled steps of 9 solutions, macro F1 {best:.4f} there)"
    assert stored["threshold_chosen_on"] == chosen_on
    assert (module.protocol.step_threshold, module.protocol.step_threshold_chosen_on) == (threshold, chosen_on)
    assert chosen_on in (tmp_path / "run" / "process_bench_validate.md").read_text()


def test_a_test_uses_the_threshold_of_the_model(tmp_path):
    module = Reader()
    module.protocol = Protocol(step_threshold=0.7, step_threshold_chosen_on="v.jsonl")
    metrics, _ = run(tmp_path, "test", "validation", module)
    assert metrics["process_bench/macro_f1"] == pytest.approx(macro_f1(decided_steps(), 0.7))
    stored = json.loads((tmp_path / "run" / "process_bench_test.json").read_text())
    assert (stored["threshold"], stored["threshold_chosen_on"]) == (0.7, "v.jsonl")
    run(tmp_path, "test", "validation", module, with_process=False)  # so no split is needed


def test_a_test_never_chooses_on_the_benchmark(tmp_path):
    _, module = run(tmp_path, "test", "validation")  # the split is there, the model has no threshold
    assert module.protocol.step_threshold is not None
    with pytest.raises(
        ValueError, match=r"no threshold can be chosen on the process validation split: .*there are none"
    ):
        run(tmp_path, "test", "validation", with_process=False)


def test_few_batches_without_wrong_steps_are_no_error(tmp_path):
    options = {"callbacks": [ProcessBench("oracle")], "limit_val_batches": 1}
    trainer = make_trainer(tmp_path, logger=False, **options)
    right = [replace(solution, correctness=(1,) * len(solution.steps)) for solution in judged_solutions()]
    loader = DataLoader(right, batch_size=2, collate_fn=collate_judged)
    with pytest.warns(UserWarning, match="ProcessBench has nothing to report on the few batches .* are correct"):
        trainer.validate(Reader(), loader, verbose=False)
    trainer = make_trainer(tmp_path, logger=False, callbacks=[ProcessBench("oracle")])
    with pytest.raises(ValueError, match="are correct"):
        trainer.validate(Reader(), loader, verbose=False)


def test_a_missing_split_is_found_before_the_run(tmp_path):
    callback = ProcessBench("validation")
    trainer = make_trainer(tmp_path, logger=False)

    class WithoutSplit:
        validation_names = ("VisualProcessBench",)

    trainer.datamodule = WithoutSplit()
    with pytest.raises(
        ValueError, match=r"needs a process validation split to choose on; give .* validation_annotations"
    ):
        callback.on_fit_start(trainer, Reader())
    ProcessBench(0.85).on_fit_start(trainer, Reader())


class Advantage(Reader):
    """Scores from -1 to 1: what the reader scores, stretched."""

    def __init__(self):
        super().__init__()
        self.protocol = Protocol("advantage")

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        outputs = super().validation_step(batch, batch_idx, dataloader_idx)
        return ScoredBatch([[2 * scores - 1 for scores in of_sample] for of_sample in outputs.step_scores])

    test_step = validation_step


@pytest.mark.parametrize("threshold", [None, "validation", "oracle", -0.25])
def test_negative_scores(tmp_path, threshold):
    """Scores stretched from [0, 1] to [-1, 1] are judged as before, at a threshold that is stretched alike."""
    loaders = [
        DataLoader(judged_solutions(), batch_size=2, collate_fn=collate_judged),
        DataLoader(process_rows(), batch_size=2, collate_fn=collate_process),
    ]
    callbacks = []
    for module, given in ((Reader(), 0.375 if threshold == -0.25 else threshold), (Advantage(), threshold)):
        callbacks.append(ProcessBench(given))
        trainer = make_trainer(tmp_path, logger=False, default_root_dir=tmp_path, callbacks=callbacks[-1:])
        trainer.validate(module, loaders, verbose=False)
    plain, stretched = (callback.report for callback in callbacks)
    assert stretched.threshold.value == pytest.approx(2 * plain.threshold.value - 1)
    if threshold is None:
        assert (plain.threshold.value, stretched.threshold.value) == (0.5, 0.0)
    # Scores that are no probabilities have no calibration.
    assert plain.calibration
    assert plain.overall.expected_calibration_error is not None
    assert stretched.calibration == []
    expected = replace(plain.overall, expected_calibration_error=None)
    for field in fields(expected):
        assert getattr(stretched.overall, field.name) == pytest.approx(getattr(expected, field.name)), field.name
    assert stretched.by_step_index == plain.by_step_index


def test_a_threshold_below_all_scores_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, logger=False)
    with pytest.raises(ValueError, match=r"threshold -0.25 is outside of this model's scores, \[0, 1\]"):
        ProcessBench(-0.25).on_fit_start(trainer, Reader())
    ProcessBench(-0.25).on_fit_start(trainer, Advantage())


def test_the_oracle_is_marked_wherever_it_is_shown(tmp_path, capsys):
    metrics, module = run(tmp_path, "test", "oracle", logger=TensorBoardLogger)
    assert metrics
    assert all(name.startswith("process_bench_oracle") for name in metrics)
    names = {path.name for path in (tmp_path / "run").iterdir() if "process_bench" in path.name}
    assert names == {f"process_bench_oracle_test.{kind}" for kind in ("json", "md", "png")}
    stored = json.loads((tmp_path / "run" / "process_bench_oracle_test.json").read_text())
    assert stored["threshold_source"] == "oracle"
    steps = decided_steps()
    best = max(macro_f1(steps, point) for point in [*(score for score, _ in steps), 1.0])
    assert metrics["process_bench_oracle/macro_f1"] == pytest.approx(best)
    assert module.protocol.step_threshold is None  # nothing later takes it for a choice of validation
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"tensors": 0}).Reload()
    tags = [tag for kind in ("scalars", "images", "tensors") for tag in events.Tags()[kind] if "process_bench" in tag]
    assert tags
    assert all(tag.startswith("process_bench_oracle") for tag in tags)
    assert "with the ORACLE threshold" in capsys.readouterr().out


@pytest.mark.parametrize("threshold", [-1.1, 1.5, math.nan, "test", "best"])
def test_other_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be a score in"):
        ProcessBench(threshold)
