"""The whole road at the smallest size, through the commands of the quickstart; its results are worked out anew here."""

import csv
import itertools
import json
import math
import re
import statistics
import sys
from collections import defaultdict

import pytest
import torch
from cli_runs import CONTINUATIONS, SAMPLES, SOLUTIONS, visualprm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForImageTextToText, AutoProcessor

from datamodules.benchmarks import BENCHMARKS, VISUAL_BENCHMARKS
from lightning_modules.process_reward import ProcessRewardModel

AGGREGATIONS = {
    "mean": statistics.fmean,
    "min": min,
    "max": max,
    "last": lambda scores: scores[-1],
    "product": math.prod,
}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(quickstart_run):
    return quickstart_run


@pytest.fixture(scope="module")
def rollouts(run):
    return lines(run / "rollouts.jsonl")


@pytest.fixture(scope="module")
def questions(run):
    """Keys of the benchmark questions in the order of the tables."""
    return [(row["benchmark"], row["question_id"]) for row in lines(run / "world" / "truth.jsonl")]


@pytest.fixture(scope="module")
def by_question(rollouts, questions):
    """Whether the candidates of each question are right."""
    return {
        key: [row["is_correct"] for row in rollouts if (row["benchmark"], row["question_id"]) == key]
        for key in questions
    }


def scores_of(run, name):
    """Step scores of the candidates of each question, as a test of a reward model wrote them."""
    scores = defaultdict(list)
    for row in lines(run / f"{name}_test" / "candidate_scores.jsonl"):
        assert row["sample_index"] == len(scores[row["benchmark"], row["question_id"]])
        scores[row["benchmark"], row["question_id"]].append(row["step_scores"])
    return scores


def steps_of(response):
    return [step.strip() for step in response.split("\n\n") if step.strip()]


def last_box(response):
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", response)
    return boxes[-1] if boxes else None


# ----------------------------------------------------------------- rollouts


def test_every_question_has_its_rollouts(rollouts, questions):
    assert len(questions) == 69  # ten a benchmark, but three groups of three for We-Math
    keys = [(row["benchmark"], row["question_id"], row["sample_index"]) for row in rollouts]
    assert keys == [(*key, index) for key in questions for index in range(SAMPLES)]
    # Samples differ, and the policy has learnt to write steps.
    assert len({row["response"] for row in rollouts}) > 0.5 * len(rollouts)
    assert statistics.fmean(len(steps_of(row["response"])) for row in rollouts) > 2
    assert {row["is_correct"] for row in rollouts} == {True, False}


def test_grades_of_rollouts(rollouts, run):
    """Free-form questions with whole numbers: right is what boxes the number of the table."""
    csv.field_size_limit(sys.maxsize)
    with (run / "world" / "benchmarks" / "MathVision.tsv").open() as table:
        gold = {row["index"]: row["answer"] for row in csv.DictReader(table, delimiter="\t")}
    graded = [row for row in rollouts if row["benchmark"] == "MathVision" and last_box(row["response"])]
    assert len(graded) > SAMPLES
    for row in graded:
        assert row["is_correct"] == (last_box(row["response"]).strip() == gold[row["question_id"]])


def test_rollouts_are_the_same_again_and_in_other_batches(run, rollouts, tmp_path):
    output = tmp_path / "rollouts.jsonl"
    visualprm(
        run,
        "predict",
        "--config=experiments/quickstart/rollouts.yaml",
        "--model.sampling.max_new_tokens=64",
        "--model.sampling.temperature=0.7",
        f"--model.num_samples={SAMPLES}",
        "--data.benchmark_names=[WeMath]",
        "--data.batch_size=2",
        f"--trainer.default_root_dir={tmp_path}",
        f"--trainer.callbacks.output={output}",
    )
    expected = [row for row in rollouts if row["benchmark"] == "WeMath"]
    differ = [(one, other) for one, other in zip(lines(output), expected, strict=True) if one != other]
    # Sums of another batch shape differ in their last bits, so that one draw in a million falls on the other side.
    assert len(differ) <= 1, differ


# --------------------------------------------------------------- annotation


@pytest.mark.parametrize("split", ["prompts", "validation"])
def test_process_supervision(split, run):
    folder = run / "world" / split
    prompts = lines(folder / "annotations.jsonl")
    rows = lines(folder / "process_supervision.jsonl")
    assert [row["id"] for row in rows] == [f"{p['id']}/{index}" for p in prompts for index in range(SOLUTIONS)]
    for row, prompt in zip(rows, [p for p in prompts for _ in range(SOLUTIONS)], strict=True):
        for name in ("image", "question", "answer", "source"):
            assert row.get(name) == prompt.get(name)
        steps = row["steps_with_score"]
        assert [step["step"] for step in steps] == (steps_of(row["response"]) or [""])
        assert row["num_mc_sequences"] == CONTINUATIONS
        # A finished solution has nothing left to sample: it is right, or it is not.
        assert [step["num_mc_total"] for step in steps] == [CONTINUATIONS] * (len(steps) - 1) + [1]
        assert all(step["score"] == step["num_mc_correct"] / step["num_mc_total"] for step in steps)
        if (boxed := last_box(row["response"])) is not None and re.fullmatch(r"[A-H]|-?\d+", boxed.strip()):
            # The answer is text of digits or letters: a zero in front, as in 07, changes no number.
            equal = boxed.strip().lstrip("0") == row["answer"].lstrip("0")
            assert steps[-1]["score"] == float(equal)
    scores = {step["score"] for row in rows for step in row["steps_with_score"]}
    assert scores <= {0.0, 0.5, 1.0}
    # A policy this small is seldom right, of the few validation prompts perhaps never.
    assert len(scores) >= (2 if split == "prompts" else 1)


