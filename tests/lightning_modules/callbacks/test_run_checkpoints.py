"""Which checkpoints are written, kept and found; and that no kill leaves one that is wrong."""

import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from counting import Counting, fit
from distributed_ranks import run_ranks
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.callbacks.resumable_training import seed_batch
from lightning_modules.callbacks.run_checkpoints import RunCheckpoints, checkpoint_to_load
from lightning_modules.checkpointing import run_lock
from lightning_modules.checkpointing.folder import is_checkpoint_folder, remove_leftovers, write_folder
from lightning_modules.checkpointing.reading import read_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.is_symlink())


def steps(folder):
    return [int(name.removeprefix("step_")) for name in names(folder)]


def target(folder, link):
    return int(os.readlink(folder / link).removeprefix("step_"))


def weight(path):
    return read_folder(path)["state_dict"]["weight"].tolist()


def test_a_kill_at_any_moment_of_saving(tmp_path):
    """Before every single change of a file or folder: what has a checkpoint's name is whole and of its own step."""
    folder = tmp_path / "runs"
    run_ranks(f"{Path(__file__).with_name('crash_points.py')}:main", [str(folder)], ranks=1, folder=tmp_path)
    runs = sorted(folder.iterdir())
    assert len(runs) > 25
    latest = []
    for folder in runs:
        for path in folder.glob("step_*"):
            assert is_checkpoint_folder(path)
            found = read_folder(path, with_optimizers=True)
            assert found["state_dict"]["weight"].tolist() == [found["global_step"]] * 3
            assert path.name == f"step_{found['global_step']:08d}"
            assert (
                found["optimizer_states"][0]["state"]["weight"]["momentum_buffer"].tolist()
                == [found["global_step"]] * 3
            )
        link = folder / "latest"
        latest.append(target(folder, "latest") if link.is_symlink() else 0)
        assert not link.is_symlink() or is_checkpoint_folder(link)
        remove_leftovers(folder)
        assert all(name.startswith("step_") for name in names(folder))
    # It never goes back, and comes to the end.
    assert latest == sorted(latest)
    assert set(latest) == {0, 1, 2}
    assert steps(runs[-1]) == [2]


def test_the_last_ones_are_kept(tmp_path):
    fit(tmp_path, Counting(), RunCheckpoints(str(tmp_path / "c"), every_n_steps=1, keep_last=3))
    assert steps(tmp_path / "c") == [6, 7, 8]
    assert target(tmp_path / "c", "latest") == 8
    assert not (tmp_path / "c" / "best").exists()


def test_ends_of_epochs_and_of_training(tmp_path):
    fit(tmp_path, Counting(), RunCheckpoints(str(tmp_path / "c"), keep_last=9), max_epochs=2)
    assert steps(tmp_path / "c") == [4, 8]
    fit(tmp_path, Counting(), RunCheckpoints(str(tmp_path / "d"), keep_last=9), max_steps=6)
    assert steps(tmp_path / "d") == [4, 6]


def test_the_best_ones_are_kept(tmp_path):
    """By hand: of the scores of four evaluations, those of steps 2 and 6 are the highest; NaN is not one."""
    scores = {2: 0.7, 4: 0.2, 6: 0.9, 8: math.nan}
    keeper = RunCheckpoints(str(tmp_path / "c"), keep_last=1, monitor="score", keep_best=2)
    trainer = fit(tmp_path, Counting(scores), keeper, val_check_interval=2)
    assert steps(tmp_path / "c") == [2, 6, 8]
    assert target(tmp_path / "c", "best") == 6
    assert target(tmp_path / "c", "latest") == 8
    assert trainer.checkpoint_callback.best_model_path == str((tmp_path / "c" / "step_00000006").resolve())
    keeper = RunCheckpoints(str(tmp_path / "d"), keep_last=1, monitor="score", mode="min")
    fit(tmp_path, Counting(scores | {8: 0.5}), keeper, val_check_interval=2)
    assert steps(tmp_path / "d") == [4, 8]
    assert target(tmp_path / "d", "best") == 4


def test_scores_survive_a_restart(tmp_path):
    scores = {2: 0.7, 4: 0.2, 6: 0.3, 8: 0.4}
    make = lambda: RunCheckpoints(str(tmp_path / "c"), keep_last=1, monitor="score")  # noqa: E731
    fit(tmp_path, Counting(scores), make(), val_check_interval=2, max_steps=4)
    assert steps(tmp_path / "c") == [2, 4]
    again = Counting(scores)
    fit(tmp_path, again, make(), tmp_path / "c" / "latest", val_check_interval=2)
    assert again.evaluated == [6, 8]
    assert again.weight.tolist() == [8.0] * 3
    assert steps(tmp_path / "c") == [2, 8]
    assert target(tmp_path / "c", "best") == 2


