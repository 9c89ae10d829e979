"""Lightning's loops with a reward model behind servers: the same reports as in this process, on one rank and on two."""

import json
import math

import equivalence_runs
import pytest
import torch
from distributed_ranks import RanksFailedError, run_ranks
from literal_server import literal_server

REPORTS = ("best_of_n_validate.json", "best_of_n_test.json", "process_bench_validate.json", "process_bench_test.json")


@pytest.fixture(scope="module")
def world(sharp_checkpoint, tmp_path_factory):
    return equivalence_runs.write_world(tmp_path_factory.mktemp("world") / "files", sharp_checkpoint)


@pytest.fixture(scope="module")
def in_process(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("in_process")
    threads = torch.get_num_threads()
    equivalence_runs.evaluate(world, folder, "auto")
    torch.set_num_threads(threads)
    return folder


def differences(one, other, place=""):
    """Numbers of two JSON values and how far apart they are; anything else must be equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            yield from differences(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{place}/{number}")
    elif isinstance(one, float) and isinstance(other, float):
        yield place, (0.0 if math.isnan(one) and math.isnan(other) else abs(one - other))
    else:
        assert one == other, place


def assert_the_same(here, there, strategy):
    for name in REPORTS:
        found = [
            json.loads((folder / name).read_text()) for folder in (here / "reports-auto", there / f"reports-{strategy}")
        ]
        compared = list(differences(*found))
        assert compared
        assert max(distance for _, distance in compared) < 1e-4, name
    logged = [json.loads((f / f"validate-{s}-0.json").read_text()) for f, s in ((here, "auto"), (there, strategy))]
    assert all("validation/loss" in str(of_run) for of_run in logged)
    assert max(distance for _, distance in differences(*logged)) < 1e-4
    scores = [
        (folder / name / "candidate_scores.jsonl").read_text().splitlines()
        for folder, name in ((here, "reports-auto"), (there, f"reports-{strategy}"))
    ]
    for one, other in zip(*scores, strict=True):
        assert max(distance for _, distance in differences(json.loads(one), json.loads(other))) < 1e-5


def test_one_process(world, in_process, sharp_checkpoint, tmp_path):
    with literal_server(sharp_checkpoint) as server:
        equivalence_runs.evaluate(world, tmp_path, "auto", [server.url])
        assert server.most_at_once > 4  # the candidates of a batch are in flight together
    assert_the_same(in_process, tmp_path, "auto")


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.thorough)])
def test_two_ranks(world, in_process, sharp_checkpoint, tmp_path, strategy):
    with literal_server(sharp_checkpoint) as server, literal_server(sharp_checkpoint) as second:
        arguments = [world, tmp_path, strategy, [server.url, second.url]]
        run_ranks("equivalence_runs:evaluate", arguments, ranks=2, folder=tmp_path, timeout=600)
        assert server.bodies
        assert second.bodies
    assert_the_same(in_process, tmp_path, strategy)


def test_two_ranks_and_a_server_that_refuses(world, sharp_checkpoint, tmp_path):
    """The run ends, on both ranks, with the server's words."""
    with literal_server(sharp_checkpoint) as server:
        answer = server.answer
        refusal = (400, {"error": {"message": "maximum context length is 64 tokens"}})
        server.answer = lambda number, body: refusal if number > 20 else answer(number, body)
        arguments = [world, tmp_path, "ddp", [server.url]]
        with pytest.raises(RanksFailedError, match="maximum context length is 64 tokens") as caught:
            run_ranks("equivalence_runs:evaluate", arguments, ranks=2, folder=tmp_path, timeout=600, grace=120)
    assert all(result.returncode for result in caught.value.results)
