"""Every objective and loss option through the `visualprm` command: fit, the metrics of its epochs, test."""

import json
import math

import pytest
import torch
from cli_runs import REPOSITORY, SMALLER, visualprm

from lightning_modules.process_reward import ProcessRewardModel

BASE = "experiments/quickstart/process_reward_model.yaml"
ABLATIONS = sorted(path.stem for path in (REPOSITORY / "experiments" / "ablations").glob("*.yaml"))
LOSSES_OF_VALUES = {"class_weights", "early_stop", "focal", "sample_averaging", "binomial"}
"""Overlays that change the loss alone: what they train is tested as any model of `value` or `soft` is."""
SMALL = [*SMALLER["process_reward_model"].split(), "--trainer.max_epochs=1", "--trainer.limit_train_batches=3"]
SMALL += ["--data.benchmark_names=[MathVision,LogicVista]"]


def fit(run, folder, *overlays, options=()):
    arguments = [f"--config=experiments/ablations/{name}.yaml" for name in overlays]
    # TensorBoard would be given a figure of every report; tests/test_end_to_end.py looks at these.
    output = [
        f"--trainer.default_root_dir={folder}",
        "--trainer.logger=CSVLogger",
        f"--trainer.logger.save_dir={folder}",
    ]
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


@pytest.fixture(scope="module")
def fitted(quickstart_run, tmp_path_factory):
    """Gives the command of `visualprm fit` with an overlay, and the folder of its results; each is run once."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = (fit(quickstart_run, folder, name), folder)
        return made[name]

    return run


def thorough(names, usual):
    """Cases of a test, of which `make test` runs the usual ones."""
    return [pytest.param(name, marks=[] if name in usual else [pytest.mark.thorough]) for name in names]


# `test_options_of_overlays_add_up` trains with the others, all together; tests/test_end_to_end.py has an outcome reward
# model.
@pytest.mark.parametrize("name", thorough(ABLATIONS, {"advantage", "regression", "class_weights"}))
def test_fit_and_validate(name, fitted):
    cli, folder = fitted(name)
    metrics = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
    assert math.isfinite(metrics["train/loss"])
    assert metrics["train/loss"] > 0
    for key in ("validation/loss", "validation/macro_f1", "validation/auroc", "best_of_n/overall"):
        assert math.isfinite(metrics[key])
    assert ("validation/mean_squared_error" in metrics) == (name in ("soft", "binomial", "regression"))
    assert ("process_bench/macro_f1" in metrics) == (name != "outcome")
    model = ProcessRewardModel.from_pretrained(folder / "model")
    assert model.protocol == cli.model.protocol
    assert model.protocol.score_range == (-1 if name == "advantage" else 0, 1)


def test_the_overlays_of_losses_are_there():
    assert set(ABLATIONS) >= LOSSES_OF_VALUES


@pytest.mark.parametrize("name", thorough(sorted(set(ABLATIONS) - LOSSES_OF_VALUES), {"advantage", "regression"}))
def test_the_exported_model_is_tested(name, fitted, quickstart_run, tmp_path):
    """With the default callbacks of the base experiment."""
    cli, folder = fitted(name)
    protocol, results, low = cli.model.protocol, tmp_path / "test", -1 if name == "advantage" else 0
    visualprm(
        quickstart_run,
        "test",
        f"--config={BASE}",
        *([f"--config=experiments/ablations/{name}.yaml"] if name == "outcome" else []),
        "--data.benchmark_names=[MathVision,LogicVista]",
        f"--model.model_name_or_path={folder / 'model'}",
        f"--model.objective={protocol.objective}",
        f"--model.threshold={protocol.threshold}",
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
    cli = fit(
        quickstart_run,
        tmp_path,
        "soft",
        "early_stop",
        "focal",
        "sample_averaging",
        options=["--trainer.fast_dev_run=true"],
    )
    assert math.isfinite(cli.trainer.callback_metrics["train/loss"])
    options = cli.model.step_loss.options
    assert cli.model.protocol.objective == "soft"
    assert (options.early_stop, options.focal_gamma, options.averaging) == (True, 2.0, "sample")


def test_checkpoints_hold_the_options_as_plain_values(fitted):
    (path,) = fitted("class_weights")[1].rglob("*.ckpt")
    stored = torch.load(path, weights_only=True)["hyper_parameters"]
    assert stored["loss"]["class_weights"] == [1.0, 9.0]
