"""Signs of life over a real store, between threads of this process that stand for ranks."""

import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from lightning_modules.distributed.heartbeats import Heartbeats, Peer, is_connection_failure, this_peer

INTERVAL, LOST_AFTER = 0.05, 1.0


@pytest.fixture
def server():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10))


@pytest.fixture
def ranks(server):
    """Makes the signs of life of several ranks, each with a connection of its own."""
    made = []

    def make(count, lost_after=LOST_AFTER):
        reports = [[] for _ in range(count)]
        for rank in range(count):
            client = dist.TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=10))
            peer = Peer(rank, f"node-{rank}", f"10.0.0.{rank + 1}", 100 + rank)
            made.append(Heartbeats(client, peer, count, INTERVAL, lost_after, reports[rank].append))
        for each in made:
            assert each.start() is None
        return made, reports

    yield make
    for each in made:
        each.stop()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(INTERVAL)


def test_a_rank_that_falls_silent_is_named_by_all_others(ranks):
    beats, reports = ranks(3)
    time.sleep(2 * LOST_AFTER)
    assert reports == [[], [], []]
    beats[1].stop()
    until(lambda: reports[0] and reports[2])
    for rank in (0, 2):
        (text,) = reports[rank]
        assert text.startswith("Lost rank 1 on node node-1 (10.0.0.2, process 101): no sign of life for ")
        assert text.endswith(f"Seen from rank {rank} on node node-{rank} (10.0.0.{rank + 1}, process {100 + rank}).")
    assert reports[1] == []


def test_a_store_that_is_gone(tmp_path):
    """Its node is lost for whoever cannot reach it."""
    import multiprocessing

    def serve(pipe):
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        pipe.send(store.port)
        time.sleep(600)

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(there,), daemon=True)
    process.start()
    port = here.recv()
    client = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=10))
    reports = []
    beats = Heartbeats(client, Peer(0, "node-0", "10.0.0.1", 1), 1, INTERVAL, LOST_AFTER, reports.append)
    beats.start()
    process.kill()
    process.join()
    until(lambda: reports)
    beats.stop()
    assert reports[0].startswith(f"Lost the store of the run at 127.0.0.1:{port}: no answer for ")


def test_what_an_error_of_a_collective_is_about(ranks):
    beats, _ = ranks(3, lost_after=60)
    error = RuntimeError("[gloo/transport/tcp/pair.cc:544] Connection closed by peer [10.0.0.3]:40962")
    # All live: the address is the only hint.
    assert beats[0].explain(error).startswith("A connection to rank 2 on node node-2 (10.0.0.3, process 102) broke")
    assert "All ranks give signs of life" in beats[0].explain(RuntimeError("gloo: Timed out"))
    # One falls silent, long before it would count as lost without an error.
    beats[2].stop()
    assert "Lost rank 2 on node node-2" in beats[0].explain(error)


def test_the_failure_of_another_rank_comes_first(ranks):
    beats, _ = ranks(2, lost_after=60)
    beats[1].tell_failure(ValueError("rows.jsonl:7: field 'answer' is missing\nand more"))
    beats[1].stop()
    told = beats[0].explain(RuntimeError("gloo: Connection closed by peer [10.0.0.2]:1"))
    assert told == (
        "rank 1 on node node-1 (10.0.0.2, process 101) ended with ValueError: rows.jsonl:7: field 'answer' is missing."
    )


def test_a_rank_that_fails_before_all_have_found_each_other(server):
    """Such as one whose node lacks a file of the data: the others wait for it, and repeat what it says."""

    def make(rank):
        client = dist.TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=10))
        return Heartbeats(client, Peer(rank, f"node-{rank}", f"10.0.0.{rank + 1}", 100 + rank), 3, INTERVAL, 60, print)

    one = make(0)
    assert one.start(timedelta(seconds=0.2)) == "Ranks [1, 2] have not come so far within 0:00:00.200000."
    make(1).tell_failure(FileNotFoundError("rows.jsonl"))
    expected = "rank 1 on node node-1 (10.0.0.2, process 101) ended with FileNotFoundError: rows.jsonl."
    assert one.start() == expected
    assert one.explain(RuntimeError("gloo: Connection closed by peer")) == expected


def test_a_rank_that_waits_for_one_that_has_said_why_it_ends(ranks):
    """Nothing else may end its wait on a GPU; it does not take the whole time of a rank that is lost without a word."""
    beats, reports = ranks(2, lost_after=60)
    beats[1].tell_failure(OSError("No space left on device"))
    beats[1].stop()
    until(lambda: reports[0])
    assert reports == [
        ["rank 1 on node node-1 (10.0.0.2, process 101) ended with OSError: No space left on device."],
        [],
    ]


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


def test_where_this_process_runs():
    assert this_peer(3, "127.0.0.1").address == "127.0.0.1"
    assert this_peer(3, "localhost").rank == 3


@pytest.mark.parametrize("address", ["no-such-host.invalid", "255.255.255.255"])
def test_an_address_that_cannot_be_found_out_does_not_end_the_run(address):
    assert this_peer(3, address).address == "address unknown"
