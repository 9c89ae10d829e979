"""Every YAML under experiments/ runs: its first comment says with which command."""

import itertools
import re
import shlex

import pytest
from cli_runs import REPOSITORY, visualprm
from lightning.pytorch import LightningDataModule, LightningModule

from lightning_modules.cli import VisualPRMCLI

LARGE = ("visualprm_8b", "strategies")
EXPERIMENTS = sorted((REPOSITORY / "experiments").rglob("*.yaml"))
RUN_FOR_REAL = {"base", "outcome_reward_model", "outcome_reward_model_test", "annotation"}
"""Stages of the quickstart, which `quickstart_run` runs, whose trial run is like that of another stage."""


def name_of(path):
    return str(path.relative_to(REPOSITORY))


def command_of(path):
    """Arguments of the `visualprm` command in the comment that a YAML begins with."""
    comment = re.match(r"(?:#.*\n)+", path.read_text())
    assert comment, f"{path}: begin with a comment that says what it is for and how it is run"
    command = re.search(r"visualprm (.+)", comment[0])
    assert command, f"{path}: the first comment must hold its `visualprm` command"
    return shlex.split(command[1])


class Parsed(VisualPRMCLI):
    """The command up to what its files come to."""

    def instantiate_classes(self):
        """Make nothing."""


def test_large_experiments_compose_with_every_strategy(monkeypatch):
    monkeypatch.setattr("sys.argv", ["visualprm"])
    large, strategies = (sorted((REPOSITORY / "experiments" / name).glob("*.yaml")) for name in LARGE)
    alone = {}
    for overlay, strategy in itertools.product(large, [None, *strategies]):
        files = dict.fromkeys([REPOSITORY / "experiments/visualprm_8b/full.yaml", overlay, *filter(None, [strategy])])
        words = [f"--config={path}" for path in files]
        parts = {"subclass_mode_model": True, "subclass_mode_data": True, "parser_kwargs": {"parser_mode": "omegaconf"}}
        config = Parsed(LightningModule, LightningDataModule, run=False, args=words, **parts).config
        trainer, rest = vars(config.trainer), {"model": config.model, "data": config.data}
        if strategy is None:
            alone = {"rest": rest, "trainer": trainer}
            continue
        # An overlay decides where weights are, and nothing of the training itself.
        assert rest == alone["rest"], (overlay, strategy)
        changed = {name for name in trainer if trainer[name] != alone["trainer"][name]}
        assert changed <= {"strategy", "devices", "num_nodes", "inference_mode"}, (overlay, strategy)
        assert changed & {"strategy", "devices"}, (overlay, strategy)


def files_of(folder):
    """What is there and when it was written; not the cache of tables, which is known by content."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "cache" not in path.relative_to(folder).parts]
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in paths}


@pytest.fixture
def on_this_machine(path, quickstart_run, tiny_checkpoint, monkeypatch):
    """Overrides with which an experiment made for large machines runs here: a tiny checkpoint, a few rows, the CPU."""
    if path.parent.name not in LARGE:
        return []
    monkeypatch.setenv("VISUALPRM_BASE", str(tiny_checkpoint))
    monkeypatch.setenv("VISUALPRM_DATA", str(quickstart_run / "world/prompts/process_supervision.jsonl"))
    monkeypatch.setenv("VISUALPRM_WORKERS", "0")
    monkeypatch.setenv("VISUALPRM_OFFLOAD_BACKEND", "gloo")  # NCCL begins on GPUs only
    return ["--trainer.accelerator=cpu", "--trainer.devices=1", "--data.validation_share=0.2"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_the_command_of_the_first_comment_is_of_this_file(path):
    arguments = command_of(path)
    named = [arguments[i + 1] for i, argument in enumerate(arguments) if argument == "--config"]
    assert named[-1] == name_of(path)
    assert all((REPOSITORY / name).is_file() for name in named)
    if path.parent.name == "ablations":  # what tests/test_ablations.py runs
        assert arguments[0] == "fit"
        assert named == ["experiments/quickstart/process_reward_model.yaml", name_of(path)]


def trial_run(path):
    """A case of the test below; tests/test_ablations.py runs ablations by the same commands."""
    is_run_elsewhere = path.parent.name == "ablations" or path.stem in RUN_FOR_REAL
    return pytest.param(path, marks=[pytest.mark.thorough] if is_run_elsewhere else [], id=name_of(path))


@pytest.mark.parametrize("path", map(trial_run, EXPERIMENTS))
def test_fast_dev_run(path, quickstart_run, on_this_machine):
    arguments = command_of(path)
    before = files_of(quickstart_run)
    cli = visualprm(quickstart_run, *arguments, "--trainer.fast_dev_run=true", *on_this_machine)
    assert cli.trainer.state.finished
    assert cli.trainer.fast_dev_run
    # A trial run leaves no result behind that the real run would take for its own.
    assert files_of(quickstart_run) == before
