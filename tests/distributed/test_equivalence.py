"""One process, DDP and FSDP2 with two train, evaluate and predict alike, on the same global batches."""

import json

import equivalence_runs
import pytest
import torch
from distributed_ranks import run_ranks
from equivalence_runs import CANDIDATES, JUDGED_ROWS, MODELS, PROMPTS, QUESTIONS, TRAINED_STEPS, VALIDATION_ROWS

STRATEGIES = ("ddp", "fsdp2")
LOSS_TOLERANCE = 5e-6
"""On losses of about 0.7, in float32, after up to six steps of AdamW."""
NORM_TOLERANCE = 5e-5
"""On norms of gradients, of 0.1 to 5; they grow apart sooner than losses do."""


@pytest.fixture(scope="module")
def world(tiny_checkpoint, tmp_path_factory):
    return equivalence_runs.write_world(tmp_path_factory.mktemp("world") / "files", tiny_checkpoint)


@pytest.fixture(scope="module")
def results(world, tmp_path_factory):
    """Folder of the results of all runs: of one process with four accumulated batches, and of two with two each."""
    folder = tmp_path_factory.mktemp("results")
    threads = torch.get_num_threads()
    equivalence_runs.run_all(world, folder, ["auto"], accumulate=4)
    torch.set_num_threads(threads)
    run_ranks("equivalence_runs:run_all", [world, folder, STRATEGIES, 2], ranks=2, folder=folder, timeout=900)
    return folder


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", MODELS)
def test_trajectories(results, name, strategy):
    alone, together = read(results, f"fit-{name}-auto-0"), read(results, f"fit-{name}-{strategy}-0")
    assert len(alone["steps"]) == len(together["steps"]) == TRAINED_STEPS
    for number, (one, other) in enumerate(zip(alone["steps"], together["steps"], strict=True)):
        assert one.keys() == other.keys()
        for key in one.keys() - {"batch"}:
            tolerance = NORM_TOLERANCE if key == "norm" else LOSS_TOLERANCE
            assert other[key] == pytest.approx(one[key], abs=tolerance, rel=tolerance), (number, key)
    # Something happens, and clipping is no idle setting.
    losses = [step["train/loss"] for step in alone["steps"]]
    assert max(losses) - min(losses) > 0.1
    assert 0 < sum(step["norm"] > 0.3 for step in alone["steps"])


