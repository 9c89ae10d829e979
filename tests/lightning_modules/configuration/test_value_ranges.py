"""Settings that are refused before anything is made."""

from datetime import timedelta

import pytest

from lightning_modules.configuration.value_ranges import require_paths, require_seed, require_trainer


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("accumulate_grad_batches", 0, "at least 1, got 0"),
        ("check_val_every_n_epoch", -1, "at least 1, got -1"),
        ("gradient_clip_val", -1.0, r"at least 0, got -1\.0"),
        ("log_every_n_steps", -1, "at least 0"),
        ("num_sanity_val_steps", -2, "at least -1"),
        ("val_check_interval", 0, "above 0"),
        ("val_check_interval", 0.0, "above 0"),
        ("limit_train_batches", 0.0, "trains on nothing"),
        ("devices", "1000000", "at most 1024, got 1000000"),
        ("devices", 5000, "at most 1024, got 5000"),
        ("max_time", "5", "must be a time above 0"),
        ("max_time", "00:00:00:00", "must be a time above 0"),
        ("max_time", {"minuts": 5}, "must be a time above 0"),
        ("max_time", {"seconds": -5}, "must be a time above 0"),
    ],
)
def test_numbers_of_the_trainer(name, value, says):
    with pytest.raises(ValueError, match=rf"^trainer\.{name}\b.*{says}"):
        require_trainer("fit", {name: value})


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {"accumulate_grad_batches": 1, "gradient_clip_val": 0, "log_every_n_steps": 0, "num_sanity_val_steps": -1},
        {"devices": "auto", "max_time": "00:12:00:00", "val_check_interval": "00:00:10:00"},
        {"devices": [0, 1], "max_time": {"hours": 3}, "limit_train_batches": 1.0, "val_check_interval": 0.5},
        {"devices": -1, "max_time": timedelta(hours=1), "min_steps": 2, "max_steps": -1},
    ],
)
def test_what_the_trainer_may_have(trainer):
    require_trainer("fit", trainer)


def test_steps_of_the_trainer():
    with pytest.raises(ValueError, match=r"min_steps must be at most max_steps=2, got 3"):
        require_trainer("fit", {"min_steps": 3, "max_steps": 2})
    require_trainer("validate", {"limit_train_batches": 0, "limit_predict_batches": 0})
    with pytest.raises(ValueError, match="limit_predict_batches 0 predicts nothing"):
        require_trainer("predict", {"limit_predict_batches": 0})


@pytest.mark.parametrize(
    ("key", "value"),
    [("cache_dir", "~/tables"), ("default_root_dir", "$HOME/run"), ("model_name_or_path", "~"), ("run_name", " ")],
)
def test_paths_that_only_a_shell_reads(key, value):
    """A folder named ``~`` would be made."""
    with pytest.raises(ValueError, match=rf"^data\.{key} must be a path, got '"):
        require_paths({"data": {key: value}})


def test_paths():
    require_paths(
        {"data": {"cache_dir": "a/~b", "train_annotations": ["a$.jsonl"], "instruction": "~", "run_name": None}}
    )


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_what_is_no_seed(seed):
    with pytest.raises(ValueError, match="seed_everything must be from 0 to 4294967295"):
        require_seed(seed)


@pytest.mark.parametrize("seed", [0, 2**32 - 1, True, False])
def test_seeds(seed):
    require_seed(seed)
