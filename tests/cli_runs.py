"""Runs of the `visualprm` command at the smallest size, in this process or in one of their own that gets killed."""

import json
import os
import resource
import runpy
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fork_server
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningCLI

from lightning_modules.checkpointing import run_lock
from lightning_modules.cli import main, run
from lightning_modules.configuration.command import VisualPRMCLI
from tools.quickstart_stages import Stage, stages

# As the processes that get killed, since sums depend on it. Models this small are also fastest so.
torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]

SAMPLES = 8  # solutions of a benchmark question
SOLUTIONS, CONTINUATIONS = 2, 2  # of a question to annotate

_ANNOTATION = (
    f"--model.num_solutions={SOLUTIONS} --model.num_continuations={CONTINUATIONS} --model.sampling.max_new_tokens=64"
)
FEWER_CANDIDATES = f"--data.candidates_per_question={SAMPLES}"
SMALLER = {
    "world/truth.jsonl": "--statements=100 --demonstrations=60 --prompts=16 --validation=8 --benchmark-questions=10 "
    "--processes=1",
    "random": "--vision-hidden-size=16 --vision-layers=1 --text-hidden-size=64 --text-layers=2",
    "base": "--trainer.max_steps=3 --data.packed_tokens=800",
    # Just enough for solutions of several steps that are right now and then.
    "policy": "--trainer.max_steps=120 --data.batch_size=12 --model.learning_rate=3e-3",
    "rollouts.jsonl": f"--model.sampling.max_new_tokens=64 --model.num_samples={SAMPLES}",
    # Several batches, so that tests of interruption can compare with it.
    "world/prompts/process_supervision.jsonl": f"{_ANNOTATION} --data.batch_size=4",
    "world/validation/process_supervision.jsonl": _ANNOTATION,
    "outcome_reward_model": "--data.packed_tokens=800 --trainer.log_every_n_steps=2 --trainer.max_epochs=1 "
    "--data.benchmark_names=[MathVision,LogicVista]",
    "outcome_reward_model_test/candidate_scores.jsonl": FEWER_CANDIDATES,
    "process_reward_model_test/best_of_n_test.json": FEWER_CANDIDATES,
    "process_reward_model": "--data.packed_tokens=800 --trainer.log_every_n_steps=2 --trainer.max_epochs=1 "
    f"{FEWER_CANDIDATES}",
}
"""What makes a stage of tools/quickstart_stages.py small; keys are the results that the stages name."""


def environment(folder: Path) -> dict[str, str]:
    """What the experiments expect: the folder of the run, the seed, and how often an epoch is validated."""
    names = {"VISUALPRM_RUN": str(folder), "VISUALPRM_SEED": "0", "VISUALPRM_VALIDATIONS": "1"}
    return names | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@contextmanager
def environment_of_a_run(folder: Path) -> Iterator[None]:
    """What a command finds, as from the root of the repository."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        # Lightning sets it when it seeds; the value of before comes back afterwards.
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setattr(sys, "argv", ["visualprm"])
        patch.chdir(REPOSITORY)
        yield


def visualprm(folder: Path, *arguments: object) -> LightningCLI:
    """Run a `visualprm` command in this process."""
    with environment_of_a_run(folder):
        return run([*map(str, arguments), *QUIET])


class ParsedCLI(VisualPRMCLI):
    """A command up to what its files and options come to: nothing is made and nothing runs."""

    def instantiate_classes(self) -> None:
        """Make nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def parsed(folder: Path, subcommand: str, *arguments: object) -> dict[str, Any]:
    """What a `visualprm` command is configured to do, all references resolved."""
    with environment_of_a_run(folder):
        cli = run([subcommand, *map(str, arguments)], ParsedCLI)
    config: dict[str, Any] = cli.config[subcommand].as_dict()
    return config


def run_beside_another(arguments: Sequence[str], patience: float, waits: str) -> None:
    """Run a `visualprm` command that another run may be in the way of.

    Args:
        arguments: Of the command.
        patience: Seconds that it waits for the other one.
        waits: File that appears when it asks for a lock.
    """
    take = run_lock.RunLock.take

    def noted(lock: run_lock.RunLock, patience: float | None = None) -> None:
        Path(waits).touch()
        take(lock, patience)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_lock, "PATIENCE", patience)
        patch.setattr(run_lock.RunLock, "take", noted)
        run(list(arguments))