def test_labels_of_the_process_bench_are_the_truth(run, rollouts):
    truth = {(row["benchmark"], row["question_id"]): row for row in lines(run / "world" / "truth.jsonl")}
    firsts = [row for row in rollouts if row["sample_index"] == 0 and steps_of(row["response"])]
    sources = {"MMMU": "MMMU", "MathVision": "MathVision", "MathVerse-VO": "MathVerse"}
    sources |= {"DynaMath": "DynaMath", "WeMath": "WeMath"}
    firsts = [row for row in firsts if row["benchmark"] in sources]
    judged = lines(run / "visual_process_bench" / "test.jsonl")
    counts = dict.fromkeys((1, -1, 0), 0)
    for row, rollout in zip(judged, firsts, strict=True):
        true = truth[rollout["benchmark"], rollout["question_id"]]
        assert row["data_source"] == sources[rollout["benchmark"]]
        assert row["response"]["steps"] == steps_of(rollout["response"])
        for index, (step, label) in enumerate(
            zip(row["response"]["steps"], row["response"]["process_correctness"], strict=True)
        ):
            is_true = step in true["steps"][index : index + 1]
            assert label == ((0 if index in true["neutral_steps"] else 1) if is_true else -1)
            counts[label] += 1
    overall = json.loads((run / "process_reward_model_test" / "process_bench_test.json").read_text())["overall"]
    assert counts == {1: overall["correct_steps"], -1: overall["wrong_steps"], 0: overall["neutral_steps"]}
    assert min(counts.values()) > 0


# ------------------------------------------------------------ reward models


def test_curves(run):
    """What a user watches in TensorBoard."""
    expected = {
        "policy": {"train/loss", "train/token_accuracy"},
        "outcome_reward_model": {"train/loss", "validation/auroc", "best_of_n/overall"},
        "process_reward_model": {
            "train/loss",
            "validation/loss",
            "validation/macro_f1",
            "validation/wrong_f1",
            "validation/auroc",
            "best_of_n/overall",
            "best_of_n/MMMU",
            "process_bench/macro_f1",
            "lr-AdamW/pg1",
            "throughput/samples_per_second",
            "throughput/tokens_per_second",
        },
    }
    for name, tags in expected.items():
        events = EventAccumulator(str(run / "logs" / name))
        events.Reload()
        assert tags <= set(events.Tags()["scalars"])
        for tag in tags:
            assert all(math.isfinite(event.value) for event in events.Scalars(tag))
        if name == "policy":
            losses = [event.value for event in events.Scalars("train/loss")]
            assert losses[-1] < 0.5 * losses[0]
    assert "best_of_n/accuracy_against_n" in events.Tags()["images"]


def test_one_score_for_a_step_of_a_response(run, rollouts, questions):
    for name, of_response in [("process_reward_model", steps_of), ("outcome_reward_model", lambda text: [text])]:
        scores = scores_of(run, name)
        assert scores.keys() == set(questions)
        for row in rollouts:
            steps = scores[row["benchmark"], row["question_id"]][row["sample_index"]]
            assert len(steps) == max(1, min(12, len(of_response(row["response"]))))
            assert all(0 <= score <= 1 for score in steps)


def test_scores_of_the_exported_model(run, rollouts):
    """The model from its folder, as a notebook uses it, gives the scores of `visualprm test`."""
    model = ProcessRewardModel.from_pretrained(run / "process_reward_model")
    expected = scores_of(run, "process_reward_model")
    for name in ("MathVision", "MMMU", "LogicVista"):
        question = BENCHMARKS[name]().read(run / "world" / "benchmarks")[3]
        responses = [
            row["response"]
            for row in rollouts
            if (row["benchmark"], row["question_id"]) == (name, question.question_id)
        ]
        scored = model.score(question.images, question.question, responses)
        for got, want in zip(scored.step_scores, expected[name, question.question_id], strict=True):
            assert got == pytest.approx(want, abs=1e-5)
        means = [statistics.fmean(steps) for steps in scored.step_scores]
        assert scored.response_scores == pytest.approx(means)


