import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn

from lightning_modules.callbacks.reporting import output_folder, run_label
from lightning_modules.distributed.gathering import gather_rows


def trainer_with(tmp_path, **options):
    return Trainer(accelerator="cpu", default_root_dir=tmp_path, enable_checkpointing=False, **options)


def test_first_of_copies_is_kept_in_order():
    rows = [("b", 1), ("a", 2), ("b", 3), ("c", 4)]
    assert gather_rows(rows, key=lambda row: row[0]) == [("b", 1), ("a", 2), ("c", 4)]


def test_folder_is_the_given_the_loggers_or_the_trainers(tmp_path):
    logger = CSVLogger(tmp_path, name="runs", version="first")
    assert output_folder(trainer_with(tmp_path, logger=logger), None) == tmp_path / "runs" / "first"
    assert output_folder(trainer_with(tmp_path, logger=logger), str(tmp_path / "mine")) == tmp_path / "mine"
    assert output_folder(trainer_with(tmp_path, logger=False), None) == tmp_path
    assert output_folder(trainer_with(tmp_path, fast_dev_run=True), str(tmp_path)) is None


@pytest.mark.parametrize(
    ("function", "check_batch", "expected"),
    [
        (TrainerFn.TESTING, None, "test"),
        (TrainerFn.VALIDATING, None, "validate"),
        (TrainerFn.FITTING, 10, "epoch0"),
        (TrainerFn.FITTING, 5, "epoch0_step0"),
        (TrainerFn.FITTING, None, "epoch0"),
        (TrainerFn.FITTING, float("inf"), "epoch0"),
    ],
)
def test_labels(tmp_path, function, check_batch, expected):
    trainer = trainer_with(tmp_path, logger=False)
    trainer.state.fn = function
    trainer.fit_loop.max_batches = 10
    trainer.val_check_batch = check_batch
    assert run_label(trainer) == expected
