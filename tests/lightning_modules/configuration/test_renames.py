import inspect
import logging
import pkgutil
import sys
from types import SimpleNamespace

import pytest

from datamodules.renamed_arguments import KEYS, BothNamesError
from datamodules.visual_prm_400k import VisualPRM400KDataModule
from lightning_modules.configuration.renames import (
    CLASS_PATHS,
    renamed_arguments,
    renamed_config,
)
from lightning_modules.policy import Policy
from lightning_modules.process_reward import ProcessRewardModel

OLD_STRATEGY = "lightning_modules.fully_sharded.FullyShardedStrategy"
STRATEGY = "lightning_modules.distributed.fully_sharded.FullyShardedStrategy"


class TunedPolicy(Policy):
    """A class of a user."""


class Unrelated:
    """Has an argument of its own that is called as an old one of ours."""


@pytest.fixture
def notices(caplog):
    """The lines of the log so far."""
    caplog.set_level(logging.WARNING, "datamodules.renamed_arguments")
    return lambda: [record.getMessage() for record in caplog.records]


def model(class_path=None, **arguments):
    return {"model": {**({"class_path": class_path} if class_path else {}), "init_args": arguments}}


def test_a_configuration_with_old_names(notices):
    config = {
        **model("lightning_modules.process_reward.ProcessRewardModel", warmup_share=0.1, learning_rate=1e-5),
        "data": {"class_path": "VisualPRM400KDataModule", "init_args": {"validation_share": 0.02}},
        "trainer": {"strategy": {"class_path": OLD_STRATEGY, "init_args": {"timeout": 60}}, "callbacks": [{}]},
    }
    assert renamed_config(config, "run.yaml") == {
        **model("lightning_modules.process_reward.ProcessRewardModel", warmup_ratio=0.1, learning_rate=1e-5),
        "data": {"class_path": "VisualPRM400KDataModule", "init_args": {"validation_fraction": 0.02}},
        "trainer": {"strategy": {"class_path": STRATEGY, "init_args": {"timeout": 60}}, "callbacks": [{}]},
    }
    assert config["model"]["init_args"]["warmup_share"] == 0.1  # what was given stays as it is
    assert notices() == [
        f"run.yaml: trainer.strategy.class_path: {OLD_STRATEGY} has a new name; write {STRATEGY}",
        "run.yaml: model.init_args.warmup_share has a new name; write model.init_args.warmup_ratio",
        "run.yaml: data.init_args.validation_share has a new name; write data.init_args.validation_fraction",
    ]


@pytest.mark.parametrize(
    ("class_path", "is_renamed"),
    [
        (None, True),  # an overlay
        ("Policy", True),
        ("lightning_modules.policy.Policy", True),
        ("of_a_user.TunedPolicy", True),
        ("of_a_user.Unrelated", False),
        ("nowhere.Model", False),
    ],
)
def test_whose_keys_are_renamed(class_path, is_renamed, notices, monkeypatch):
    # pytest imports test files under names of its own.
    monkeypatch.setitem(sys.modules, "of_a_user", SimpleNamespace(TunedPolicy=TunedPolicy, Unrelated=Unrelated))
    for nested in (lambda config: config, lambda config: {"fit": config}):
        renamed = renamed_config(nested(model(class_path, warmup_share=0.1)), "run.yaml")
        assert renamed == nested(model(class_path, **{"warmup_ratio" if is_renamed else "warmup_share": 0.1}))
    assert len(notices()) == 2 * is_renamed


def test_nothing_is_said_where_nothing_is_old(notices):
    config = model("Policy", warmup_ratio=0.1)
    assert renamed_config(config, "run.yaml") == config
    words = ["fit", "--config", "run.yaml", "--model.warmup_ratio", "0.1", "--note=warmup_share"]
    assert renamed_arguments(words) == words
    assert notices() == []


def test_both_names_are_an_error():
    with pytest.raises(BothNamesError, match=r"run\.yaml: model\.init_args has both warmup_ratio and warmup_share"):
        renamed_config(model("Policy", warmup_ratio=0.1, warmup_share=0.2), "run.yaml")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--model.warmup_share", "0.1"], ["--model.warmup_ratio", "0.1"]),
        (["--model.init_args.warmup_share=0.1"], ["--model.init_args.warmup_ratio=0.1"]),
        (["--data.validation_share=0.02"], ["--data.validation_fraction=0.02"]),
        ([f"--trainer.strategy={OLD_STRATEGY}"], [f"--trainer.strategy={STRATEGY}"]),
        (["--trainer.strategy.class_path", OLD_STRATEGY], ["--trainer.strategy.class_path", STRATEGY]),
        (
            ["--model", "{class_path: Policy, init_args: {warmup_share: 1e-1}}"],
            ["--model", '{"class_path": "Policy", "init_args": {"warmup_ratio": 0.1}}'],
        ),
    ],
)
def test_command_lines(given, expected, notices):
    assert renamed_arguments(["fit", *given]) == ["fit", *expected]
    (notice,) = notices()
    assert notice.startswith("command line: ")


def test_new_names_are_those_of_the_classes():
    """A row of the table that leads nowhere would turn a working file into an error."""
    classes = {kind.__name__: kind for kind in (ProcessRewardModel, Policy, VisualPRM400KDataModule)}
    for key in KEYS:
        for name in key.classes:
            assert key.new in inspect.signature(classes[name]).parameters
    for path in CLASS_PATHS.values():
        assert isinstance(pkgutil.resolve_name(path), type)
