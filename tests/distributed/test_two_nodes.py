"""Two hosts on one machine: a run over both, one of them killed, and the network between them lost."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cli_runs import QUIET, REPOSITORY, environment, visualprm
from forked_nodes import start_visualprm

from tools.two_nodes import NoHostsError, TwoHosts

EXPERIMENT = [
    "--config=experiments/quickstart/process_reward_model.yaml",
    "--config=experiments/strategies/fsdp2.yaml",
]
BENCHMARKS = "--data.benchmark_names=[MathVision,LogicVista]"
SHAPE = ["--trainer.accelerator=cpu", "--trainer.num_nodes=2", "--trainer.devices=1"]
ENDS_WITHIN = 120  # seconds from the loss of a node to the end of the other one
PATIENCE = 600  # seconds for anything else, on a busy machine


@dataclass
class Loss:
    """How the nodes ended that had lost the other one: exit status (None if they still ran), output, seconds."""

    status: list[int | None]
    output: list[str]
    seconds: list[float]


class Run:
    """A run on two hosts that keeps everything in a folder."""

    def __init__(self, base, folder, hosts):
        self.base, self.folder, self.hosts = base, folder, hosts
        self.variables = os.environ | environment(base) | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}

    def overlay(self, name, hold=None):
        """The YAML that says what the run keeps, and where it stops."""
        path = "lightning_modules.callbacks"
        callbacks = [
            {"class_path": f"{path}.best_of_n.BestOfN"},
            {
                "class_path": f"{path}.run_checkpoints.RunCheckpoints",
                "init_args": {"folder": str(self.folder / "checkpoints"), "every_n_steps": 1},
            },
            {
                "class_path": f"{path}.save_pretrained.SavePretrained",
                "init_args": {"folder": str(self.folder / "model")},
            },
            {"class_path": "cli_runs.BatchLog", "init_args": {"path": str(self.folder / "batches.jsonl")}},
        ]
        if hold is not None:
            callbacks.append({"class_path": "run_control.Hold", "init_args": {"folder": str(self.folder), **hold}})
        logger = {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": str(self.folder), "name": "logs", "version": "all"},
        }
        config = {
            "data": {
                "class_path": "datamodules.visual_prm_400k.VisualPRM400KDataModule",
                "init_args": {"packed_tokens": None, "batch_size": 4, "visual_process_bench": None},
            },
            "trainer": {
                "max_epochs": 1,
                "check_val_every_n_epoch": 1,
                "enable_checkpointing": True,
                "default_root_dir": str(self.folder),
                "logger": logger,
                "callbacks": callbacks,
            },
        }
        written = self.folder / name
        written.write_text(yaml.safe_dump(config))
        return [*EXPERIMENT, f"--config={written}"]

    def start(self, overlay, *options, forked=True):
        """Start `visualprm fit` on both hosts: by the command of tools/two_nodes.py, or by torchrun in forks."""
        self.logs = [(self.folder / f"{overlay[-1].rpartition('/')[2]}-{host}.log").open("w+") for host in "ab"]
        words = ["fit", *overlay, BENCHMARKS, *SHAPE, *QUIET, *options]
        if forked:
            self.nodes = start_visualprm(self.hosts, words, self.variables, [Path(log.name) for log in self.logs])
        else:
            self.nodes = self.hosts.start_visualprm(words, self.variables, self.logs)

    def output(self, index):
        self.logs[index].flush()
        return Path(self.logs[index].name).read_text()

    def outputs(self):
        """How both nodes stand and what they have printed: the one that ended first need not have failed first."""
        states = [node.process.poll() for node in self.nodes]
        parts = [f"---- node {'ab'[i]} ({state})\n{self.output(i)[-6000:]}" for i, state in enumerate(states)]
        return "\n".join([f"{self.folder}: status and output of the nodes", *parts])

    def wait_for(self, name):
        """Until a file appears, unless a node ends before."""
        deadline = time.monotonic() + PATIENCE
        while not (self.folder / name).exists():
            if any(node.process.poll() is not None for node in self.nodes):
                self.ends(range(len(self.nodes)), time.monotonic())  # the other one may know why
                pytest.fail(self.outputs(), pytrace=False)
            assert time.monotonic() < deadline, self.outputs()
            time.sleep(0.05)

    def ends(self, indices, since):
        """How nodes end that lost the other one; what takes too long is killed."""
        loss = Loss([], [], [])
        for index in indices:
            process = self.nodes[index].process
            try:
                loss.status.append(process.wait(max(0.1, since + ENDS_WITHIN - time.monotonic())))
            except subprocess.TimeoutExpired:
                loss.status.append(None)
                self.nodes[index].kill()
            loss.seconds.append(time.monotonic() - since)
            loss.output.append(self.output(index))
        return loss


@pytest.fixture(scope="module", autouse=True)
def hosts_are_possible():
    """Skips where no namespaces can be made, by trying."""
    try:
        with TwoHosts():
            pass
    except NoHostsError as error:
        pytest.skip(str(error))


@dataclass
class Outcome:
    """What happened to two runs.

    ``killed`` lost a node and went on afterwards, ``cut`` lost the link between both.
    """

    killed: Run
    loss_of_node: Loss
    loss_of_link: Loss
    status_of_resumed: list[int]


@pytest.fixture(scope="module")
def outcome(hosts_are_possible, quickstart_run, tmp_path_factory):
    """Two runs, each on hosts of its own, at the same time: one waits while the other one computes."""
    with TwoHosts() as one, TwoHosts() as other:
        killed = Run(quickstart_run, tmp_path_factory.mktemp("killed"), one)
        cut = Run(quickstart_run, tmp_path_factory.mktemp("cut"), other)
        killed.start(killed.overlay("first.yaml", {"batch": 3, "ranks": [1]}))
        cut.start(
            cut.overlay("first.yaml", {"batch": 1, "ranks": [0, 1]}),
            "--trainer.strategy.timeout=600",
            "--lost_ranks.interval_seconds=2",
            "--lost_ranks.lost_after_seconds=20",
        )
        killed.wait_for("held-1")
        killed.nodes[1].kill()
        killed_at = time.monotonic()
        for name in ("held-0", "held-1"):
            cut.wait_for(name)
        cut.hosts.cut()
        cut_at = time.monotonic()
        (cut.folder / "go").touch()
        loss_of_node = killed.ends([0], killed_at)
        killed.start(killed.overlay("again.yaml"))  # it finds its last checkpoint by itself
        loss_of_link = cut.ends([0, 1], cut_at)
        for node in killed.nodes:
            node.process.wait(PATIENCE)
        return Outcome(killed, loss_of_node, loss_of_link, [node.process.returncode for node in killed.nodes])


def test_the_node_that_is_left_names_the_one_that_was_killed(outcome, record_property):
    loss = outcome.loss_of_node
    record_property("seconds", loss.seconds)
    sys.stdout.write(f"seconds from the kill to the end of the node that is left: {loss.seconds[0]:.1f}\n")
    assert loss.status[0] not in (None, 0), loss.output[0][-6000:]
    line = next(line for line in loss.output[0].splitlines() if "Lost rank" in line)
    sys.stdout.write(f"{line}\n")
    assert "Lost rank 1 on node node-b (10.77.0.2" in line
    assert "--ckpt_path" in line
    assert "checkpoints/latest" in line


@pytest.mark.thorough
def test_the_command_of_the_tool(hosts_are_possible, quickstart_run, tmp_path):
    """The same torchrun, whose agents and workers import everything themselves."""
    with TwoHosts() as hosts:
        run = Run(quickstart_run, tmp_path, hosts)
        run.start(run.overlay("trial.yaml"), "--trainer.fast_dev_run=true", forked=False)
        statuses = [node.process.wait(PATIENCE) for node in run.nodes]
    assert statuses == [0, 0], run.outputs()


def test_a_link_that_is_lost_silently(outcome, record_property):
    """No connection is reset, and collectives may take ten minutes here: signs of life are what is missing."""
    loss = outcome.loss_of_link
    record_property("seconds", loss.seconds)
    sys.stdout.write(f"seconds from the cut to the end of each node: {loss.seconds[0]:.1f}, {loss.seconds[1]:.1f}\n")
    for status, output in zip(loss.status, loss.output, strict=True):
        assert status not in (None, 0), output[-6000:]
    assert "LostRankError: Lost rank 1 on node node-b (10.77.0.2" in loss.output[0]
    assert "LostRankError: Lost the store of the run at 10.77.0.1" in loss.output[1]
    assert "rank 1 on node node-b" in loss.output[1]


def test_the_run_goes_on_and_ends(outcome, quickstart_run):
    """Every sample is seen once, before the loss or after it."""
    assert outcome.status_of_resumed == [0, 0], outcome.killed.outputs()
    rows = [json.loads(line) for line in (outcome.killed.folder / "batches.jsonl").read_text().splitlines()]
    seen = [name for *_, names, _ in rows for name in names]
    supervision = quickstart_run / "world" / "prompts" / "process_supervision.jsonl"
    expected = [f"{supervision}:{line}" for line in range(1, 1 + len(supervision.read_text().splitlines()))]
    # The batch in which node b was killed was begun twice, but ended once.
    assert sorted(seen) == sorted(expected)
    assert sorted({step for _, _, step, *_ in rows}) == [0, 1, 2, 3]


def test_best_of_n_over_both_nodes(outcome, quickstart_run, tmp_path):
    """The table that two nodes made together is that of one process with the same weights."""
    overlay = {
        "trainer": {
            "logger": False,
            "default_root_dir": str(tmp_path),
            "callbacks": [
                {
                    "class_path": "lightning_modules.callbacks.best_of_n.BestOfN",
                    "init_args": {"output_dir": str(tmp_path)},
                }
            ],
        }
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(overlay))
    visualprm(
        quickstart_run,
        "test",
        EXPERIMENT[0],
        f"--config={tmp_path / 'test.yaml'}",
        f"--model.model_name_or_path={outcome.killed.folder / 'model'}",
        "--data.visual_process_bench=null",
        BENCHMARKS,
    )
    both = json.loads((outcome.killed.folder / "logs" / "all" / "best_of_n_epoch0.json").read_text())
    alone = json.loads((tmp_path / "best_of_n_test.json").read_text())
    for table in (both, alone):
        for name in ("run", "epoch", "global_step", "model"):
            table.pop(name)
    assert both == alone


def leave_by(how):
    """A program that makes hosts, runs something on one, tells the processes, and leaves."""
    return f"""
