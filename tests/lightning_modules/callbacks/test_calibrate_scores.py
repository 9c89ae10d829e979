import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_evaluation import Reader, collate_judged, collate_process, judged_solutions, make_trainer, process_rows
from torch.utils.data import DataLoader

from lightning_modules.callbacks.calibrate_scores import CalibrateScores
from lightning_modules.callbacks.process_bench import ProcessBench
from lightning_modules.protocol import PROTOCOL_FILE, Protocol, resolve_protocol, save_protocol
from lightning_modules.scoring.calibration import Calibration, fit_calibration
from lightning_modules.scoring.scored_batch import ScoredBatch


class Calibrated(Reader):
    """Applies the protocol's calibration as the reward model does."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        raw = batch.inputs["scores"]
        calibration = self.protocol.calibration
        if calibration is None:
            return ScoredBatch.of_conversations(raw, batch.step_positions)
        return ScoredBatch.of_conversations(calibration.of_scores(raw), batch.step_positions, raw)

    test_step = validation_step


def loaders():
    return [
        DataLoader(process_rows(), batch_size=2, collate_fn=collate_process),
        DataLoader(judged_solutions(), batch_size=2, collate_fn=collate_judged),
    ]


def trainer_of(folder, *callbacks, **options):
    return make_trainer(folder, logger=False, default_root_dir=folder, callbacks=list(callbacks), **options)


def labelled(rows):
    """Scores, as float32 holds them, and labels of the steps that have one."""
    pairs = [
        (torch.tensor(score).item(), mc > 0)
        for _, scores, mcs in rows
        for score, mc in zip(scores, mcs, strict=True)
        if not math.isnan(mc)
    ]
    return torch.tensor([score for score, _ in pairs], dtype=torch.float64), torch.tensor([right for _, right in pairs])


def decided():
    pairs = [
        (torch.tensor(float(step)).item(), label == 1)
        for solution in judged_solutions()
        for step, label in zip(solution.steps, solution.correctness, strict=True)
        if label != 0
    ]
    return torch.tensor([score for score, _ in pairs], dtype=torch.float64), torch.tensor([right for _, right in pairs])


def ece(scores, is_right, bins=15):
    """Bin by bin."""
    total = 0.0
    for number in range(bins):
        last = number == bins - 1
        rows = [
            index
            for index, score in enumerate(scores.tolist())
            if number / bins <= score < (number + 1) / bins or (last and score == 1)
        ]
        if rows:
            total += abs(sum(scores[rows].tolist()) - sum(is_right[rows].tolist()))
    return total / len(scores)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_validate_fits_and_test_applies(tmp_path, method):
    module = Calibrated()
    trainer_of(tmp_path, CalibrateScores(method)).validate(module, loaders(), verbose=False)
    scores, is_right = labelled(process_rows())
    expected = fit_calibration(scores, is_right, method, "the process validation split")
    assert module.protocol.calibration == expected
    report = json.loads((tmp_path / "calibration_validate.json").read_text())["splits"]
    judged, is_correct = decided()
    assert report["validation"]["ece_before"] == pytest.approx(ece(scores, is_right))
    assert report["process_bench"]["ece_before"] == pytest.approx(ece(judged, is_correct))
    after = expected.of_scores(judged)
    assert report["process_bench"]["ece_after"] == pytest.approx(ece(after, is_correct))
    brier = sum((a - b) ** 2 for a, b in zip(after.tolist(), is_correct.tolist(), strict=True)) / len(judged)
    assert report["process_bench"]["brier_after"] == pytest.approx(brier)

    callbacks = CalibrateScores(), ProcessBench()
    trainer_of(tmp_path, *callbacks).test(module, loaders(), verbose=False)
    assert json.loads((tmp_path / "calibration_test.json").read_text())["splits"]["process_bench"] == pytest.approx(
        report["process_bench"]
    )
    assert callbacks[1].report.overall.expected_calibration_error == pytest.approx(ece(after, is_correct), abs=1e-6)
    # In `test` nothing is fitted, so its own split is reported with the calibration that it has been fitted for.
    in_sample = json.loads((tmp_path / "calibration_test.json").read_text())["splits"]["validation"]
    assert in_sample["ece_after"] == pytest.approx(ece(expected.of_scores(scores), is_right))


def test_folds_are_judged_by_the_others(tmp_path):
    trainer_of(tmp_path, CalibrateScores("isotonic")).validate(Calibrated(), loaders(), verbose=False)
    report = json.loads((tmp_path / "calibration_validate.json").read_text())["splits"]["validation"]
    rows = process_rows()
    bounds = [0, 1, 3, 5, 7, 9]  # fifths of nine
    after, labels = [], []
    for low, high in pairwise(bounds):
        fitted = fit_calibration(*labelled(rows[:low] + rows[high:]), "isotonic")
        held_out, right = labelled(rows[low:high])
        after.append(fitted.of_scores(held_out))
        labels.append(right)
    assert report["ece_after"] == pytest.approx(ece(torch.cat(after), torch.cat(labels)))


def test_a_threshold_of_the_same_epoch_is_chosen_on_calibrated_scores(tmp_path):
    module = Calibrated()
    trainer_of(tmp_path, ProcessBench("validation"), CalibrateScores("temperature")).validate(
        module, loaders(), verbose=False
    )
    scores, _ = labelled(process_rows())
    threshold, calibration = module.protocol.step_threshold, module.protocol.calibration
    raw = json.loads((tmp_path / "process_bench_validate.json").read_text())["threshold"]
    # The order of steps stays with a temperature, so that the verdicts stay, too.
    assert ((calibration.of_scores(scores) >= threshold) == (scores >= raw)).all()
    assert threshold != raw
    assert module.protocol.step_threshold_chosen_on is not None


def test_fit_stores_the_calibration_of_the_last_epoch_in_checkpoints(tmp_path):
    seen = []

    class Watched(Calibrated):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            seen.append(self.protocol.calibration)
            return super().validation_step(batch, batch_idx, dataloader_idx)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["calibration"] = self.protocol.calibration

    module = Watched()
    checkpoints = ModelCheckpoint(dirpath=tmp_path / "checkpoints", save_top_k=-1)
    trainer = trainer_of(tmp_path, checkpoints, CalibrateScores("temperature"))
    trainer.fit(module, DataLoader(torch.zeros(4, 1), batch_size=2), loaders())
    assert set(seen) == {None}  # each epoch is calibrated on its own scores
    assert module.protocol.calibration.method == "temperature"
    stored = [torch.load(path, weights_only=False)["calibration"] for path in (tmp_path / "checkpoints").iterdir()]
    assert stored == [module.protocol.calibration] * 2


def test_a_stored_calibration_is_replaced(tmp_path):
    module = Calibrated()
    module.protocol = Protocol(
        calibration=Calibration("isotonic", scores=[0.5], values=[0.5]),
        step_threshold=0.5,
        step_threshold_chosen_on="other scores",
    )
    trainer_of(tmp_path, CalibrateScores("temperature")).validate(module, loaders(), verbose=False)
    assert module.protocol.calibration.method == "temperature"
    # A step threshold belongs to its scores: it is chosen anew on those of the new calibration.
    assert module.protocol.step_threshold is not None
    assert module.protocol.step_threshold_chosen_on == module.protocol.calibration.fitted_on


def test_the_folder_of_the_model_is_updated(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_protocol(Protocol(), folder)
    module = Calibrated()
    module.hparams["model_name_or_path"] = str(folder)
    trainer_of(tmp_path, CalibrateScores(update_model=True)).validate(module, loaders(), verbose=False)
    assert module.protocol.calibration is not None
    assert resolve_protocol(str(folder), {}) == module.protocol
    (folder / PROTOCOL_FILE).unlink()
    with pytest.raises(ValueError, match="update_model works in `visualprm validate` of an exported model"):
        trainer_of(tmp_path, CalibrateScores(update_model=True)).validate(module, loaders(), verbose=False)


def test_what_cannot_be_calibrated(tmp_path):
    with pytest.raises(ValueError, match="method must be one of temperature, isotonic, got 'platt'"):
        CalibrateScores("platt")
    module = Calibrated()
    module.protocol = replace(Protocol(), objective="advantage", class_tokens=["+", "=", "-"])
    with pytest.raises(ValueError, match="'advantage' are no probabilities: leave the callback out"):
        trainer_of(tmp_path, CalibrateScores()).validate(module, loaders(), verbose=False)
    trainer = trainer_of(tmp_path)

    class WithoutSplit:
        validation_names = ("VisualProcessBench",)

    trainer.datamodule = WithoutSplit()
    with pytest.raises(ValueError, match="CalibrateScores needs a process validation split"):
        CalibrateScores().on_fit_start(trainer, Calibrated())