def command(arguments: Sequence[str], mebibytes: int | None = None) -> None:
    """Be the `visualprm` command, whose mistakes end in a few lines.

    Args:
        arguments: Of the command.
        mebibytes: Memory that this process may ask for besides what it has.
    """
    sys.argv = ["visualprm", *arguments]
    if mebibytes is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + mebibytes * 2**20,) * 2)
    main()


def visualprm_until_killed(folder: Path, *arguments: object) -> None:
    """Run a `visualprm` command in a process of its own, which must die of kill -9."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "output.txt"
        process = fork_server.start(
            "lightning_modules.cli:run", [[*map(str, arguments), *QUIET]], output, environment(folder)
        )
        try:
            process.join(300)
            code = process.exitcode
        finally:
            fork_server.kill(process)
        assert code == -signal.SIGKILL, (code, output.read_text()[-4000:])


def visualprm_killed_after(folder: Path, seconds: float, *arguments: object) -> bool:
    """Run a `visualprm` command in a process of its own, and kill it after a while; whether it was still running."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "output.txt"
        process = fork_server.start(
            "lightning_modules.cli:run", [[*map(str, arguments), *QUIET]], output, environment(folder)
        )
        try:
            process.join(seconds)
            was_running = process.exitcode is None
        finally:
            fork_server.kill(process)
        if not was_running and process.exitcode:
            raise RuntimeError(f"ended by itself with {process.exitcode}: {output.read_text()[-4000:]}")
        return was_running


def run_tool(module: str, arguments: Sequence[str]) -> None:
    """Run a program under tools/ in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        patch.chdir(REPOSITORY)
        # A copy that another test has imported is put back afterwards.
        patch.delitem(sys.modules, module, raising=False)
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


def run_stage(folder: Path, stage: Stage) -> None:
    """Run one stage of the quickstart, made small."""
    module, *arguments = stage.command[1:]
    arguments += shlex.split(SMALLER.get(str(stage.result.relative_to(folder)), ""))
    if module == "lightning_modules.cli":
        visualprm(folder, *arguments)
    else:
        run_tool(module, arguments)


def run_quickstart(folder: Path) -> Path:
    """Run all stages of the quickstart, made small, through the commands that `make quickstart` runs.

    Raises:
        RuntimeError: If a stage does not write what it should.
    """
    todo = stages(folder, seed=0)
    if unknown := set(SMALLER) - {str(stage.result.relative_to(folder)) for stage in todo}:
        raise RuntimeError(f"no stage of tools/quickstart_stages.py has the results {sorted(unknown)}")
    for stage in todo:
        if stage.result.exists():
            raise RuntimeError(f"{stage.result} was there before the stage {stage.title!r} had run")
        run_stage(folder, stage)
        if not stage.result.exists():
            raise RuntimeError(f"stage {stage.title!r} did not write {stage.result}")
    return folder


class BatchLog(Callback):
    """Writes a line for every training batch: the steps done before it, its samples and its loss.

    Args:
        path: Lines are added to what is there.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.begin = [trainer.current_epoch, batch_idx, trainer.global_step]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([*self.begin, batch.sample_ids, outputs["loss"].item()]) + "\n")


class OutOfMemory(Callback):
    """Raises what PyTorch raises when the memory of a GPU is used up.

    Args:
        hook: In which hook of a callback.
        text: None raises the error of PyTorch's own allocator, else that of a library with this text.
    """

    def __init__(self, hook: str, text: str | None = None) -> None:
        self.text = text
        setattr(self, hook, self._fail)

    def _fail(self, *arguments: Any, **options: Any) -> None:
        if self.text is not None:
            raise RuntimeError(self.text)
        raise torch.cuda.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.10 GiB "
            "is free. Including non-PyTorch memory, this process has 77.90 GiB memory in use. Of the allocated memory "
            "70.00 GiB is allocated by PyTorch, and 1.00 GiB is reserved by PyTorch but unallocated."
        )


class Kill(Callback):
    """Ends this process by kill -9.

    Args:
        hook: In which hook of a callback.
        times: How often the hook returns before that.
    """

    def __init__(self, hook: str, times: int = 0) -> None:
        self.times = times
        setattr(self, hook, self._count_down)

    def _count_down(self, *arguments: Any, **options: Any) -> None:
        if not self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        self.times -= 1
