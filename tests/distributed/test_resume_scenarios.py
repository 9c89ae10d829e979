"""Runs that were killed and went on, against those that nobody disturbed; see resume_scenarios.py."""

import json
import os
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from cli_runs import visualprm
from resume_scenarios import (
    EPOCHS,
    KILLS,
    ONE,
    ROWS,
    SCENARIOS,
    STEPS_OF_EPOCH,
    THOROUGH,
    arguments,
    run_all,
)
from safetensors.torch import load_file

from lightning_modules.checkpointing.folder import is_checkpoint_folder
from lightning_modules.export.trained_module import read_checkpoint
from lightning_modules.process_reward import ProcessRewardModel
from tools.export import export

STEPS = EPOCHS * STEPS_OF_EPOCH


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory):
    """Folder of all scenarios, run once."""
    return run_all(tmp_path_factory.mktemp("scenarios"), SCENARIOS)


@pytest.fixture(scope="module")
def many_kills(tmp_path_factory):
    """The same for kills at random moments."""
    return run_all(tmp_path_factory.mktemp("many_kills"), THOROUGH)


@dataclass
class Step:
    """An optimizer step of all ranks."""

    samples: list[str]
    loss: float


def runs_of(folder):
    """For each time that a run was started, by step: all batches of all ranks."""
    runs = []
    for number in range(len(list(folder.glob("log_*_0.txt")))):
        steps = {}
        for path in sorted(folder.glob(f"batches_{number}_*.jsonl")):
            for line in path.read_text().splitlines():
                step, epoch, samples, loss = json.loads(line)
                steps.setdefault((step, epoch), []).append((samples, loss))
        runs.append(steps)
    return runs


def joined(batches):
    """Samples and loss of steps; the loss of a step is that of all ranks."""
    steps = {}
    for step, found in batches.items():
        losses = {loss for _, loss in found if loss is not None}
        if losses:  # else it was killed inside of the step
            (loss,) = losses
            steps[step] = Step(sorted(name for samples, _ in found for name in samples), loss)
    return steps


def course_of(folder):
    """The steps that led to the end: those of a killed run up to the checkpoint from which the next went on."""
    course = {}
    for batches in runs_of(folder):
        begun = min(batches, default=(STEPS, EPOCHS))
        course = {step: found for step, found in course.items() if step < begun} | batches
    return joined(course)


def end_of(folder):
    return load_file(folder / "end.safetensors")


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def validations(folder):
    return [json.loads(line) for line in (folder / "validations.jsonl").read_text().splitlines()]


def states(folder):
    return json.loads((folder / "states.json").read_text())


def assert_seen_once(course, rows=ROWS):
    for epoch in range(EPOCHS):
        seen = Counter(name for (_, e), step in course.items() if e == epoch for name in step.samples)
        assert set(seen.values()) == {1}
        assert len(seen) == rows


@pytest.mark.parametrize(
    ("made", "kills"), [("scenarios", 2), pytest.param("many_kills", KILLS, marks=pytest.mark.thorough)]
)
def test_killed_on_one_process(made, kills, request):
    """Adapters with dropout, so the random numbers count: every batch and loss, bit for bit."""
    folder = request.getfixturevalue(made)
    whole, killed = folder / "one_lora", folder / "killed_lora"
    (expected,) = runs_of(whole)
    runs = runs_of(killed)
    assert len(runs) == kills + 1
    # A run may end before a random moment comes.
    assert sum(state["happened"] for state in states(killed)) >= kills - (2 if kills == KILLS else 0)
    half_written = [s for s in states(killed) if any(name.startswith(".saving-") for name in s["names"])]
    assert half_written, "no kill has hit a checkpoint that was being written"
    for batches in runs:
        for step, found in batches.items():
            assert found == expected[step][: len(found)]
    course = course_of(killed)
    assert_seen_once(course)
    assert course == joined(expected)
    assert largest_difference(end_of(killed), end_of(whole)) == 0
    last = {(step, epoch): metrics for step, epoch, metrics in validations(killed)}
    assert last == {(step, epoch): metrics for step, epoch, metrics in validations(whole)}


def test_what_killed_runs_leave(scenarios):
    """`latest` points to a whole checkpoint at all times; what is half written is gone after the next start."""
    for state in states(scenarios / "killed_lora"):
        assert state["latest"] is None or state["latest"] in state["names"]
    checkpoints = scenarios / "killed_lora" / "checkpoints"
    names = {path.name for path in checkpoints.iterdir()}
    assert names == {"latest", "best", f"step_{STEPS - 2:08d}", f"step_{STEPS:08d}"} | {
        os.readlink(checkpoints / "best")
    }
    assert all(is_checkpoint_folder(checkpoints / name) for name in names)


