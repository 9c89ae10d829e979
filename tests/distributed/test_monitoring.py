"""What a distributed run of the command shows and says: TensorBoard, progress, silence, and failures."""

import json
import re
import socket

import monitored_jobs
import pytest
import torch
from distributed_ranks import KILLED, RanksFailedError, run_ranks
from monitored_jobs import ACCUMULATED, BATCH, POISONED, SLOW, STEPS, STRATEGIES
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForImageTextToText

from lightning_modules.model.flops import count_operations

JOBS = monitored_jobs.__name__
RANKS = 2


@pytest.fixture(scope="module")
def annotations(tiny_world, tmp_path_factory):
    """Enough rows for an epoch; of one to four steps, with one picture each."""
    pictures = sorted((tiny_world / "prompts" / "images").glob("*.png"))
    rows = []
    for number in range(RANKS * BATCH * ACCUMULATED * STEPS):
        steps = [f"The digits are 3 , 7 and {digit} ." for digit in range(1 + number % 4)]
        scored = [{"step": step, "score": (number + place) % 2} for place, step in enumerate(steps)]
        question = "How many digits are larger than 4 ? <image>"
        rows.append({"question": question, "answer": "2", "response": "\n\n".join(steps), "steps_with_score": scored})
        rows[-1]["image"] = str(pictures[number % len(pictures)])
    path = tmp_path_factory.mktemp("rows") / "annotations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def runs(annotations, tiny_checkpoint, tmp_path_factory):
    """Folder of the runs of `train_and_fail`, and what each rank printed in each of them."""
    folder = tmp_path_factory.mktemp("runs")
    places = [folder, tiny_checkpoint, annotations]
    results = run_ranks(f"{JOBS}:train_and_fail", places, ranks=RANKS, folder=folder, timeout=500, check=False)
    assert all(re.search("^== alone$", r.output, re.MULTILINE) for r in results), RanksFailedError("too early", results)
    assert all(result.returncode not in (0, KILLED) for result in results), "the last run ends with a failure of both"
    parts = [re.split(r"^== (\w+)\n", result.output, flags=re.MULTILINE) for result in results]
    return folder, [dict(zip(part[1::2], part[2::2], strict=True)) for part in parts]


@pytest.fixture(scope="module")
def hybrid_run(annotations, tiny_checkpoint, tmp_path_factory):
    """The same of the strategy that `train_and_fail` leaves out."""
    folder = tmp_path_factory.mktemp("hybrid")
    places = [folder, tiny_checkpoint, annotations, ["hybrid"]]
    results = run_ranks(f"{JOBS}:train", places, ranks=RANKS, folder=folder, timeout=500)
    return folder, [{"hybrid": result.output.partition("== hybrid\n")[2]} for result in results]


@pytest.fixture
def runs_of(request):
    """Gives what was run with a strategy, as `runs` does."""
    return lambda strategy: request.getfixturevalue("hybrid_run" if strategy == "hybrid" else "runs")


EVERY_STRATEGY = [pytest.param(name, marks=[] if name in POISONED else [pytest.mark.thorough]) for name in STRATEGIES]


