"""torchrun on the hosts of tools/two_nodes.py, whose agents and workers are forks and start in a moment.

It is the torchrun that users start, with the same options, and `--start-method=fork` besides: agents and workers are
processes of tests/fork_server.py, which has imported the package.
"""

import ctypes
import os
import subprocess
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import fork_server
from torch.distributed.run import main as torchrun

from tools.two_nodes import INTERFACE, TwoHosts, torchrun_options

COMMAND = fork_server.REPOSITORY / "lightning_modules" / "cli.py"


class ForkedNode:
    """torchrun on one of two hosts.

    Args:
        process: The agent, which leads a session with its worker.
    """

    def __init__(self, process: BaseProcess) -> None:
        self._agent = process

    @property
    def process(self) -> "ForkedNode":
        """What has the methods of `subprocess.Popen` that tests use."""
        return self

    @property
    def returncode(self) -> int | None:
        return self._agent.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int:
        self._agent.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("torchrun", timeout)
        return self.returncode

    def kill(self) -> None:
        fork_server.kill(self._agent)


def start_visualprm(
    hosts: TwoHosts, arguments: Sequence[str], variables: Mapping[str, str], logs: Sequence[Path]
) -> list[ForkedNode]:
    """Run `visualprm` on both hosts, as `TwoHosts.start_visualprm` does.

    Args:
        hosts: The hosts.
        arguments: Of `visualprm`.
        variables: Of the environment.
        logs: Files for the output of each host.
    """
    nodes = []
    for index, log in enumerate(logs):
        options = torchrun_options(index, hosts.hosts[0].address)
        words = [*options, "--start-method=fork", "--run-path", str(COMMAND), *arguments]
        # The rank is what imports of a worker would have found.
        environment = {**variables, "GLOO_SOCKET_IFNAME": INTERFACE, "RANK": str(index)}
        where = hosts.hosts[index].pid
        nodes.append(ForkedNode(fork_server.start("forked_nodes:on_host", [where, words], log, environment)))
    return nodes


def on_host(pid: int, words: Sequence[str]) -> None:
    """Be torchrun in the network and under the host name of a process."""
    library = ctypes.CDLL(None, use_errno=True)
    for kind in ("net", "uts"):
        descriptor = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        if library.setns(descriptor, 0):
            raise OSError(ctypes.get_errno(), f"setns({kind})")
        os.close(descriptor)
    torchrun(words)
