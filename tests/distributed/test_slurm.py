"""The files under experiments/slurm/ run by bash on a stand-in for SLURM: tasks, signals, requeueing, arrays."""

import json
import os
import signal
import subprocess
import time

import pytest
import yaml
from cli_runs import CONTINUATIONS, QUIET, REPOSITORY, SAMPLES, SOLUTIONS, environment
from fake_slurm import FakeSlurm, job_id

FILES = REPOSITORY / "experiments" / "slurm"
PATIENCE = 600  # seconds, on a busy machine


@pytest.fixture(scope="module")
def slurm(quickstart_run, tmp_path_factory):
    cluster = FakeSlurm(tmp_path_factory.mktemp("slurm"), environment(quickstart_run))
    yield cluster
    cluster.close()


def wait_for(path, *jobs):
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        for job in jobs:
            assert job.poll() is None, job.log.read_text()[-6000:]
        assert time.monotonic() < deadline, jobs[0].log.read_text()[-6000:]
        time.sleep(0.05)


def succeed(*jobs):
    for job in jobs:
        assert job.wait(PATIENCE) == 0, job.log.read_text()[-6000:]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def overlay(folder, name, data, trainer):
    (folder / name).write_text(yaml.safe_dump({"data": data, "trainer": trainer}))
    return f"--config={folder / name}"


@pytest.mark.parametrize("name", ["fit", "predict", "test"])
def test_files_are_sound(name):
    file = FILES / f"{name}.sbatch"
    subprocess.run(["bash", "-n", str(file)], check=True)
    text = file.read_text()
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    # SLURM reads directives up to the first command only.
    assert text.splitlines().index(directives[-1]) < text.splitlines().index("set -euo pipefail")
    assert f"#SBATCH --job-name=visualprm-{name}" in directives  # Lightning takes `bash` and `interactive` for no job
    assert "#SBATCH --requeue" in directives
    assert (
        not any(flag in text for flag in ("--account=", "--partition=", "--mail")) or "\n#SBATCH --account" not in text
    )


def fit_arguments(folder, hold):
    callbacks = "lightning_modules.callbacks"
    trainer = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "default_root_dir": str(folder),
        "logger": False,
        "callbacks": [
            {
                "class_path": f"{callbacks}.run_checkpoints.RunCheckpoints",
                "init_args": {"folder": str(folder / "checkpoints")},
            },
            {
                "class_path": f"{callbacks}.save_pretrained.SavePretrained",
                "init_args": {"folder": str(folder / "exported")},
            },
            {"class_path": "cli_runs.BatchLog", "init_args": {"path": str(folder / "batches.jsonl")}},
        ],
    }
    if hold:
        where = {"folder": str(folder), "batch": 2, "ranks": [1]}
        trainer["callbacks"].append({"class_path": "run_control.Hold", "init_args": where})
    data = {
        "class_path": "datamodules.visual_prm_400k.VisualPRM400KDataModule",
        "init_args": {
            "packed_tokens": None,
            "batch_size": 4,
            "visual_process_bench": None,
            "benchmarks": None,
            "rollouts": None,
        },
    }
    return [
        "--config=experiments/quickstart/process_reward_model.yaml",
        "--config=experiments/strategies/fsdp2.yaml",
        overlay(folder, f"hold-{hold}.yaml", data, trainer),
        *QUIET,
    ]


def test_a_preempted_training_goes_on(slurm, quickstart_run, tmp_path, monkeypatch):
    """The signal comes while one rank waits in a collective for the other: no place to save at."""
    for path in quickstart_run.iterdir():  # where the experiment finds its model and data
        if path.is_dir():
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.setitem(slurm.environment, "VISUALPRM_RUN", str(tmp_path))
    file, number = FILES / "fit.sbatch", job_id()
    job = slurm.sbatch(file, *fit_arguments(tmp_path, hold=True), nodes=2, job=number)
    wait_for(tmp_path / "held-1", job)
    assert not slurm.asked
    slurm.signal_steps(job)
    time.sleep(0.5)
    (tmp_path / "go").touch()
    assert job.wait(PATIENCE) != 0  # SLURM ends what it requeues
    assert slurm.asked == [f"requeue {number}"], job.log.read_text()[-6000:]
    # The only checkpoint so far is that of the step after the signal.
    assert (tmp_path / "checkpoints" / "latest").resolve().name == "step_00000003"
    assert not list(tmp_path.glob("*hpc*"))
    assert not (tmp_path / "exported").exists()
    before = lines(tmp_path / "batches.jsonl")

    again = slurm.sbatch(file, *fit_arguments(tmp_path, hold=False), nodes=2, job=job_id(), restarts=1)
    succeed(again)
    assert "restart 1" in again.log.read_text()
    rows = lines(tmp_path / "batches.jsonl")
    assert {step for _, _, step, *_ in before} == {0, 1, 2}
    assert {step for _, _, step, *_ in rows[len(before) :]} == {3}
    supervision = tmp_path / "world" / "prompts" / "process_supervision.jsonl"
    expected = [f"{supervision}:{line}" for line in range(1, 1 + len(lines(supervision)))]
    assert sorted(name for *_, names, _ in rows for name in names) == sorted(expected)
    assert (tmp_path / "exported" / "model.safetensors").exists()


