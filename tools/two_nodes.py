"""Two hosts on one machine: run a multi-node experiment, and kill a node or cut the network.

Each host is a network namespace with its own name and address; a veth pair joins them (needs Linux and root). They
share the file system, as nodes of a cluster do:

    python -m tools.two_nodes fit --config experiments/quickstart/process_reward_model.yaml \
        --config experiments/strategies/fsdp2.yaml

runs `visualprm fit ...` on both under torchrun over gloo, one process each. Namespaces, link and processes end with
this program, however it ends.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = ("ip", "unshare", "nsenter", "setpriv")
PORT = 29400  # in namespaces of their own no other program has it
INTERFACE = "eth0"


class NoHostsError(RuntimeError):
    """This machine does not permit network namespaces; the message says what is missing."""


class Host:
    """A network and host name namespace.

    Args:
        name: Host name.
        address: Address of its interface.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        # It lives as long as `cat` does, which ends when this process does: its standard input closes then.
        self._holder = subprocess.Popen(  # noqa: S603 - our own command
            ["unshare", "--net", "--uts", "sh", "-c", f"hostname {name} && echo ready && exec cat"],  # noqa: S607
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            _, error = self._holder.communicate()
            raise NoHostsError(f"no network namespace could be made: {error.strip()}")

    @property
    def pid(self) -> int:
        """Id of the process that holds the namespaces."""
        return self._holder.pid

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` on this host."""
        return ["nsenter", f"--target={self.pid}", "--net", "--uts", *command]

    def close(self) -> None:
        """Remove the namespaces."""
        self._holder.kill()
        self._holder.communicate()


class Node:
    """A command on a host, in a process namespace of its own: all its processes end together.

    Args:
        host: Host to run it on.
        command: Command to run.
        environment: All environment variables.
        log: File for its output.
    """

    def __init__(self, host: Host, command: Sequence[str], environment: Mapping[str, str], log: IO[str]) -> None:
        alone = ["setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        self.host = host
        self.process = subprocess.Popen(  # noqa: S603 - what the caller wants to run
            host.inside([*alone, *command]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=REPOSITORY,
        )

    def kill(self) -> None:
        """SIGKILL all its processes at once, as a crash of the machine does."""
        self.process.kill()
        self.process.wait()


class TwoHosts:
    """Context manager of two joined hosts.

    Args:
        subnet: First three numbers of their addresses.

    Raises:
        NoHostsError: If this machine does not permit it.
    """

    def __init__(self, subnet: str = "10.77.0") -> None:
        self._subnet = subnet
        self._hosts: list[Host] = []
        self._nodes: list[Node] = []

    def __enter__(self) -> TwoHosts:
        """Create both hosts and the link between them."""
        if sys.platform != "linux" or os.geteuid() != 0:
            raise NoHostsError("two hosts on one machine need Linux and root")
        if missing := [name for name in PROGRAMS if not shutil.which(name)]:
            raise NoHostsError(f"programs are missing: {', '.join(missing)} (packages iproute2 and util-linux)")
        try:
            for index, name in enumerate(("node-a", "node-b"), start=1):
                self._hosts.append(Host(name, f"{self._subnet}.{index}"))
            first, second = self._hosts
            peer = ["peer", "name", INTERFACE, "netns", str(second.pid)]
            self._ip(first, "link", "add", INTERFACE, "type", "veth", *peer)
            for host in self._hosts:
                self._ip(host, "link", "set", "lo", "up")
                self._ip(host, "address", "add", f"{host.address}/24", "dev", INTERFACE)
                self._ip(host, "link", "set", INTERFACE, "up")
            # Process namespaces are what some containers refuse.
            with tempfile.TemporaryFile("w+") as log:
                node = self.start(0, ["true"], os.environ, log)
                if node.process.wait(timeout=60):
                    log.seek(0)
                    raise NoHostsError(f"no process namespace could be made: {log.read().strip()}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End every process and give the hosts back."""
        self.close()

    def close(self) -> None:
        """End every process and give the hosts back."""
        for node in self._nodes:
            if node.process.poll() is None:
                node.kill()
        for host in self._hosts:
            host.close()
        self._nodes, self._hosts = [], []

    def _ip(self, host: Host, *arguments: str) -> None:
        command = host.inside(["ip", *arguments])
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        if done.returncode:
            raise NoHostsError(f"`ip {' '.join(arguments)}` failed on {host.name}: {done.stderr.strip()}")

    def start(self, index: int, command: Sequence[str], environment: Mapping[str, str], log: IO[str]) -> Node:
        """Run a command on host 0 or 1."""
        node = Node(self._hosts[index], command, environment, log)
        self._nodes.append(node)
        return node

    def start_visualprm(
        self, arguments: Sequence[str], environment: Mapping[str, str], logs: Sequence[IO[str]]
    ) -> list[Node]:
        """Run `visualprm` on both hosts under torchrun, one process each.

        Args:
            arguments: Arguments of `visualprm`.
            environment: All environment variables.
            logs: Files for the output of each host.
        """
        return [
            self.start(
                index,
                [
                    *(sys.executable, "-m", "torch.distributed.run"),
                    *torchrun_options(index, self._hosts[0].address),
                    *("--module", "lightning_modules.cli"),
                    *arguments,
                ],
                # Gloo would take the address that the host name has elsewhere.
                {**environment, "GLOO_SOCKET_IFNAME": INTERFACE, "PYTHONUNBUFFERED": "1"},
                log,
            )
            for index, log in enumerate(logs)
        ]

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Both hosts; the ranks of a run meet on the first one."""
        return tuple(self._hosts)

    def cut(self) -> None:
        """Take the link down: packets are lost silently, as when a switch fails."""
        self._ip(self._hosts[1], "link", "set", INTERFACE, "down")


def torchrun_options(index: int, first_address: str) -> list[str]:
    """The options of torchrun on a host, up to what it runs.

    Args:
        index: Index of the host.
        first_address: Address of host 0, the rendezvous.
    """
    return [
        "--nnodes=2",
        "--nproc-per-node=1",
        # A static rendezvous: the agent of a dynamic one (--rdzv-backend=c10d) asks its store all the time, and where
        # the link to it is lost, waits until the kernel gives up after a quarter of an hour.
        f"--node-rank={index}",
        f"--master-addr={first_address}",
        f"--master-port={PORT}",
        "--max-restarts=0",
    ]


def main() -> None:
    """Console entry point; the exit status is that of the first host, or of the second if that is 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of `visualprm`, from `fit`, `test`, ... on")
    arguments = parser.parse_args().arguments
    if not arguments:
        parser.error("give the arguments of `visualprm`, e.g. fit --config FILE")
    shape = ["--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.accelerator=cpu"]
    # A terminated program must still leave its `with` block.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with TwoHosts() as hosts:
            nodes = hosts.start_visualprm([*arguments, *shape], os.environ, [sys.stdout, sys.stderr])
            sys.exit(next((status for node in nodes if (status := node.process.wait())), 0))
    except NoHostsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
