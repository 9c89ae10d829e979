import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser

from lightning_modules.callbacks.defaults import KINDS, add_default_callbacks, chosen_callbacks
from lightning_modules.callbacks.gradients import GradientMonitor
from lightning_modules.callbacks.progress import RunProgress
from lightning_modules.callbacks.throughput import Throughput


def kinds(callbacks):
    return [type(callback) for callback in callbacks]


@pytest.mark.parametrize(
    ("trainer", "missing"),
    [
        ({}, []),
        ({"callbacks": None, "enable_progress_bar": True}, []),
        ({"callbacks": [Throughput()]}, []),
        ({"callbacks": GradientMonitor(stop_on_non_finite=False)}, ["gradient_monitor"]),
        ({"callbacks": [RichProgressBar()]}, ["progress"]),
        ({"enable_progress_bar": False}, ["progress"]),
    ],
)
def test_what_is_given_takes_the_place_of_a_default(trainer, missing):
    others = [Throughput()]
    made = [*others, *(kind() for kind in KINDS.values())]
    expected = [Throughput, *(kind for name, kind in KINDS.items() if name not in missing)]
    assert kinds(chosen_callbacks(made, trainer, monitoring=True)) == expected
    assert chosen_callbacks(made, trainer, monitoring=False) == others


def test_a_terminal_has_the_bar_of_lightning():
    (bar,) = chosen_callbacks([RunProgress(as_lines=False, refresh_rate=7)], {}, monitoring=True)
    assert isinstance(bar, TQDMProgressBar)
    assert bar.refresh_rate == 7


def test_settings_of_the_command():
    parser = LightningArgumentParser()
    add_default_callbacks(parser)
    arguments = ["--gradient_monitor.stop_on_non_finite=false", "--progress.seconds_between_lines=5"]
    settings = parser.parse_args(arguments)
    assert settings.monitoring
    made = parser.instantiate_classes(settings)
    assert kinds(made[name] for name in parser.callback_keys) == list(KINDS.values())
    assert not made.gradient_monitor.stop_on_non_finite
    assert made.progress.seconds_between_lines == 5
