"""Commands of the quickstart and of their users: which values reach where."""

import logging
import re

import pytest
import yaml
from cli_runs import parsed

from lightning_modules.configuration.parser import run_name_option, with_run_name

BASE = "experiments/quickstart/process_reward_model.yaml"
LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"


@pytest.fixture
def write(tmp_path):
    """Writes a configuration file and gives its path."""

    def write_file(name, content):
        (tmp_path / name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return tmp_path / name

    return write_file


def model_folder(config):
    folders = [callback["init_args"].get("folder") for callback in config["trainer"]["callbacks"]]
    (folder,) = filter(None, folders)
    return folder


def version(config):
    return config["trainer"]["logger"]["init_args"]["version"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "process_reward_model"),
        (["--run_name=x"], "x"),
        (["--trainer.logger.init_args.version=x"], "x"),
        (["--trainer.logger.version", "x"], "x"),
        (["--config=experiments/ablations/soft.yaml"], "ablation_soft"),
        (["--config=experiments/ablations/soft.yaml", "--config=experiments/ablations/focal.yaml"], "ablation_focal"),
        (["--config=experiments/ablations/soft.yaml", "--run_name=x"], "x"),
    ],
)
def test_the_model_is_written_where_the_name_says(options, name, tmp_path):
    config = parsed(tmp_path, "fit", "--config", BASE, *options)
    assert (config["run_name"], version(config)) == (name, name)
    assert model_folder(config) == f"{tmp_path}/{name}"


def test_overlays_of_users_name_their_run_by_version(write, tmp_path):
    """As the ablations did once; a model of such a run went over the one of the base."""
    named = {"class_path": LOGGER, "init_args": {"version": "mine"}}
    overlay = write("overlay.yaml", {"trainer": {"logger": named}})
    config = parsed(tmp_path, "fit", "--config", BASE, "--config", overlay)
    assert (version(config), model_folder(config)) == ("mine", f"{tmp_path}/mine")
    # A name that is given beside it counts for the folders.
    config = parsed(tmp_path, "fit", "--config", BASE, "--config", overlay, "--run_name=other")
    assert (version(config), model_folder(config)) == ("mine", f"{tmp_path}/other")


def test_no_logger_is_needed(tmp_path):
    config = parsed(tmp_path, "fit", "--config", BASE, "--trainer.logger=false")
    assert model_folder(config) == f"{tmp_path}/process_reward_model"


def test_a_reference_to_another_file(write, tmp_path):
    overlay = write("overlay.yaml", {"data": {"init_args": {"batch_size": "${data.init_args.questions_per_batch}"}}})
    config = parsed(tmp_path, "fit", "--config", BASE, "--config", overlay, "--data.questions_per_batch=5")
    assert config["data"]["init_args"]["batch_size"] == 5


def test_old_names(write, tmp_path, caplog):
    overlay = write(
        "old.yaml",
        "model: {init_args: {warmup_share: 1e-1}}\n"
        "trainer: {strategy: {class_path: lightning_modules.fully_sharded.FullyShardedStrategy}}\n",
    )
    with caplog.at_level(logging.WARNING, "lightning_modules"):
        config = parsed(tmp_path, "fit", "--config", BASE, f"--config={overlay}", "--data.validation_share", "0.25")
    assert config["model"]["init_args"]["warmup_ratio"] == 0.1
    assert config["data"]["init_args"]["validation_fraction"] == 0.25
    strategy = config["trainer"]["strategy"]["class_path"]
    assert strategy == "lightning_modules.distributed.fully_sharded.FullyShardedStrategy"
    notices = [record.getMessage() for record in caplog.records]
    assert [notice.partition(": ")[0] for notice in notices] == ["command line", str(overlay), str(overlay)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_epoch=3"], r"--trainer\.max_epoch"),
        (["--data.cache_dir=${nowhere}"], r"'\.?nowhere' not found(?s:.)*data\.cache_dir"),
        (["--model", "{init_args: {warmup_share: 0.1, warmup_ratio: 0.2}}"], "both warmup_ratio and warmup_share"),
    ],
)
def test_mistakes_end_the_command_with_the_key(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parsed(tmp_path, "fit", "--config", BASE, *options)
    assert re.search(message, capsys.readouterr().err)


def test_text_that_is_no_yaml_is_left_to_the_parser(write, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parsed(tmp_path, "fit", "--config", write("broken.yaml", "model: ["))
    assert "Problems parsing config" in capsys.readouterr().err


def logger_of(value):
    return {"trainer": {"logger": {"init_args": {"version": value}}}}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (logger_of("x"), "x"),
        (logger_of(3), "3"),
        (logger_of(None), None),
        (logger_of("${run_name}"), None),
        ({"trainer": {"logger": False}}, None),
        ({}, None),
        ({**logger_of("x"), "run_name": "y"}, "y"),
    ],
)
def test_the_name_of_a_file(config, name):
    assert with_run_name(config).get("run_name") == name
    assert with_run_name({"fit": config})["fit"].get("run_name") == name


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["--trainer.logger.version=x"], ["--run_name=x"]),
        (["--trainer.logger.init_args.version", "x"], ["--run_name=x"]),
        (["--trainer.logger.version=x", "--run_name", "y"], []),
        (["--trainer.logger.version=null"], []),
        (["--trainer.logger.name=x"], []),
        (["--trainer.logger.version"], []),
    ],
)
def test_the_name_of_a_command_line(words, added):
    assert run_name_option(["fit", *words]) == added
