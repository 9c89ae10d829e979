"""`visualprm` on the hosts of tools/two_nodes.py without torchrun, in processes of tests/fork_server.py."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import fork_server

from lightning_modules import cli
from tools.two_nodes import INTERFACE, PORT, TwoHosts


class ForkedNode:
    """A process on a host, with what the tests use of `subprocess.Popen`.

    Args:
        hosts: Of which it is one.
        index: Of the host, and rank of the process.
        arguments: Of `visualprm`.
        variables: Of its environment.
        log: File for its output.
    """

    def __init__(
        self, hosts: TwoHosts, index: int, arguments: Sequence[str], variables: Mapping[str, str], log: Path
    ) -> None:
        ranks = {"RANK": index, "NODE_RANK": index, "GROUP_RANK": index, "LOCAL_RANK": 0}
        ranks |= {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": PORT}
        first, ours = hosts._hosts[0], hosts._hosts[index]
        run = {"MASTER_ADDR": first.address, "GLOO_SOCKET_IFNAME": INTERFACE, "TORCHELASTIC_RUN_ID": "two hosts"}
        environment = {**variables, **run, **{name: str(value) for name, value in ranks.items()}}
        self._process = fork_server.start("forked_nodes:on_host", [ours.pid, list(arguments)], log, environment)
        self.process = self

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("visualprm", timeout)
        return self._process.exitcode

    def kill(self) -> None:
        fork_server.kill(self._process)


def on_host(pid: int, arguments: Sequence[str]) -> None:
    """Move into the network and the host name of a process, and be `visualprm` there."""
    library = ctypes.CDLL(None, use_errno=True)
    for kind in ("net", "uts"):
        descriptor = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        if library.setns(descriptor, 0):
            raise OSError(ctypes.get_errno(), f"setns({kind})")
        os.close(descriptor)
    sys.argv = ["visualprm", *arguments]
    cli.main()
