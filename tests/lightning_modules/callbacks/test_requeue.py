"""Without SLURM; with a stand-in for it in tests/distributed/test_slurm.py."""

import re
import signal

import pytest
import torch
from counting import Counting, fit

from lightning_modules.callbacks import requeue
from lightning_modules.callbacks.requeue import Requeue, requeue_job


class Asked(Requeue):
    """Gets the signal of SLURM in the first step."""

    def on_train_start(self, trainer, pl_module):
        self._signals = self._asked = {signal.SIGUSR1}


def test_a_run_without_checkpoints_of_its_own_leaves_those_of_lightning(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(requeue, "requeue_job", lambda: asked.append(1))
    fit(tmp_path, Counting(), Asked(), enable_checkpointing=False)
    assert asked == [1]
    found = torch.load(tmp_path / "hpc_ckpt_1.ckpt", weights_only=True)
    assert found["state_dict"]["weight"].tolist() == [1.0] * 3
    again = Counting()
    fit(tmp_path, again, Requeue(), tmp_path / "hpc_ckpt_1.ckpt", enable_checkpointing=False)
    assert again.weight.tolist() == [8.0] * 3


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", "requeued job 7"),
        ("echo full >&2; exit 1", "job 7 was not requeued: .* full; submit it again"),
        (None, "job 7 was not requeued: .*No such file"),
    ],
)
def test_what_slurm_says(script, expected, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    if script is not None:
        (tmp_path / "scontrol").write_text(f'#!/bin/sh\n[ "$*" = "requeue 7" ] || exit 9\n{script}\n')
        (tmp_path / "scontrol").chmod(0o755)
    requeue_job()
    (record,) = caplog.records
    assert re.search(expected, record.getMessage())
