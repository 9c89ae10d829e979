"""Every objective and loss option through the `visualprm` command: fit, the metrics of its epochs, test."""

import json
import math

import pytest
import torch
from cli_runs import REPOSITORY, SMALLER, visualprm

from lightning_modules.process_reward import ProcessRewardModel

BASE = "experiments/quickstart/process_reward_model.yaml"
ABLATIONS = sorted(path.stem for path in (REPOSITORY / "experiments" / "ablations").glob("*.yaml"))
SMALL = [*SMALLER["process_reward_model"].split(), "--trainer.max_epochs=1", "--trainer.limit_train_batches=3"]
SMALL += ["--data.benchmark_names=[MathVision,LogicVista]"]


def fit(run, folder, *overlays, options=()):
    arguments = [f"--config=experiments/ablations/{name}.yaml" for name in overlays]
    output = [f"--trainer.default_root_dir={folder}", f"--trainer.logger.save_dir={folder}"]
    return visualprm(
        run,
        "fit",
        f"--config={BASE}",
        *arguments,
        *SMALL,
        *output,
        f"--trainer.callbacks.folder={folder / 'model'}",
        *options,
    )


@pytest.mark.parametrize("name", ABLATIONS)
def test_fit_validate_and_test(name, quickstart_run, tmp_path):
    cli = fit(quickstart_run, tmp_path, name)
    metrics = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
    assert math.isfinite(metrics["train/loss"])
    assert metrics["train/loss"] > 0
    for key in ("validation/loss", "validation/macro_f1", "validation/auroc", "best_of_n/overall"):
        assert math.isfinite(metrics[key])
    assert ("validation/mean_squared_error" in metrics) == (name in ("soft", "binomial", "regression"))
    assert ("process_bench/macro_f1" in metrics) == (name != "outcome")
    low = -1 if name == "advantage" else 0
    model = ProcessRewardModel.from_pretrained(tmp_path / "model")
    assert model.protocol == cli.model.protocol
    assert model.protocol.score_range == (low, 1)
    # The model of that folder, tested with the default callbacks of the base experiment.
    results = tmp_path / "test"
    visualprm(
        quickstart_run,
        "test",
        f"--config={BASE}",
        *([f"--config=experiments/ablations/{name}.yaml"] if name == "outcome" else []),
        "--data.benchmark_names=[MathVision,LogicVista]",
        f"--model.model_name_or_path={tmp_path / 'model'}",
        f"--model.objective={model.protocol.objective}",
        f"--model.threshold={model.protocol.threshold}",
        "--trainer.logger=false",
        f"--trainer.default_root_dir={results}",
    )
    rows = [json.loads(line) for line in (results / "candidate_scores.jsonl").read_text().splitlines()]
    scores = [score for row in rows for score in row["step_scores"]]
    assert all(low <= score <= 1 for score in scores)
    assert min(scores) < max(scores)
    methods = json.loads((results / "best_of_n_test.json").read_text())["accuracies"]["overall"]
    assert ("prm_product" in methods) == (name not in ("advantage", "outcome"))
    if name == "advantage":
        assert min(scores) < 0
    if name != "outcome":
        report = json.loads((results / "process_bench_test.json").read_text())
        assert report["threshold"] == (0 if name == "advantage" else 0.5)
        assert (report["overall"]["expected_calibration_error"] is None) == (name == "advantage")
        assert 0 <= report["overall"]["auroc"] <= 1


def test_options_of_overlays_add_up(quickstart_run, tmp_path):
    cli = fit(quickstart_run, tmp_path, "soft", "early_stop", "focal", options=["--model.loss.averaging=sample"])
    options = cli.model.step_loss.options
    assert cli.model.protocol.objective == "soft"
    assert (options.early_stop, options.focal_gamma, options.averaging) == (True, 2.0, "sample")


def test_checkpoints_hold_the_options_as_plain_values(quickstart_run, tmp_path):
    fit(quickstart_run, tmp_path, "class_weights")
    (path,) = tmp_path.rglob("*.ckpt")
    stored = torch.load(path, weights_only=True)["hyper_parameters"]
    assert stored["loss"]["class_weights"] == [1.0, 9.0]
