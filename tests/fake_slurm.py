"""As much of SLURM as the files under experiments/slurm/ need, on this machine.

Programs `srun` and `scontrol` for the PATH, and `sbatch` as a method that runs a file by bash with the variables that
SLURM sets. Tasks are real `visualprm` processes, forked from one that tests/fork_server.py starts.

Run as a program it is `srun` or `scontrol`; see the end.
"""

import array
import contextlib
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 60  # seconds until the server, which has begun before, answers
DIRECTIVE = re.compile(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", re.MULTILINE)


class FakeSlurm:
    """A cluster in a folder.

    Args:
        folder: For programs, sockets and the record of what `scontrol` was asked.
        environment: Of all jobs.
    """

    def __init__(self, folder, environment):
        # Here, since `srun` and `scontrol` are this file, too, and start without packages.
        import fork_server

        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        for name in ("srun", "scontrol"):
            path = programs / name
            path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {__file__} {name} "$@"\n')
            path.chmod(0o755)
        self.environment = os.environ | environment | {"FAKE_SLURM": str(folder), "GLOO_SOCKET_IFNAME": "lo"}
        self.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        self.environment["PYTHONPATH"] = f"{REPOSITORY}:{REPOSITORY / 'tests'}"
        self._kill = fork_server.kill
        self._server = fork_server.start("fake_slurm:serve", [], folder / "server.log", self.environment)
        self._jobs = []

    def close(self):
        for job in self._jobs:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()
        self._kill(self._server)

    def sbatch(self, file, *arguments, nodes=1, tasks_per_node=1, job=None, task=None, tasks=None, restarts=0):
        """Run a file as a job, in the background; ``task`` of ``tasks`` make an array."""
        text = file.read_text()
        directives = dict(DIRECTIVE.findall(text))
        job = job or job_id()
        variables = {
            "SLURM_JOB_ID": job,
            "SLURM_JOB_NAME": directives["job-name"],
            "SLURM_JOB_NUM_NODES": nodes,
            "SLURM_NNODES": nodes,
            "SLURM_NTASKS": nodes * tasks_per_node,
            "SLURM_NTASKS_PER_NODE": tasks_per_node,
            "SLURM_CPUS_PER_TASK": directives["cpus-per-task"],
            "SLURM_NODELIST": "localhost",
            "SLURM_JOB_NODELIST": "localhost",
        }
        if restarts:
            variables["SLURM_RESTART_COUNT"] = restarts
        if tasks is not None:
            variables |= {
                "SLURM_ARRAY_JOB_ID": job,
                "SLURM_ARRAY_TASK_ID": task,
                "SLURM_ARRAY_TASK_COUNT": tasks,
                "SLURM_ARRAY_TASK_MIN": 0,
                "SLURM_ARRAY_TASK_MAX": tasks - 1,
            }
        name = f"{job}_{task}" if tasks is not None else str(job)
        log = (self.folder / f"{name}-{restarts}.log").open("w")
        started = subprocess.Popen(
            ["bash", str(file), *arguments],
            env=self.environment | {key: str(value) for key, value in variables.items()} | {"FAKE_JOB": name},
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started.job, started.log = name, Path(log.name)
        self._jobs.append(started)
        return started

    def signal_steps(self, job):
        """SIGUSR1 to the tasks of a job, as `--signal=USR1@...` does."""
        os.kill(int((self.folder / f"srun-{job.job}").read_text()), signal.SIGUSR1)

    @property
    def asked(self):
        """What `scontrol` was asked, in order."""
        path = self.folder / "scontrol"
        return path.read_text().splitlines() if path.exists() else []


def job_id():
    """A number whose port, as Lightning derives it, is free: its last four digits above 15000."""
    for number in range(os.getpid() % 5000, 10000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", 15000 + number))
            return 120000 + number
    raise RuntimeError("no port from 15000 to 24999 is free")


# ------------------------------------------------------------- the programs


def scontrol(arguments):
    """Keep what was asked, and end the step as SLURM does when it requeues a job."""
    folder = Path(os.environ["FAKE_SLURM"])
    with (folder / "scontrol").open("a") as file:
        file.write(shlex.join(arguments) + "\n")
    os.kill(int((folder / f"srun-{arguments[1]}").read_text()), signal.SIGKILL)


def srun(arguments):
    """Start the tasks of a step, hand signals on to them, and end them all when one fails."""
    command = [*arguments]
    options = []
    while command[0].startswith("-"):
        options.append(command.pop(0))
    folder = Path(os.environ["FAKE_SLURM"])
    nodes, per_node = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
    tasks = {}
    for rank in range(nodes * per_node):
        variables = {
            "SLURM_STEP_ID": 0,
            "SLURM_STEP_NUM_NODES": nodes,
            "SLURM_STEP_NUM_TASKS": nodes * per_node,
            "SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"],
            "SLURM_NPROCS": nodes * per_node,
            "SLURM_PROCID": rank,
            "SLURM_NODEID": rank // per_node,
            "SLURM_LOCALID": rank % per_node,
            "SLURM_CPUS_PER_TASK": os.environ["SRUN_CPUS_PER_TASK"],
        }
        environment = dict(os.environ) | {name: str(value) for name, value in variables.items()}
        connection = connect(folder / "socket")
        content = json.dumps([command, environment, os.getcwd()]).encode()
        descriptors = array.array("i", [1, 2])
        connection.sendmsg([len(content).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        connection.sendall(content)
        answers = connection.makefile("r")
        tasks[answers] = int(answers.readline())

    def hand_on(number, frame):
        for pid in tasks.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, hand_on)
    (folder / f"srun-{os.environ['FAKE_JOB']}").write_text(str(os.getpid()))
    worst = 0
    while tasks:
        answers = select.select(list(tasks), [], [])[0][0]
        status = int(answers.readline() or 137)
        del tasks[answers]
        worst = max(worst, status)
        if status and "--kill-on-bad-exit=1" in options:
            hand_on(signal.SIGKILL, None)
    sys.exit(worst)


def connect(path):
    deadline = time.monotonic() + PATIENCE
    while True:
        if time.monotonic() > deadline:
            sys.exit(f"srun: nobody answers at {path}: {path.with_name('server.log').read_text()}")
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            time.sleep(0.1)
        else:
            return connection


def serve():
    """Fork a process for each task that `srun` asks for."""
    from lightning_modules.cli import main

    path = Path(os.environ["FAKE_SLURM"]) / "socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            keep(connection, main)
            os._exit(0)
        connection.close()


def keep(connection, main):
    """Run a task in a process of its own; it ends when it is done, or when `srun` does."""
    size, descriptors, *_ = socket.recv_fds(connection, 8, 2)
    content = b""
    while len(content) < int.from_bytes(size, "big"):
        content += connection.recv(1 << 16)
    command, environment, folder = json.loads(content)
    pid = os.fork()
    if pid == 0:
        os.dup2(descriptors[0], 1)
        os.dup2(descriptors[1], 2)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        import torch

        # The pool of threads does not survive a fork; two threads of a backward that renew it at once abort.
        torch.set_num_threads(torch.get_num_threads())
        run(command, main)
    connection.sendall(f"{pid}\n".encode())
    connection.settimeout(0.05)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            connection.sendall(f"{os.waitstatus_to_exitcode(status) % 256}\n".encode())
            return
        with contextlib.suppress(TimeoutError):
            if not connection.recv(1):  # srun is gone
                os.kill(pid, signal.SIGKILL)
                return


def run(command, main):
    import traceback

    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    program, *sys.argv[1:] = command
    assert program == "visualprm", command
    sys.argv[0] = program
    rank_zero_only.rank = int(os.environ["SLURM_PROCID"])  # what an import in this process would have found
    status = 1
    try:
        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 (what the interpreter does with what main lets out)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    {"srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:])