@pytest.mark.parametrize("name", MODELS)
def test_the_comparison_is_of_uneven_batches(results, name):
    """A mean of means would be another loss: ranks and windows differ in their labels, and a window is short."""
    ranks = [read(results, f"fit-{name}-ddp-{rank}")["labels"] for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1])
    assert sum(one != other for one, other in zip(*ranks, strict=True)) > len(ranks[0]) / 3
    windows = [step["batch"] for step in read(results, f"fit-{name}-ddp-0")["steps"]]
    assert any(batch % 2 == 0 for batch in windows)  # a step after the first batch of a window: the epoch's last
    labels = read(results, f"fit-{name}-auto-0")["labels"]
    assert sum(labels) == sum(map(sum, ranks))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tables_are_equal_to_the_last_digit(results, strategy):
    names = sorted(path.name for path in (results / "reports-auto").iterdir() if path.suffix != ".png")
    assert names == [
        "best_of_n_test.json",
        "best_of_n_test.md",
        "best_of_n_validate.json",
        "best_of_n_validate.md",
        "candidate_scores.jsonl",
        "process_bench_scores.jsonl",
        "process_bench_test.json",
        "process_bench_test.md",
        "process_bench_validate.json",
        "process_bench_validate.md",
    ]
    for name in names:
        assert (results / f"reports-{strategy}" / name).read_bytes() == (results / "reports-auto" / name).read_bytes()
    report = read(results / "reports-auto", "best_of_n_test")
    assert report["coverage"]["LogicVista"]["questions"] == QUESTIONS
    scores = [json.loads(line) for line in (results / "reports-auto" / "candidate_scores.jsonl").open()]
    assert len(scores) == QUESTIONS * CANDIDATES
    assert len({score for row in scores for score in row["step_scores"]}) > 20
    bench = read(results / "reports-auto", "process_bench_test")
    assert bench["overall"]["solutions"] == JUDGED_ROWS
    assert bench["threshold_source"] == "validation"
    assert f"of {VALIDATION_ROWS} solutions" in bench["threshold_chosen_on"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_validation_metrics_are_equal_to_the_last_digit(results, strategy):
    alone = read(results, "validate-auto-0")
    for rank in range(2):
        assert read(results, f"validate-{strategy}-{rank}") == alone
    logged = {name for metrics in alone for name in metrics}
    assert {"validation/loss", "validation/macro_f1", "validation/auroc", "best_of_n/overall"} <= logged


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["rollouts", "annotation"])
def test_predictions_are_the_same(results, name, strategy):
    alone = (results / f"{name}-auto.jsonl").read_text()
    assert (results / f"{name}-{strategy}.jsonl").read_text() == alone
    rows = [json.loads(line) for line in alone.splitlines()]
    assert len(rows) == 2 * PROMPTS
    if name == "annotation":
        assert len({len(row["steps_with_score"]) for row in rows}) > 1
    else:
        assert len({len(row["response"]) for row in rows}) > 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_searches_are_the_same(results, strategy):
    """Each rank searches as long as its own questions need."""
    alone, together = (
        [json.loads(line) for line in (results / f"search-{name}.jsonl").open()] for name in ("auto", strategy)
    )
    assert len(alone) == len(together) == 2 * PROMPTS
    for one, other in zip(alone, together, strict=True):
        assert one["response"] == other["response"]
        assert one["search"]["sampled_tokens"] == other["search"]["sampled_tokens"]
        assert one["search"]["step_scores"] == pytest.approx(other["search"]["step_scores"], abs=1e-5)
    assert max(len(row["search"]["step_scores"]) for row in alone) > 1
    assert len({row["search"]["sampled_tokens"] for row in alone}) > 2


def scores_of(row):
    """All scores that a critic gives to a candidate."""
    return [*row.get("scores", {}).values(), *(step["score"] for step in row.get("steps_with_score", []))]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["likelihood", "judge", "knockout"])
def test_critics_say_the_same(results, name, strategy):
    """The number of steps, and so of questions to a judge, differs between the ranks."""
    alone, together = (
        [json.loads(line) for line in (results / f"{name}-{way}.jsonl").open()] for way in ("auto", strategy)
    )
    assert [(row["id"], row["response"]) for row in alone] == [(row["id"], row["response"]) for row in together]
    assert len(alone) == 2 * PROMPTS
    for one, other in zip(alone, together, strict=True):
        assert scores_of(one) == pytest.approx(scores_of(other), abs=1e-4)
    assert len({round(score, 4) for row in alone for score in scores_of(row)}) > 1


def test_clipping_is_by_the_norm_of_the_whole_gradient(results):
    for rank in range(2):
        found = torch.load(results / f"clipped-{rank}.pt", weights_only=True)
        norm = torch.cat([gradient.flatten() for gradient in found["whole"]]).norm()
        assert norm > 1
        torch.testing.assert_close(found["norm"], norm)
        for clipped, gradient in zip(found["clipped"], found["whole"], strict=True):
            torch.testing.assert_close(clipped, gradient * 0.5 / norm)


# --------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_a_picture_that_one_rank_cannot_decode(world, tmp_path, on_bad_row):
    """It is whole in its header alone, so the worker of one rank finds it out, long after the start."""
    results = run_ranks(
        "equivalence_runs:fit_with_a_bad_row",
        [world, tmp_path, "fsdp2", on_bad_row],
        ranks=2,
        folder=tmp_path,
        timeout=300,
        grace=60,
        check=False,
    )
    for result in results:
        # All ranks end, none has to be killed; or all go on to the end of the epoch.
        assert (result.returncode == 0) == (on_bad_row == "skip"), results
        assert result.returncode != -9, results
    assert any("train.jsonl:3: field 'image'" in result.output and "bad.png" in result.output for result in results)
