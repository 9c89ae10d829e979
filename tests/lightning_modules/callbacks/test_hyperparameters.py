"""HParams and the layout of the charts, read back from the event files of a run."""

import re

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tiny_evaluation import Reader, collate_judged, judged_solutions, make_trainer
from torch.utils.data import DataLoader

from lightning_modules.callbacks.chart_layout import CHARTS, ChartLayout
from lightning_modules.callbacks.hyperparameters import Hyperparameters
from lightning_modules.callbacks.process_bench import ProcessBench


class Configured(Reader):
    def __init__(self, learning_rate, backbone):
        super().__init__()
        self.save_hyperparameters()


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    logger = TensorBoardLogger(folder, name="", version="run")
    trainer = make_trainer(folder, logger=logger, callbacks=[ProcessBench(), Hyperparameters(), ChartLayout()])
    judged = DataLoader(judged_solutions(), batch_size=2, collate_fn=collate_judged)
    module = Configured(0.25, {"lora": None, "dtype": "float32"})
    trainer.fit(module, DataLoader(torch.zeros(4, 1), batch_size=2), judged)
    return EventAccumulator(str(folder / "run"), size_guidance={"tensors": 0, "scalars": 0}).Reload()


def hparams_data(events, tag):
    content = events.SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def test_the_placeholder_is_gone(events):
    assert "hp_metric" not in events.Tags()["scalars"]


def test_hyperparameters_and_the_metrics_that_runs_are_compared_by(events):
    start = hparams_data(events, metadata.SESSION_START_INFO_TAG).session_start_info.hparams
    assert start["learning_rate"].number_value == 0.25
    assert (start["backbone/lora"].string_value, start["backbone/dtype"].string_value) == ("None", "float32")
    experiment = hparams_data(events, metadata.EXPERIMENT_TAG).experiment
    names = [info.name.tag for info in experiment.metric_infos]
    assert names == ["process_bench/macro_f1", "process_bench/auroc", "process_bench/first_wrong_exact"]
    # TensorBoard looks their values up in the charts: the last ones are those of the second epoch.
    assert [len(events.Scalars(name)) for name in names] == [2, 2, 2]
    assert hparams_data(events, metadata.SESSION_END_INFO_TAG).session_end_info.status == 1


def test_ten_charts_come_first(events):
    (tag,) = [tag for tag in events.Tags()["tensors"] if "custom_scalars" in tag]
    (event,) = events.Tensors(tag)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    found = {group.title: [chart.title for chart in group.chart] for group in layout.category}
    assert found == {group: list(charts) for group, charts in CHARTS.items()}
    assert sum(map(len, found.values())) == 10


# Of the event file of a run of experiments/quickstart.
LOGGED = [
    "best_of_n_methods/overall/prm_mean",
    "best_of_n/MathVerse-VO",
    "process_bench/macro_f1",
    "process_bench_sources/MMMU",
    "process_bench/first_wrong_exact",
    "validation/macro_f1",
    "validation/auroc",
    "train/loss",
    "train/gradient_norm",
    "throughput/tokens_per_second",
]


def test_each_chart_has_its_scalars():
    patterns = [pattern for charts in CHARTS.values() for (pattern,) in charts.values()]
    assert [[name for name in LOGGED if re.match(pattern, name)] for pattern in patterns] == [[name] for name in LOGGED]
    assert not any(
        re.match(pattern, name) for pattern in patterns for name in ("best_of_n/overall", "epoch", "lr-AdamW")
    )
