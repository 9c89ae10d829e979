"""Processes of their own that start in a moment: forks of a server that has imported the package and done nothing else.

Imports alone take a process of `visualprm` ten seconds and more on a slow machine. A server of `multiprocessing` takes
them once; the processes of pytest-xdist share it. It has one thread, since pools of threads, and what libraries lock,
do not survive a fork, and it has computed nothing. Its children lead sessions of their own, and die with the process of
the tests.
"""

import atexit
import faulthandler
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
PRELOADED = (
    "fork_server",
    "lightning_modules.cli",
    "lightning_modules.configuration.command",
    "lightning_modules.process_reward",
    "lightning_modules.policy",
    "lightning_modules.annotation",
    "lightning_modules.distributed.fully_sharded",
    "lightning_modules.callbacks.best_of_n",
    "lightning_modules.callbacks.process_bench",
    "lightning_modules.callbacks.prediction_writer",
    "lightning_modules.callbacks.run_checkpoints",
    "lightning_modules.callbacks.save_pretrained",
    "datamodules.visual_prm_400k",
    "datamodules.prompts_datamodule",
    "omegaconf",
    "peft",
    "torch.utils.tensorboard",
    "torchvision",
    "transformers.models.internvl.modeling_internvl",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.got_ocr2.image_processing_got_ocr2",
    "warm_start",
)
_OF_THE_SERVER = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "TQDM_DISABLE": "1",  # bars hide what a failed process says
    "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests", REPOSITORY / "tests" / "distributed"))),
}

SHARED = "VISUALPRM_TESTS_FORK_SERVER"
"""Variable with the process id and the address of the server of the process that hands tests out."""

OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
OF_A_RUN = (*OF_A_RANK, "MASTER_ADDR", "MASTER_PORT")


def share() -> None:
    """Start the server here, for this process and for those that it starts."""
    context()
    server = forkserver._forkserver
    os.environ[SHARED] = f"{server._forkserver_pid} {server._forkserver_address}"


def _use_the_shared_one(pid: str, address: str) -> None:
    """Let `multiprocessing` ask a server that this process has not started, and that ends with the one that has."""
    server = forkserver._forkserver
    if server._forkserver_pid is None:
        server._forkserver_pid, server._forkserver_address = int(pid), address
        server._forkserver_alive_fd = os.pipe()[1]
        server.ensure_running = resource_tracker.ensure_running


def context() -> ForkServerContext:
    """What makes processes, of `multiprocessing`, with the server started; for code that takes such a context."""
    found = ForkServerContext()
    if shared := os.environ.get(SHARED):
        _use_the_shared_one(*shared.split(maxsplit=1))
        return found
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _OF_THE_SERVER.items():
            patch.setenv(name, value)
        found.set_forkserver_preload(list(PRELOADED))
        forkserver.ensure_running()
    return found


def start(
    function: str, arguments: Sequence[Any], output: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Run a function in a process of its own.

    Args:
        function: ``module:function``, whose module is found where those of this process are; or ``path.py:function``.
        arguments: Of the function; what `pickle` takes.
        output: File for what the process prints, to either stream.
        environment: Variables besides those of this process, of which those of a distributed run are left out.

    Returns:
        The process, which has begun. Its ``exitcode`` is None, then 0, 1 after an exception, what `SystemExit` says,
        or minus the signal that ended it.
    """
    made_by = context()
    ours = {name: value for name, value in os.environ.items() if name not in OF_A_RUN}
    complete = {**ours, **_OF_THE_SERVER, **(environment or {})}
    output.touch()
    process = made_by.Process(target=_run, args=(function, list(arguments), str(output), complete))
    process.start()
    # Before `multiprocessing` waits for it, which it does at the end of this process.
    atexit.register(_kill_what_runs, process)
    return process


def kill(process: BaseProcess) -> None:
    """Kill a process, if it still runs, and the children that it has left in its session."""
    if process.pid is None:
        raise ValueError("the process has not begun")
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()  # it may not lead its session yet
    process.join()


def _kill_what_runs(process: BaseProcess) -> None:
    if process.exitcode is None:
        kill(process)


def threads_of_the_server() -> int:
    """How many threads the server of this process has, which must have been started."""
    return len(list(Path(f"/proc/{forkserver._forkserver._forkserver_pid}/task").iterdir()))


def _run(function: str, arguments: Sequence[Any], output: str, environment: Mapping[str, str]) -> None:
    """Be the process; never returns."""
    code = 1
    try:
        os.setsid()
        with Path(output).open("ab") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        faulthandler.enable()
        _die_with_the_tests()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(REPOSITORY)
        sys.path[:0] = [path for path in environment["PYTHONPATH"].split(os.pathsep) if path not in sys.path]
        sys.argv = ["visualprm"]
        _forget_the_server()
        module, _, name = function.partition(":")
        getattr(_module(module), name)(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - it is printed, and the status says so
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # without the end of a Python process, which waits for threads of the process group


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    found = importlib.util.spec_from_file_location(Path(name).stem, name)
    if found is None or found.loader is None:
        raise ImportError(f"{name} cannot be imported")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _forget_the_server() -> None:
    """Set again what imports have set by the environment of the server, or left to a fork."""
    # Else workers of a DataLoader would come from a server of their own, which imports everything first.
    multiprocessing.set_start_method(None, force=True)
    if torch := sys.modules.get("torch"):
        # A pool of threads that the first two threads of a backward make at once aborts.
        torch.set_num_threads(1)
    if rank_zero := sys.modules.get("lightning.pytorch.utilities.rank_zero"):
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
        rank_zero.rank_zero_only.rank = int(rank)


def _die_with_the_tests() -> None:
    """End this process and its session when the process of the tests has died."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("not a process of the server")

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