def scalars_of(folder):
    events = EventAccumulator(str(folder / "logs" / "all"))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def witnessed(folder, kind):
    """Rows of that kind, of each rank."""
    texts = [(folder / f"witness{rank}.jsonl").read_text() for rank in range(RANKS)]
    return [[row for row in map(json.loads, text.splitlines()) if row["kind"] == kind] for text in texts]


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
def test_gradient_norm_of_the_whole_gradient_once_a_step(strategy, runs_of):
    folder = runs_of(strategy)[0] / strategy
    steps = witnessed(folder, "step")
    assert all(row["sharded"] == (strategy != "ddp") for rank in steps for row in rank)
    expected = [row["gradient_norm"] for row in steps[0]]
    assert scalars_of(folder)["train/gradient_norm"] == pytest.approx(expected, rel=1e-5)
    assert len(expected) == STEPS
    assert min(expected) > 0.001, "clipping would not be seen"


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
def test_operations_of_the_tokens_of_all_ranks(strategy, runs_of, tiny_checkpoint):
    """Against a model that is not sharded, on one process (which test_flops.py compares with torch's counter)."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    model.lm_head.requires_grad_(False)
    count, token = count_operations(model), model.config.image_token_id

    def batch_of(tiles):
        """Four tokens of text a tile."""
        return {"input_ids": torch.full((1, 4 * tiles), token), "pixel_values": torch.zeros(tiles, 3, 32, 32)}

    folder = runs_of(strategy)[0] / strategy
    scalars, batches = scalars_of(folder), witnessed(folder, "batch")
    assert len(scalars["throughput/tokens_per_second"]) == STEPS
    waited = 0.0
    for step in range(STEPS):
        window = [row for rank in batches for row in rank[step * ACCUMULATED : (step + 1) * ACCUMULATED]]
        assert len(window) == RANKS * ACCUMULATED
        tokens = sum(sum(row["lengths"]) for row in window)
        operations = sum(count.of(batch_of(row["tiles"]), torch.tensor(row["lengths"])).item() for row in window)
        seconds = tokens / scalars["throughput/tokens_per_second"][step]
        rate = {
            tag.removeprefix("throughput/"): values[step]
            for tag, values in scalars.items()
            if tag.startswith("throughput/")
        }
        assert rate["tokens_per_second_per_device"] * RANKS == pytest.approx(rate["tokens_per_second"])
        assert rate["samples_per_second"] * seconds == pytest.approx(RANKS * BATCH * ACCUMULATED)
        assert rate["samples_per_second_per_device"] * RANKS == pytest.approx(rate["samples_per_second"])
        expected = operations / seconds / RANKS
        assert rate["operations_per_second_per_device"] == pytest.approx(expected, rel=1e-4)
        assert rate["mfu"] == pytest.approx(expected / 1e12, rel=1e-4)
        assert 0 < rate["data_wait_share"] < 1
        waited += rate["data_wait_share"] * seconds
    # Rank 1 waits for its batches, and rank 0 for rank 1; batches may come nearer while a busy machine computes.
    assert waited * RANKS >= 0.5 * STEPS * ACCUMULATED * SLOW


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
def test_memory_of_the_ranks(strategy, runs_of):
    folder = runs_of(strategy)[0] / strategy
    scalars, found = scalars_of(folder), witnessed(folder, "memory")
    each = [[row["bytes"] / 2**30 for row in rank if row["step"] == STEPS][-1] for rank in found]
    assert len(scalars["memory/resident_gib_max"]) == STEPS
    assert scalars["memory/resident_gib_max"][-1] == pytest.approx(max(each), abs=0.05)
    assert scalars["memory/resident_gib_mean"][-1] == pytest.approx(sum(each) / RANKS, abs=0.05)
    assert each[1] - each[0] > 0.4  # rank 1 holds half a GiB more


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
def test_progress_on_rank_zero_and_silence_on_the_others(strategy, runs_of):
    zero, one = (output[strategy] for output in runs_of(strategy)[1])
    assert one == ""
    lines = [line for line in zero.splitlines() if " to the end" in line]
    pattern = (
        r"[\d-]{10} [\d:]{8} \| epoch 0, step (\d) of 3 \((\d+\.\d) %\) \| (\S+) s a step \| (\d:\d\d:\d\d) to the"
    )
    found = [re.match(pattern, line).groups() for line in lines]
    assert [(step, share) for step, share, *_ in found] == [("1", "33.3"), ("2", "66.7"), ("3", "100.0")]
    assert found[-1][-1] == "0:00:00"
    assert all(float(seconds) >= ACCUMULATED * SLOW for *_, seconds, _ in found)
    assert "train/loss" in lines[-1]
    assert "| step 3 of 3 (100.0 %) | training has ended" in zero


@pytest.mark.parametrize("strategy", POISONED)
def test_a_nan_on_one_rank_stops_all_before_the_weights_change(strategy, runs):
    folder = runs[0] / f"{strategy}_poisoned"
    report = json.loads((folder / "logs" / "all" / "non_finite_step1.json").read_text())
    batches = witnessed(folder, "batch")
    # The poison was in the first of the two batches of the second step.
    assert [len(rank) for rank in batches] == [2 * ACCUMULATED] * RANKS
    (offending,) = report["offending_batches"]
    poisoned = batches[1][ACCUMULATED]
    assert (offending["rank"], offending["batch"], offending["loss"]) == (1, poisoned["batch"], "nan")
    assert offending["sample_ids"] == poisoned["sample_ids"]
    assert offending["host"] == socket.gethostname()
    losses = witnessed(folder, "loss")
    assert [
        (batch["rank"], batch["batch"], batch["sample_ids"], float(batch["loss"]))
        for batch in report["batches_of_the_step"]
    ] == [
        (rank, row["batch"], row["sample_ids"], pytest.approx(float(loss["loss"]), nan_ok=True))
        for rank in range(RANKS)
        for row, loss in list(zip(batches[rank], losses[rank], strict=True))[ACCUMULATED:]
    ]
    assert (report["what"], report["step"], report["epoch"], report["world_size"]) == ("loss", 1, 0, RANKS)
    assert report["gradient_norm"] == "nan"
    assert all(0 < rate < 1e-5 for rate in report["learning_rates"])
    assert report["parameters_with_non_finite_gradients"]
    for rank in range(RANKS):
        error = (folder / f"error{rank}.txt").read_text()
        assert f"rank 1, batch {poisoned['batch']}, loss nan, samples {', '.join(poisoned['sample_ids'])}" in error
        assert "non_finite_step1.json" in error
        unchanged = json.loads((folder / f"unchanged{rank}.json").read_text())
        assert all(unchanged.values())
        assert len(unchanged) > 50


def assert_logged(log, line, error):
    """The line of a failure, then its traceback, which names the error."""
    first, _, traceback = log.read_text().partition("\n")
    assert first == line
    assert traceback.startswith("Traceback (most recent call last):")
    assert error in traceback


@pytest.mark.parametrize("strategy", POISONED)
def test_a_line_of_each_rank_on_failure(strategy, runs):
    folder = runs[0] / f"{strategy}_poisoned"
    batches = witnessed(folder, "batch")
    for rank in range(RANKS):
        (line,) = [text for text in runs[1][rank][f"{strategy}_poisoned"].splitlines() if text.startswith("FAILED")]
        last = batches[rank][-1]
        place = f"global step 1, epoch 0, train batch {last['batch']} ({', '.join(last['sample_ids'])})"
        assert f"rank {rank} of {RANKS} on {socket.gethostname()}" in line
        assert f"{place}: NonFiniteError: optimizer step 1 of epoch 0: the loss of 1 of 4 batches" in line
        assert_logged(folder / "logs" / "all" / "failures" / f"rank{rank}.log", line, "NonFiniteError")
    assert runs[1][1][f"{strategy}_poisoned"] == line + "\n"


def test_a_rank_that_fails_alone(runs):
    folder, outputs = runs[0] / "alone" / "logs" / "all", [output["alone"] for output in runs[1]]
    (line,) = [text for text in outputs[1].splitlines() if text.startswith("FAILED")]
    assert re.search(r"rank 1 of 2 .*train batch 1 .*: ValueError: this rank's row is broken$", line)
    assert re.search(r"^failed in this process: rank 1 of 2 .*train batch 1", outputs[1], re.MULTILINE)
    assert_logged(folder / "failures" / "rank1.log", line, "ValueError: this rank's row")
    # Rank 0 learned of it from a collective that failed.
    (line,) = [text for text in outputs[0].splitlines() if text.startswith("FAILED")]
    assert re.search(r"rank 0 of 2 .*train batch 1 ", line)
    assert_logged(folder / "failures" / "rank0.log", line, "Error")