def test_a_metric_that_is_not_there(tmp_path):
    keeper = RunCheckpoints(str(tmp_path / "c"), monitor="best_of_n/overall")
    with pytest.raises(ValueError, match=r"has logged no 'best_of_n/overall' \(monitor\), but \['score'\]"):
        fit(tmp_path, Counting(dict.fromkeys(range(9), 1.0)), keeper)


def test_going_back(tmp_path, caplog):
    """From step 3 again: later checkpoints, which another run may have computed, are kept apart."""
    fit(tmp_path, Counting(), RunCheckpoints(str(tmp_path / "c"), every_n_steps=1, keep_last=9))
    keeper = RunCheckpoints(str(tmp_path / "c"), every_n_steps=2, keep_last=9)
    fit(tmp_path, Counting(), keeper, tmp_path / "c" / "step_00000003", max_steps=6)
    aside = tmp_path / "c" / "later_than_step_00000003"
    assert steps(aside) == [4, 5, 6, 7, 8]
    names_of_them = ", ".join(f"step_{step:08d}" for step in range(4, 9))
    assert f"later checkpoints ({names_of_them}) are now in {aside}" in caplog.text
    assert [path.name for path in sorted((tmp_path / "c").glob("step_*"))] == [f"step_{n:08d}" for n in (1, 2, 3, 4, 6)]
    assert target(tmp_path / "c", "latest") == 6
    assert all(weight(path) == [float(path.name[5:])] * 3 for path in (tmp_path / "c").rglob("step_*"))
    keeper = RunCheckpoints(str(tmp_path / "c"), keep_last=1)
    fit(tmp_path, Counting(), keeper, tmp_path / "c" / "step_00000003")
    assert steps(tmp_path / "c" / "later_than_step_00000003_2") == [4, 6]
    assert steps(aside) == [4, 5, 6, 7, 8]


def test_a_best_one_that_is_later(tmp_path):
    """`best` then points to the best of those that the run goes on from."""
    scores = {2: 0.7, 4: 0.2, 6: 0.9, 8: 0.1}
    make = lambda: RunCheckpoints(str(tmp_path / "c"), keep_last=9, monitor="score")  # noqa: E731
    fit(tmp_path, Counting(scores), make(), val_check_interval=2)
    assert target(tmp_path / "c", "best") == 6
    fit(tmp_path, Counting(scores | {6: 0.3}), make(), tmp_path / "c" / "step_00000004", val_check_interval=2)
    assert target(tmp_path / "c", "best") == 2
    assert steps(tmp_path / "c" / "later_than_step_00000004") == [6, 8]


def test_a_folder_of_another_run(tmp_path):
    fit(tmp_path, Counting(), RunCheckpoints(str(tmp_path / "c")))
    with pytest.raises(FileExistsError, match=r"holds checkpoints of another run \(step_00000004.* begins anew"):
        fit(tmp_path, Counting(), RunCheckpoints(str(tmp_path / "c")))
    with pytest.raises(FileExistsError, match="give it a folder of its own, or go on with --ckpt_path"):
        fit(tmp_path, Counting(), RunCheckpoints(str(tmp_path / "c")), None)
    # A run may begin with the checkpoint of another one in a folder of its own.
    begun = Counting()
    fit(tmp_path, begun, RunCheckpoints(str(tmp_path / "d")), tmp_path / "c" / "step_00000004")
    assert begun.weight.tolist() == [8.0] * 3
    assert steps(tmp_path / "d") == [8]


def test_which_checkpoint_is_meant(tmp_path):
    keeper = RunCheckpoints(str(tmp_path / "c"))
    trainer = fit(tmp_path, Counting(), keeper)
    latest = str((tmp_path / "c" / "step_00000008").resolve())
    assert checkpoint_to_load(trainer, True, None) == latest
    assert checkpoint_to_load(trainer, False, None) is None
    for name in ("latest", "last"):
        assert checkpoint_to_load(trainer, False, name) == latest
    assert checkpoint_to_load(trainer, True, "elsewhere.ckpt") == "elsewhere.ckpt"
    with pytest.raises(ValueError, match=r"holds 2 checkpoints .* but 'best' points to none of them"):
        checkpoint_to_load(trainer, False, "best")
    keeper.resume = False
    assert checkpoint_to_load(trainer, True, None) is None
    keeper.kept.folder = tmp_path / "nothing"
    keeper.resume = True
    assert checkpoint_to_load(trainer, True, None) is None
    with pytest.raises(ValueError, match=r"--ckpt_path latest: there is no checkpoint in .*nothing"):
        checkpoint_to_load(trainer, False, "latest")


