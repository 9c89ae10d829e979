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
    KILLED_ON_ONE_PROCESS,
    KILLS,
    ONE,
    ROWS,
    SCENARIOS,
    STEPS_OF_EPOCH,
    THOROUGH,
    arguments,
    run_all,
    write_world,
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
    folder = tmp_path_factory.mktemp("scenarios")
    write_world(folder)
    return run_all(folder, SCENARIOS)


@pytest.fixture(scope="module")
def more_scenarios(scenarios):
    """The same folder, with those of `make test-all` besides."""
    return run_all(scenarios, THOROUGH)


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


def evaluated(folder):
    """What each evaluation found, the last one where it was run again."""
    return {
        (step, epoch): {name: value for name, value in metrics.items() if name.startswith("validation/")}
        for step, epoch, metrics in validations(folder)
    }


def states(folder):
    return json.loads((folder / "states.json").read_text())


def assert_seen_once(course, rows=ROWS):
    for epoch in range(EPOCHS):
        seen = Counter(name for (_, e), step in course.items() if e == epoch for name in step.samples)
        assert set(seen.values()) == {1}
        assert len(seen) == rows


@pytest.mark.parametrize(
    ("made", "name", "kills"),
    [
        ("scenarios", "killed_lora", len(KILLED_ON_ONE_PROCESS)),
        pytest.param("more_scenarios", "often_killed_lora", KILLS, marks=pytest.mark.thorough),
    ],
)
def test_killed_on_one_process(made, name, kills, request):
    """Adapters with dropout, so the random numbers count: every batch and loss, bit for bit."""
    folder = request.getfixturevalue(made)
    whole, killed = folder / "one_lora", folder / name
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
    assert evaluated(killed) == evaluated(whole)


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


def test_an_evaluation_that_was_killed_is_run(scenarios):
    """Once, at the end of its epoch; `test_killed_on_one_process` looks at what it found."""
    (in_validation,) = [
        state
        for state, moment in zip(states(scenarios / "killed_lora"), KILLED_ON_ONE_PROCESS, strict=True)
        if "KILLED_IN_VALIDATION" in moment
    ]
    assert in_validation["latest"] == f"step_{STEPS_OF_EPOCH:08d}"
    found = [(step, epoch) for step, epoch, _ in validations(scenarios / "killed_lora")]
    assert found == [(STEPS_OF_EPOCH, 0), (STEPS, 1)]


@pytest.mark.thorough
def test_an_evaluation_between_two_batches_of_a_step_that_was_killed_is_run(more_scenarios):
    """The first of the two batches is trained on again then."""
    folder = more_scenarios / "killed_in_unaligned_validation"
    (state,) = states(folder)
    assert state["latest"] == "step_00000002"
    assert course_of(folder) == course_of(more_scenarios / "one")
    assert largest_difference(end_of(folder), end_of(more_scenarios / "one")) == 0
    assert [(step, epoch) for step, epoch, _ in validations(folder)] == [(2, 0), (STEPS_OF_EPOCH + 2, 1)]


@pytest.mark.parametrize(
    ("made", "name", "reference"),
    [
        ("scenarios", "one_to_sharded", "one"),
        ("scenarios", "killed_sharded_lora", "sharded_lora"),
        pytest.param("more_scenarios", "packed_one_to_ddp", "packed", marks=pytest.mark.thorough),
    ],
)
def test_other_processes_go_on(made, name, reference, request):
    """The same samples in every step, and losses and weights within rounding of those of an undisturbed run."""
    folder = request.getfixturevalue(made)
    course, expected = course_of(folder / name), course_of(folder / reference)
    assert course.keys() == expected.keys()
    for step, found in course.items():
        assert found.samples == expected[step].samples, step
        assert found.loss == pytest.approx(expected[step].loss, abs=1e-6), step
    # A tenth of an optimizer step: where gradients are next to nothing, rounding decides, and processors differ.
    assert largest_difference(end_of(folder / name), end_of(folder / reference)) < 2e-4
    assert_seen_once(course)


def test_killed_under_fsdp2(scenarios):
    """What two ranks compute after kill -9 is what they compute undisturbed, bit for bit."""
    folder = scenarios / "killed_sharded_lora"
    (expected,) = runs_of(scenarios / "sharded_lora")
    killed, resumed, _ = runs_of(folder)
    for batches in (killed, resumed):
        assert batches
        for step, found in batches.items():
            assert all(batch in expected[step] for batch in found), step
    begun = int(states(folder)[0]["latest"].removeprefix("step_"))
    assert 0 < begun == min(resumed)[0]
    assert {epoch for _, epoch in resumed} == {0, 1}


def test_all_ranks_end_together_when_one_is_told_to(scenarios):
    """They save at the next step, and no step is made again."""
    folder = scenarios / "killed_sharded_lora"
    _, state = states(folder)
    assert state["statuses"] == [1, 1], state["outputs"]
    _, before, after = runs_of(folder)
    assert not before.keys() & after.keys()
    assert max(before)[1] == 1
    assert state["latest"] == f"step_{max(before)[0] + 1:08d}"
    assert all("SIGTERMException" in (folder / f"log_1_{rank}.txt").read_text() for rank in range(2))


def test_a_signal_that_slurm_makes_nothing_of_hurts_nobody(scenarios):
    """`test_other_processes_go_on` looks at what that run computed."""
    assert "job 7 was not requeued" in (scenarios / "one_to_sharded" / "log_1_0.txt").read_text()


def assert_frozen_weights_are_not_stored(folder, base):
    frozen = "backbone.model.language_model.embed_tokens.weight"
    begun = ProcessRewardModel.from_pretrained(base).state_dict()
    assert torch.equal(end_of(folder)[frozen], begun[frozen])
    stored = read_checkpoint(folder / "checkpoints" / "latest")["state_dict"]
    assert stored
    assert frozen not in stored


def test_checkpoints_of_adapters_hold_trained_weights_alone(scenarios):
    assert_frozen_weights_are_not_stored(scenarios / "sharded_lora", scenarios / "base")


@pytest.mark.thorough
def test_adapters_go_on_with_other_processes(more_scenarios):
    """From DDP to FSDP2: dropout differs with the processes, but the samples do not."""
    folder = more_scenarios / "lora_ddp_to_sharded"
    course, expected = course_of(folder), course_of(more_scenarios / "one_lora")
    assert {step: found.samples for step, found in course.items()} == {s: f.samples for s, f in expected.items()}
    assert all(abs(found.loss - expected[step].loss) < 0.2 for step, found in course.items())
    assert_frozen_weights_are_not_stored(folder, more_scenarios / "base")


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
    """Merged into weights that are no longer those of the start."""
    folder = scenarios / "sharded_lora" / "checkpoints" / "latest"
    assert len(list(folder.glob("*.distcp"))) == 2
    export(folder, tmp_path / "export")
    exported, begun = (load_file(path / "model.safetensors") for path in (tmp_path / "export", scenarios / "base"))
    assert exported.keys() == begun.keys()
    moved = {name for name in begun if not torch.equal(exported[name], begun[name])}
    assert any("q_proj" in name for name in moved)
    assert not any("embed_tokens" in name for name in moved)