import os, sys, time
from pathlib import Path
from tools.two_nodes import TwoHosts

with TwoHosts() as hosts:
    hosts.start(1, ["sh", "-c", "sleep 1000 & exec sleep 1000"], os.environ, sys.stderr)
    time.sleep(1)
    me, found, parents = os.getpid(), set(), {{}}
    for p in Path("/proc").iterdir():
        try:
            parents[int(p.name)] = int(p.joinpath("stat").read_text().rpartition(")")[2].split()[1])
        except (ValueError, OSError):
            pass  # no process, or one that has ended
    todo = [me]
    while todo:
        children = [pid for pid, parent in parents.items() if parent == todo[-1]]
        todo.pop()
        found.update(children)
        todo += children
    print(*found, flush=True)
    {how}
"""


@pytest.mark.parametrize("how", ["raise SystemExit(3)", "os.kill(me, 9)"], ids=["error", "kill -9"])
def test_nothing_stays_behind(how, hosts_are_possible):
    """Hosts, link and processes go with the program, however it ends."""

    def links():
        return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout

    before = links()
    done = subprocess.run(
        [sys.executable, "-c", leave_by(how)], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode in (3, -9), done.stderr
    processes = [Path("/proc") / pid for pid in done.stdout.split()]
    assert len(processes) >= 5  # two hosts, and the command with its namespace and child
    deadline = time.monotonic() + PATIENCE
    while any(path.exists() for path in processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert links() == before