def test_a_run_that_was_killed_before_its_first_link(tmp_path):
    """The checkpoint is whole, so the same command goes on from it."""
    keeper = RunCheckpoints(str(tmp_path / "c"), every_n_steps=1)
    trainer = fit(tmp_path, Counting(), keeper, max_steps=1)
    (tmp_path / "c" / "latest").unlink()
    found = checkpoint_to_load(trainer, True, None)
    assert found == str((tmp_path / "c" / "step_00000001").resolve())
    begun = Counting()
    fit(tmp_path, begun, keeper, found)
    assert begun.weight.tolist() == [8.0] * 3
    assert target(tmp_path / "c", "latest") == 8


def test_two_runs_at_once(tmp_path, monkeypatch):
    """The second one would remove what the first one is writing. Children of a killed run do not keep the lock."""
    monkeypatch.setattr(run_lock, "PATIENCE", 0.2)
    half_written = tmp_path / "c" / ".saving-step_00000001"
    half_written.mkdir(parents=True)
    program = (
        "import os, sys, pathlib, time; from lightning_modules.checkpointing.run_lock import RunLock\n"
        "lock = RunLock(pathlib.Path(sys.argv[1])); lock.take()\n"
        "if os.fork() == 0: time.sleep(20); os._exit(0)\n"
        "print('taken', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "c")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "taken\n"
        with pytest.raises(
            RuntimeError, match=rf"/c: another run writes here now: host \S+, process {other.pid}, since 20"
        ):
            fit(tmp_path, Counting(), RunCheckpoints(str(tmp_path / "c")))
        assert half_written.exists()
        other.kill()
    fit(tmp_path, Counting(), RunCheckpoints(str(tmp_path / "c")))
    assert steps(tmp_path / "c") == [4, 8]


def test_a_run_that_waits_goes_on_from_where_the_other_one_ends(tmp_path):
    """What is the latest is asked only when nobody else can save any more."""
    folder = tmp_path / "c"
    trainer = fit(tmp_path, Counting(), RunCheckpoints(str(folder), every_n_steps=1, keep_last=9), max_steps=3)
    shutil.copytree(folder / "step_00000003", tmp_path / "later")
    has_it = threading.Event()

    def other_run():
        with run_lock.RunLock(folder).held():
            has_it.set()
            time.sleep(0.5)
            (tmp_path / "later").rename(folder / "step_00000005")
            (folder / "latest").unlink()
            (folder / "latest").symlink_to("step_00000005")
            shutil.rmtree(folder / "step_00000003")

    thread = threading.Thread(target=other_run)
    thread.start()
    assert has_it.wait(20)
    found = checkpoint_to_load(trainer, True, None)
    thread.join()
    assert found == str((folder / "step_00000005").resolve())
    # Other ranks follow the link when they load, after rank zero has come so far.
    trainer.strategy.__class__ = type("NotTheFirst", (type(trainer.strategy),), {"is_global_zero": False})
    assert checkpoint_to_load(trainer, True, None) == str(folder / "latest")


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"since": timedelta(seconds=1)}

    keeper = RunCheckpoints(str(tmp_path / "c"))
    with pytest.raises(RuntimeError, match=r"step_00000004: .* callbacks\['.*Odd'\] of it must be plain .*timedelta"):
        fit(tmp_path, Counting(), keeper, callbacks=[keeper, Odd()])
    assert not list((tmp_path / "c").glob("step_*"))


@pytest.fixture
def full_disk():
    """Files cannot grow beyond 2,000 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("what", ["state_dict", "more"])
def test_a_full_disk(what, tmp_path, full_disk):
    """An error that names the checkpoint, which is not there, and nothing that looks like one."""
    checkpoint = {"state_dict": {"weight": torch.zeros(3)}, what: {"weight": torch.zeros(3000)}}
    with pytest.raises(RuntimeError, match="step_00000001: the checkpoint cannot be written: "):
        write_folder(tmp_path / "step_00000001", checkpoint, together=False)
    assert not (tmp_path / "step_00000001").exists()


def test_a_full_disk_is_called_so(tmp_path, full_disk, monkeypatch):
    """PyTorch calls it "unexpected pos"; that no room is left is asked of the operating system."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(OSError, match=r"No space left on device: '.*step_00000001'"):
        write_folder(tmp_path / "step_00000001", {"state_dict": {"weight": torch.zeros(3000)}}, together=False)
    assert not (tmp_path / "step_00000001").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "c").touch()
    with pytest.raises(RuntimeError, match=r"step_00000001: the checkpoint cannot be written: .*Not a directory"):
        write_folder(tmp_path / "c" / "step_00000001", {"state_dict": {}}, together=False)


