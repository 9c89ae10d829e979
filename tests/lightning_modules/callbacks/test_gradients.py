import json
from dataclasses import dataclass

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from lightning_modules.callbacks.gradients import GradientMonitor
from lightning_modules.distributed.gathering import SampleMeans
from lightning_modules.training.non_finite import NonFiniteError


@dataclass
class Batch:
    values: torch.Tensor
    sample_ids: list[str]


def collate(rows):
    return Batch(torch.tensor(rows), [f"row{row:g}" for row in rows])


class Line(LightningModule):
    """Loss mean((w x - 1) ** 2) of numbers x, from w = 0."""

    def __init__(self, rate=0.1):
        super().__init__()
        self.rate = rate
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return ((self.weight * batch.values - 1) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Root(Line):
    """Loss sqrt(w), whose value at w = 0 is finite and whose slope is not."""

    def training_step(self, batch, batch_idx):
        return self.weight.sqrt()


class Judged(Line):
    """Loses 1 / x in an evaluation of x."""

    def on_validation_epoch_start(self):
        self.means = SampleMeans()

    def validation_step(self, batch, batch_idx):
        self.means.update(batch.sample_ids, torch.ones(1), loss=1 / batch.values)

    def on_validation_epoch_end(self):
        self.log("validation/loss", self.means.compute()["loss"])


def fit(folder, module, rows=(1.0, 2.0, 3.0, 4.0), monitor=None, **options):
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[monitor or GradientMonitor()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **{"max_epochs": 1} | options,
    )
    rows = DataLoader(list(rows), batch_size=1, collate_fn=collate)
    trainer.fit(module, rows, rows if isinstance(module, Judged) else None)
    return trainer


def logged(folder):
    header, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    column = header.index("train/gradient_norm")
    return [float(line[column]) for line in lines]


def test_norm_of_the_accumulated_gradient_before_clipping(tmp_path):
    """The slope at x is 2 x (w x - 1); clipping to 0.5 with a rate of 0.1 moves w from 0 to 0.05."""
    fit(tmp_path, Line(), accumulate_grad_batches=2, gradient_clip_val=0.5)
    first = (2 * 1 * 1 + 2 * 2 * 1) / 2
    second = (2 * 3 * (1 - 0.05 * 3) + 2 * 4 * (1 - 0.05 * 4)) / 2
    assert logged(tmp_path) == pytest.approx([first, second])


def report_of(folder, step):
    return json.loads((folder / f"non_finite_step{step}.json").read_text())


def test_a_learning_rate_that_is_far_too_large(tmp_path):
    module = Line(rate=1e30)
    with pytest.raises(
        NonFiniteError, match=r"step 1 .*1 of 1 batches is not finite: rank 0, batch 1, loss inf"
    ) as error:
        fit(tmp_path, module)
    assert "samples row2." in str(error.value)
    assert module.weight.item() == pytest.approx(2e30)  # of the first step
    report = report_of(tmp_path, 1)
    (batch,) = report["offending_batches"]
    assert (batch["sample_ids"], batch["loss"], batch["rank"], batch["batch"]) == (["row2"], "inf", 0, 1)
    assert report["learning_rates"] == [1e30]
    assert logged(tmp_path) == [2.0]


def test_the_window_of_accumulated_batches(tmp_path):
    with pytest.raises(NonFiniteError, match="the loss of 1 of 3 batches"):
        fit(tmp_path, Line(), rows=[1.0, float("inf"), 3.0, 4.0], accumulate_grad_batches=3)
    report = report_of(tmp_path, 0)
    assert [batch["sample_ids"] for batch in report["offending_batches"]] == [["rowinf"]]
    assert [batch["sample_ids"] for batch in report["batches_of_the_step"]] == [["row1"], ["rowinf"], ["row3"]]
    assert report["batches_of_the_step"][0]["loss"] == pytest.approx(1 / 3)  # Lightning has divided it


def test_a_gradient_that_is_not_finite_though_the_loss_is(tmp_path):
    module = Root()
    with pytest.raises(
        NonFiniteError, match=r"gradient is not finite \(norm inf\), though the losses of all 1 batches"
    ):
        fit(tmp_path, module)
    assert module.weight.item() == 0
    report = report_of(tmp_path, 0)
    assert (report["what"], report["gradient_norm"], report["offending_batches"]) == ("gradient", "inf", [])
    assert report["parameters_with_non_finite_gradients"] == ["weight"]
    assert [batch["sample_ids"] for batch in report["batches_of_the_step"]] == [["row1"]]


def test_the_next_epoch_has_a_window_of_its_own(tmp_path):
    class Later(Line):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (float("nan") if self.current_epoch else 1.0)

    with pytest.raises(NonFiniteError, match="step 2 of epoch 1: the loss of 3 of 3 batches"):
        fit(tmp_path, Later(), accumulate_grad_batches=3, max_epochs=2)
    assert [batch["batch"] for batch in report_of(tmp_path, 2)["batches_of_the_step"]] == [0, 1, 2]


def test_it_may_go_on(tmp_path):
    trainer = fit(tmp_path, Root(), monitor=GradientMonitor(stop_on_non_finite=False))
    assert trainer.global_step == 4
    assert logged(tmp_path)[0] == float("inf")
    assert not list(tmp_path.glob("non_finite*"))


def test_gradients_that_overflow_are_left_to_the_scaling_of_the_loss(tmp_path):
    def scaled(module):
        precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
        return fit(tmp_path, module, plugins=[precision])

    module = Root()
    assert scaled(module).global_step == 4
    assert module.weight.item() == 0
    with pytest.raises(NonFiniteError, match="loss"):
        scaled(Line(rate=1e30))


def test_a_trial_run_writes_no_file(tmp_path):
    with pytest.raises(NonFiniteError, match=r"samples row1\. .*fast_dev_run writes no file"):
        fit(tmp_path, Root(), fast_dev_run=True)
    assert not list(tmp_path.rglob("*.json"))


def test_an_evaluation(tmp_path):
    with pytest.raises(NonFiniteError, match="the loss of 1 of 4 samples of this evaluation is not finite: row0;") as e:
        fit(tmp_path, Judged(), rows=[1.0, 2.0, 0.0, 4.0], num_sanity_val_steps=0)
    path = tmp_path / "non_finite_validate_step4.json"
    assert str(path) in e.value.__notes__[0]
    assert json.loads(path.read_text()) == {"what": "loss", "stage": "validate", "step": 4, "losses": {"row0": "inf"}}
