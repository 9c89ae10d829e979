from datetime import timedelta

import pytest
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.strategies import DDPStrategy

from lightning_modules.distributed.time_limits import register_seconds

register_seconds()


def parser():
    made = ArgumentParser(exit_on_error=False)
    made.add_class_arguments(DDPStrategy, "strategy", skip={"accelerator", "parallel_devices", "precision_plugin"})
    return made


@pytest.mark.parametrize("value", [90, 90.0, "90", "0:01:30"])
def test_time_outs_of_strategies_in_seconds(value):
    config = parser().parse_object({"strategy": {"timeout": value}})
    assert config.strategy.timeout == timedelta(seconds=90)
    assert parser().parse_args([f"--strategy.timeout={value}"]).strategy.timeout == timedelta(seconds=90)
    # What the saved configuration says is read again.
    assert parser().parse_string(parser().dump(config)).strategy.timeout == timedelta(seconds=90)


@pytest.mark.parametrize("value", [0, -5, "soon", True, float("inf"), float("nan")])
def test_what_is_no_duration(value):
    with pytest.raises(ArgumentError, match="timeout"):
        parser().parse_object({"strategy": {"timeout": value}})