def test_a_file_of_another_callback_in_the_folder(tmp_path):
    saver = ModelCheckpoint(tmp_path / "c", "{step}", every_n_train_steps=4, save_top_k=-1)
    fit(tmp_path, Counting(), saver)
    begun = Counting()
    fit(tmp_path, begun, RunCheckpoints(str(tmp_path / "c")), tmp_path / "c" / "step=4.ckpt")
    assert begun.weight.tolist() == [8.0] * 3
    assert target(tmp_path / "c", "latest") == 8


def test_a_trial_run_leaves_nothing(tmp_path):
    fit(tmp_path, Counting({1: 0.0}), RunCheckpoints(str(tmp_path / "c"), monitor="score"), fast_dev_run=True)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
        ({"keep_last": 0}, "keep_last must be at least 1, got 0"),
        ({"mode": "most"}, "mode must be 'max' or 'min', got 'most'"),
    ],
)
def test_wrong_use(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        RunCheckpoints(str(tmp_path), **arguments)


def test_random_numbers_of_a_batch(tmp_path):
    """They are those of the uninterrupted run after a restart, whatever evaluations or the program draw in between."""

    class Drawing(Counting):
        def training_step(self, batch, batch_idx):
            self.drawn.append(torch.rand(()).item())
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            torch.rand(self.trainer.global_step + int(self.noisy))

    def drawn(folder, noisy, *resume, **options):
        module = Drawing(dict.fromkeys(range(9), 0.0))
        module.drawn, module.noisy = [], noisy
        torch.manual_seed(5)
        fit(tmp_path, module, RunCheckpoints(str(tmp_path / folder), every_n_steps=1, keep_last=9), *resume, **options)
        return module.drawn

    whole = drawn("c", False)
    assert len(set(whole)) == 8
    assert drawn("d", True, val_check_interval=1) == whole
    for step in (3, 4, 5):
        torch.manual_seed(1)
        folder = tmp_path / f"from_{step}"
        assert drawn(folder.name, True, tmp_path / "d" / f"step_{step:08d}", val_check_interval=1) == whole[step:]


def test_a_run_that_is_told_to_terminate(tmp_path):
    """It saves after the step, and what is started next goes on from there."""

    class Terminated(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    keeper = RunCheckpoints(str(tmp_path / "c"))
    with pytest.raises(SIGTERMException):
        fit(tmp_path, Counting(), keeper, callbacks=[keeper, Terminated()])
    assert steps(tmp_path / "c") == [3]
    begun = Counting()
    fit(tmp_path, begun, RunCheckpoints(str(tmp_path / "c")), tmp_path / "c" / "latest")
    assert begun.weight.tolist() == [8.0] * 3


def test_a_checkpoint_of_another_callback_before_an_evaluation(tmp_path):
    """Lightning's own callback saves at the end of a batch; the evaluation after it is not lost."""
    scores = dict.fromkeys(range(9), 0.0)
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(tmp_path, Counting(scores), saver, val_check_interval=2)
    for step, expected in ((3, [4, 6, 8]), (4, [4, 6, 8]), (6, [6, 8]), (8, [8])):
        again = Counting(scores)
        fit(tmp_path, again, None, tmp_path / f"step={step}.ckpt", val_check_interval=2, callbacks=[])
        assert again.evaluated == expected
        assert again.weight.tolist() == [8.0] * 3


def test_random_numbers_differ_by_seed_batch_and_rank(monkeypatch):
    """Python, numpy and torch draw the same again for the same three numbers, and something else for any other."""

    def drawn(seed, number, rank):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        seed_batch(number, rank)
        return random.random(), np.random.random(), torch.rand(()).item()

    keys = [(seed, number, rank) for seed in (0, 1) for number in range(3) for rank in range(3)]
    found = [drawn(*key) for key in keys]
    assert found == [drawn(*key) for key in keys]
    for values in zip(*found, strict=True):
        assert len(set(values)) == len(keys)