def predict_arguments(folder, hold=False):
    writer = {
        "class_path": "lightning_modules.callbacks.prediction_writer.PredictionWriter",
        "init_args": {"output": str(folder / "rows.jsonl")},
    }
    held = {"class_path": "run_control.Hold", "init_args": {"folder": str(folder), "batch": 1, "ranks": [0]}}
    return [
        "--config=experiments/quickstart/annotation.yaml",
        overlay(
            folder,
            f"hold-{hold}.yaml",
            {"class_path": "datamodules.prompts_datamodule.PromptDataModule", "init_args": {"batch_size": 4}},
            {"default_root_dir": str(folder), "callbacks": [writer, held] if hold else [writer]},
        ),
        f"--model.num_solutions={SOLUTIONS}",
        f"--model.num_continuations={CONTINUATIONS}",
        "--model.sampling.max_new_tokens=64",
        *QUIET,
    ]


def test_an_array_of_annotations(slurm, quickstart_run, tmp_path):
    """One task is preempted in the middle of its share; every prompt is annotated once all the same."""
    number, file = job_id(), FILES / "predict.sbatch"
    first = slurm.sbatch(file, *predict_arguments(tmp_path, hold=True), job=number, task=0, tasks=2)
    second = slurm.sbatch(file, *predict_arguments(tmp_path), job=number, task=1, tasks=2)
    wait_for(tmp_path / "held-0", first)
    asked = len(slurm.asked)
    os.kill(first.pid, signal.SIGUSR1)  # `--signal=B:USR1@...` goes to the batch shell alone
    assert first.wait(PATIENCE) != 0
    assert slurm.asked[asked:] == [f"requeue {number}_0"]
    succeed(second)
    assert not (tmp_path / "rows.jsonl").exists()
    assert len(list(tmp_path.glob("rows.jsonl.journal-*"))) == 2

    again = slurm.sbatch(file, *predict_arguments(tmp_path), job=number, task=0, tasks=2, restarts=1)
    succeed(again)
    rows = lines(tmp_path / "rows.jsonl")
    alone = lines(quickstart_run / "world" / "prompts" / "process_supervision.jsonl")
    assert [row["id"] for row in rows] == [row["id"] for row in alone]
    # Sums of another batch shape differ in their last bits, so that one draw in a million falls on the other side.
    assert sum(one != other for one, other in zip(rows, alone, strict=True)) <= 1
    assert not list(tmp_path.glob("rows.jsonl.journal-*"))


def test_an_evaluation_by_two_tasks(slurm, quickstart_run, tmp_path):
    output = {"output_dir": str(tmp_path)}
    scores = quickstart_run / "outcome_reward_model_test" / "candidate_scores.jsonl"
    best_of_n = {
        "class_path": "lightning_modules.callbacks.best_of_n.BestOfN",
        "init_args": output | {"outcome_scores": str(scores)},
    }
    data = {
        "class_path": "datamodules.visual_prm_400k.VisualPRM400KDataModule",
        "init_args": {"visual_process_bench": None, "candidates_per_question": SAMPLES},
    }
    job = slurm.sbatch(
        FILES / "test.sbatch",
        "--config=experiments/quickstart/process_reward_model.yaml",
        "--config=experiments/quickstart/process_reward_model_test.yaml",
        overlay(tmp_path, "test.yaml", data, {"default_root_dir": str(tmp_path), "callbacks": [best_of_n]}),
        *QUIET,
        tasks_per_node=2,
    )
    succeed(job)
    both = json.loads((tmp_path / "best_of_n_test.json").read_text())
    alone = json.loads((quickstart_run / "process_reward_model_test" / "best_of_n_test.json").read_text())
    for table in (both, alone):
        for name in ("run", "epoch", "global_step", "model"):
            table.pop(name)
    assert both == alone