@pytest.mark.parametrize(
    ("name", "reference", "tolerance"),
    [
        ("told_to_end", "one", 1e-6),
        ("one_to_sharded", "one", 1e-6),
        ("packed_one_to_ddp", "packed", 1e-6),
    ],
)
def test_other_processes_go_on(scenarios, name, reference, tolerance):
    """The same samples in every step, and losses and weights within rounding of those of one process."""
    course, expected = course_of(scenarios / name), course_of(scenarios / reference)
    assert course.keys() == expected.keys()
    for step, found in course.items():
        assert found.samples == expected[step].samples, step
        assert found.loss == pytest.approx(expected[step].loss, abs=tolerance), step
    # A tenth of an optimizer step: where gradients are next to nothing, rounding decides, and processors differ.
    assert largest_difference(end_of(scenarios / name), end_of(scenarios / reference)) < 2e-4
    assert_seen_once(course)


def test_all_ranks_end_together_when_one_is_told_to(scenarios):
    """They save at the next step, and no step is made again."""
    folder = scenarios / "told_to_end"
    (state,) = states(folder)
    assert state["statuses"] == [1, 1], state["outputs"]
    before, after = runs_of(folder)
    assert not before.keys() & after.keys()
    assert max(before)[1] == 1
    assert state["latest"] == f"step_{max(before)[0] + 1:08d}"
    assert all("SIGTERMException" in (folder / f"log_0_{rank}.txt").read_text() for rank in range(2))


def test_a_signal_that_slurm_makes_nothing_of_hurts_nobody(scenarios):
    """`test_other_processes_go_on` looks at what that run computed."""
    assert "job 7 was not requeued" in (scenarios / "one_to_sharded" / "log_1_0.txt").read_text()


def test_adapters_go_on_with_other_processes(scenarios):
    """Dropout differs with the processes, but the samples do not, and the checkpoints hold trained weights alone."""
    name = "lora_ddp_to_sharded"
    course = course_of(scenarios / name)
    expected = course_of(scenarios / "one_lora")
    assert {step: found.samples for step, found in course.items()} == {s: f.samples for s, f in expected.items()}
    assert all(abs(found.loss - expected[step].loss) < 0.2 for step, found in course.items())
    frozen = "backbone.model.language_model.embed_tokens.weight"
    begun = ProcessRewardModel.from_pretrained(scenarios / "base").state_dict()
    assert torch.equal(end_of(scenarios / name)[frozen], begun[frozen])
    stored = read_checkpoint(scenarios / name / "checkpoints" / "latest")["state_dict"]
    assert stored
    assert frozen not in stored


@pytest.mark.parametrize(
    ("name", "step"), [("killed_in_validation", STEPS_OF_EPOCH), ("killed_in_unaligned_validation", 3)]
)
def test_an_evaluation_that_was_killed_is_run(scenarios, name, step):
    """At the end of an epoch, and between two batches of one optimizer step, which are trained on again then."""
    (state,) = states(scenarios / name)
    assert state["latest"] == f"step_{step:08d}"
    assert course_of(scenarios / name) == course_of(scenarios / "one")
    assert largest_difference(end_of(scenarios / name), end_of(scenarios / "one")) == 0
    found = [(s, epoch) for s, epoch, _ in validations(scenarios / name)]
    assert found == [(step, 0), (STEPS_OF_EPOCH + step, 1)] if step == 3 else [(step, 0), (2 * step, 1)]
    if step == STEPS_OF_EPOCH:
        assert [m["validation/loss"] for *_, m in validations(scenarios / name)] == [
            m["validation/loss"] for *_, m in validations(scenarios / "one")
        ]


def test_a_checkpoint_of_two_processes_is_evaluated_by_one(scenarios, tmp_path):
    """`validate --ckpt_path latest` finds it, and finds what the run itself found."""
    folder = scenarios / "one_to_sharded"
    given = [
        text for text in arguments(scenarios, folder, ONE) if "StepLog" not in text and not text.endswith(str(folder))
    ]
    given += [f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=latest"]
    cli = visualprm(scenarios, "validate", *given[1:])
    found = validations(folder)[-1][-1]["validation/loss"]
    assert cli.trainer.callback_metrics["validation/loss"].item() == pytest.approx(found, abs=1e-6)


def test_export_of_a_folder_of_two_processes(scenarios, tmp_path):
    """Equal to the weights that the two processes gathered at the end of their run."""
    folder = scenarios / "one_to_sharded" / "checkpoints" / "latest"
    assert len(list(folder.glob("*.distcp"))) == 2
    export(folder, tmp_path / "export")
    exported = ProcessRewardModel.from_pretrained(tmp_path / "export").state_dict()
    gathered = end_of(scenarios / "one_to_sharded")
    # The language-model head takes over the class rows of the step head.
    ours = {name: value for name, value in exported.items() if name not in ("backbone.lm_head.weight",)}
    assert largest_difference(ours, {name: gathered[name] for name in ours}) == 0
    assert exported.keys() == gathered.keys()


def test_export_of_adapters_of_two_processes(scenarios, tmp_path):
    """Adapters trained by one process after two, merged."""
    export(scenarios / "lora_ddp_to_sharded" / "checkpoints" / "latest", tmp_path / "export")
    assert (tmp_path / "export" / "model.safetensors").is_file()
