from types import SimpleNamespace

import pytest
from lightning.pytorch import Callback, LightningModule

from datamodules.evaluation import EvaluationDataModule
from lightning_modules.callbacks.best_of_n import BestOfN
from lightning_modules.callbacks.picture_controls import PictureControls
from lightning_modules.callbacks.prediction_writer import PredictionWriter
from lightning_modules.callbacks.process_bench import ProcessBench
from lightning_modules.callbacks.progress import RunProgress
from lightning_modules.callbacks.required import require_batches, require_reporters
from lightning_modules.protocol import Protocol


class Own(Callback):
    def on_test_batch_end(self, *arguments):
        """Keeps what it needs."""


class Model(LightningModule):
    def __init__(self, objective="value"):
        super().__init__()
        self.protocol = Protocol(objective=objective)


def data(tmp_path, *arguments):
    options = {"benchmarks": {"benchmarks": str(tmp_path), "rollouts": str(tmp_path)}}
    options["visual_process_bench"] = {"visual_process_bench": str(tmp_path)}
    return EvaluationDataModule(**{name: value for each in arguments for name, value in options[each].items()})


@pytest.mark.parametrize("subcommand", ["test", "validate"])
def test_results_that_nobody_would_report(subcommand, tmp_path):
    both = data(tmp_path, "benchmarks", "visual_process_bench")
    with pytest.raises(ValueError, match=rf"{subcommand}: data\.benchmarks .*callbacks\+=BestOfN"):
        require_reporters(subcommand, [RunProgress(), ProcessBench()], both, Model())
    with pytest.raises(ValueError, match=r"data\.visual_process_bench .*callbacks\+=ProcessBench"):
        require_reporters(subcommand, [BestOfN()], both, Model())
    require_reporters(subcommand, [BestOfN(), ProcessBench()], both, Model())
    require_reporters(subcommand, [BestOfN()], data(tmp_path, "benchmarks"), Model())


def test_outcome_models_have_no_use_for_step_labels(tmp_path):
    both = data(tmp_path, "benchmarks", "visual_process_bench")
    require_reporters("test", [BestOfN()], both, Model("outcome"))


def test_a_callback_of_the_user_counts(tmp_path):
    require_reporters("test", [Own()], data(tmp_path, "benchmarks"), Model())
    with pytest.raises(ValueError, match="BestOfN"):  # it does nothing in `validate`
        require_reporters("validate", [Own()], data(tmp_path, "benchmarks"), Model())


def test_predictions_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"callbacks\+=PredictionWriter"):
        require_reporters("predict", [RunProgress()], None, Model())
    require_reporters("predict", [PredictionWriter(str(tmp_path / "out.jsonl"))], None, Model())


def test_fit_reports_its_loss(tmp_path):
    require_reporters("fit", [], data(tmp_path, "benchmarks"), Model())


def test_nothing_to_evaluate():
    with pytest.raises(ValueError, match=r"nothing to test on.*trainer\.limit_test_batches"):
        require_batches("test", SimpleNamespace(num_test_batches=[0, 0], num_val_batches=[]))
    with pytest.raises(ValueError, match=r"nothing to validate on.*trainer\.limit_val_batches"):
        require_batches("validate", SimpleNamespace(num_test_batches=[], num_val_batches=[]))
    require_batches("test", SimpleNamespace(num_test_batches=[0, 3], num_val_batches=[]))
    require_batches("fit", SimpleNamespace(num_test_batches=[], num_val_batches=[]))


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_one_notice_says_which_reports_a_run_leaves_out(subcommand, tmp_path, monkeypatch):
    notices = []
    monkeypatch.setattr("lightning_modules.callbacks.required.rank_zero_info", notices.append)
    both, neither = data(tmp_path, "benchmarks", "visual_process_bench"), data(tmp_path)
    require_reporters(subcommand, [BestOfN(), ProcessBench()], both, Model())
    require_reporters(subcommand, [], neither, Model())  # nobody has asked for a report
    assert notices == []
    require_reporters(subcommand, [BestOfN(), ProcessBench()], neither, Model())
    require_reporters(subcommand, [BestOfN(), ProcessBench()], neither, Model("outcome"))
    missing = "not given, and so left out of this run: BestOfN (data.benchmarks and data.rollouts)"
    assert notices == [f"{missing}, ProcessBench (data.visual_process_bench)", missing]


def test_a_report_of_either_data_is_left_out_where_there_are_none(tmp_path, monkeypatch):
    notices = []
    monkeypatch.setattr("lightning_modules.callbacks.required.rank_zero_info", notices.append)
    require_reporters("test", [PictureControls()], data(tmp_path, "benchmarks"), Model())
    assert notices == []
    require_reporters("fit", [PictureControls()], data(tmp_path), Model())
    (notice,) = notices
    assert "PictureControls (data.benchmarks and data.rollouts or data.visual_process_bench)" in notice
