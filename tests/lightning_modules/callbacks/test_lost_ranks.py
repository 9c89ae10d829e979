"""Signs of life over a real store, between callbacks of this process that stand for ranks."""

import json
import time
from datetime import timedelta
from itertools import count
from threading import Thread
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from lightning_modules.callbacks import lost_ranks
from lightning_modules.callbacks.lost_ranks import LostRanks, is_connection_failure

INTERVAL, LOST_AFTER = 0.05, 1.0


class Rank(LostRanks):
    """Keeps what it would say at its end."""

    def __init__(self, rank, world_size, lost_after):
        super().__init__(INTERVAL, lost_after)
        self._runs = count()
        self.said = []
        environment = SimpleNamespace(main_address="127.0.0.1")
        self.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=world_size,
            strategy=SimpleNamespace(cluster_environment=environment),
            checkpoint_callback=SimpleNamespace(folder="runs/prm"),
        )

    def start(self, watch=True):
        self._begin(self.trainer)
        if watch:
            Thread(target=self._watch, daemon=True).start()

    def _end(self, message):
        self.said.append(message)

    def fail(self, error):
        self.on_exception(self.trainer, None, error)


@pytest.fixture
def ranks(monkeypatch):
    """Makes ranks, each with a connection of its own."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10))
    monkeypatch.setattr(lost_ranks, "_get_default_store", lambda: server)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    made = []

    def make(number, lost_after=LOST_AFTER, started=True):
        made.extend(Rank(rank, number, lost_after) for rank in range(number))
        if started:
            for each in made:
                each.start()
            until(lambda: all(len(each._signs) == number for each in made))
        return made

    yield make
    for each in made:
        if each._beating is not None:
            each._stop()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(INTERVAL)


def test_a_rank_that_falls_silent_is_named_by_all_others(ranks):
    made = ranks(3)
    time.sleep(2 * LOST_AFTER)
    assert [each.said for each in made] == [[], [], []]
    made[1]._stop()
    until(lambda: made[0].said and made[2].said)
    for rank in (0, 2):
        (text,) = made[rank].said
        assert text.startswith("Lost rank 1 on node ")
        assert "(127.0.0.1, process " in text
        assert f"no sign of life for 1 s. Seen from rank {rank} on node " in text
        assert "start the run again with --ckpt_path runs/prm/latest" in text
    assert made[1].said == []


def test_a_store_that_is_gone(monkeypatch):
    """Its node is lost for whoever cannot reach it."""
    import multiprocessing

    def serve(pipe):
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        pipe.send(store.port)
        time.sleep(600)

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(there,), daemon=True)
    process.start()
    client = dist.TCPStore("127.0.0.1", here.recv(), is_master=False, timeout=timedelta(seconds=10))
    monkeypatch.setattr(lost_ranks, "_get_default_store", lambda: client)
    rank = Rank(0, 1, LOST_AFTER)
    rank.start()
    process.kill()
    process.join()
    until(lambda: rank.said)
    assert rank.said[0].startswith("Lost the store of the run at 127.0.0.1: no answer for ")
    rank._stop()


def test_what_an_error_of_a_collective_is_about(ranks):
    made = ranks(3, lost_after=60)
    # All live: the address is the only hint.
    error = RuntimeError("[gloo/transport/tcp/pair.cc:544] Connection closed by peer [10.0.0.3]:40962")
    made[2]._me = made[2]._me.replace("127.0.0.1", "10.0.0.3")
    until(lambda: b"10.0.0.3" in made[0]._signs[2][0])
    assert "All ranks give signs of life" in made[0]._explain(RuntimeError("gloo: Timed out"))
    assert "The connection was to rank 2 on node" in made[0]._explain(error)
    # One falls silent, long before it would count as lost without an error.
    made[2]._stop()
    made[0].fail(error)
    assert error.__notes__[0].startswith("Lost rank 2 on node")


def test_the_failure_of_another_rank_comes_first(ranks):
    made = ranks(2, lost_after=60)
    made[1].fail(ValueError("rows.jsonl:7: field 'answer' is missing\nand more"))
    error = RuntimeError("gloo: Connection closed by peer [10.0.0.2]:1")
    made[0].fail(error)
    assert "ended with ValueError: rows.jsonl:7: field 'answer' is missing." in error.__notes__[0]
    assert error.__notes__[0].startswith("rank 1 on node")


def test_a_rank_that_fails_before_its_setup(ranks):
    """Such as one whose node lacks a file of the data: the others wait for it, and repeat what it says."""
    made = ranks(2, started=False)
    made[0].start()
    made[1].fail(FileNotFoundError("rows.jsonl"))
    until(lambda: made[0].said)
    assert "rank 1 on node" in made[0].said[0]
    assert "ended with FileNotFoundError: rows.jsonl." in made[0].said[0]


def test_a_rank_that_comes_late_is_not_lost(ranks):
    made = ranks(2, started=False)
    made[0].start()
    time.sleep(2 * LOST_AFTER)
    made[1].start()
    until(lambda: 1 in made[0]._signs)
    assert json.loads(made[0]._signs[1][0])[0].startswith("rank 1 on node")
    assert made[0].said == []


def test_a_rank_that_waits_for_one_that_has_said_why_it_ends(ranks):
    """Nothing else may end its wait on a GPU; it does not take the whole time of a rank that is lost without a word."""
    made = ranks(2, lost_after=60)
    made[1].fail(OSError("No space left on device"))
    until(lambda: made[0].said)
    assert "ended with OSError: No space left on device." in made[0].said[0]
    assert made[1].said == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer"), True),
        (RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), True),
        (dist.DistBackendError("NCCL error in: ..."), True),
        (dist.DistStoreError("wait timeout"), True),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), False),
        (ValueError("gloo"), False),
    ],
)
def test_errors_that_may_come_from_elsewhere(error, expected):
    assert is_connection_failure(error) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("no-such-host.invalid", "address unknown")],
)
def test_the_address_of_this_node(address, expected):
    assert lost_ranks._address(address) == expected


def test_settings():
    with pytest.raises(ValueError, match=r"lost_after_seconds \(5\) must be at least twice interval_seconds \(3\)"):
        LostRanks(3, 5)