def test_exported_folders_are_ordinary_checkpoints(run):
    for name in ("policy", "outcome_reward_model", "process_reward_model"):
        assert AutoProcessor.from_pretrained(run / name).tokenizer("+")["input_ids"]
        model, report = AutoModelForImageTextToText.from_pretrained(run / name, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        start = AutoModelForImageTextToText.from_pretrained(run / "base")
        weights, before = model.state_dict(), start.state_dict()
        assert weights.keys() == before.keys()
        # All parts were trained, the vision tower too.
        for part in ("vision_tower", "multi_modal_projector", "language_model"):
            assert any(not torch.equal(weights[key], before[key]) for key in weights if part in key)


# ------------------------------------------------------------- the table


def test_accuracies_of_the_table(run, by_question):
    """Question accuracy of all questions together, from rollouts and candidate scores alone."""
    report = json.loads((run / "process_reward_model_test" / "best_of_n_test.json").read_text())
    process, outcome = scores_of(run, "process_reward_model"), scores_of(run, "outcome_reward_model")
    assert report["ns"] == [1, 2, 4, 8]
    found = report["accuracies"]["all_questions"]

    def accuracy(pick):
        return statistics.fmean(float(pick(key, right)) for key, right in by_question.items())

    def best(scores, aggregate, subsets):
        def pick(key, right):
            values = [aggregate(steps) for steps in scores[key]]
            return statistics.fmean(right[max(subset, key=lambda index: values[index])] for subset in subsets)

        return accuracy(pick)

    for n in report["ns"]:
        subsets = list(itertools.combinations(range(SAMPLES), n))
        expected = {
            "pass_at_1": accuracy(lambda key, right: statistics.fmean(right)),
            "random_choice": accuracy(lambda key, right: statistics.fmean(right)),
            "pass_at_n": accuracy(
                lambda key, right, subsets=subsets: statistics.fmean(any(right[i] for i in s) for s in subsets)
            ),
            "outcome": best(outcome, statistics.fmean, subsets),
        }
        expected |= {f"prm_{name}": best(process, aggregate, subsets) for name, aggregate in AGGREGATIONS.items()}
        for method, value in expected.items():
            interval = found[method][str(n)]
            assert interval["value"] == pytest.approx(value), (method, n)
            assert interval["low"] <= interval["value"] <= interval["high"]
    # The headline of MathVision is its question accuracy, and the overall column the mean of the seven headlines.
    mathvision = [right for (name, _), right in by_question.items() if name == "MathVision"]
    assert report["accuracies"]["MathVision"]["pass_at_1"][str(SAMPLES)]["value"] == pytest.approx(
        statistics.fmean(map(statistics.fmean, mathvision))
    )
    headlines = [report["accuracies"][name]["prm_mean"][str(SAMPLES)]["value"] for name in VISUAL_BENCHMARKS]
    assert report["accuracies"]["overall"]["prm_mean"][str(SAMPLES)]["value"] == pytest.approx(
        statistics.fmean(headlines)
    )
    assert list(report["accuracies"])[:7] == list(VISUAL_BENCHMARKS)


def test_the_exported_model_is_the_one_of_the_last_epoch(run):
    """Evaluation while fitting and `visualprm test` afterwards are one evaluation."""
    for report in ("best_of_n", "process_bench"):
        last, test = (
            json.loads((run / path).read_text())
            for path in (
                f"logs/process_reward_model/{report}_epoch0.json",
                f"process_reward_model_test/{report}_test.json",
            )
        )
        for content in (last, test):
            for name in ("run", "epoch", "global_step", "model"):
                content.pop(name)
        assert last == test


def test_the_table_for_people(run):
    table = (run / "process_reward_model_test" / "best_of_n_test.md").read_text()
    report = json.loads((run / "process_reward_model_test" / "best_of_n_test.json").read_text())
    for name in [*VISUAL_BENCHMARKS, "Pass@1", "Self-consistency", "ORM", "PRM (mean)", f"Pass@{SAMPLES}"]:
        assert name in table
    best_of_n = table.split("###")[1]
    assert f"Best-of-{SAMPLES}" in best_of_n
    (row,) = (line for line in best_of_n.splitlines() if line.startswith("| PRM (mean)"))
    values = [float(cell.strip(" *")) for cell in row.strip("|").split("|")[1:]]
    columns = [*VISUAL_BENCHMARKS, "all_questions", "overall"]
    expected = [100 * report["accuracies"][column]["prm_mean"][str(SAMPLES)]["value"] for column in columns]
    assert values == pytest.approx(expected, abs=0.0501)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.learning_rat=1", "learning_rat"),
        ("--data.batch_size=many", "batch_size"),
        ("--model.objective=best", "objective"),
    ],
)
def test_mistyped_options_are_named(option, message, run, capsys):
    with pytest.raises(SystemExit):
        visualprm(run, "fit", "--config=experiments/quickstart/process_reward_model.yaml", option)
    assert message in capsys.readouterr().err
