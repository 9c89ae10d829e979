"""The same command twice at once, killed at any moment, or started again with something else: no work is lost.

All with the real command, on a model of random weights; processes of their own are forks.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import fork_server
import pytest
import torch
from cli_runs import QUIET, environment, visualprm

PATIENCE = 120  # seconds; a machine that is busy with other tests


class Command:
    """A `visualprm` command in a process of its own."""

    def __init__(self, folder: Path, *arguments: object, patience: float = 0.5) -> None:
        self.output = folder / f"output-{len(list(folder.glob('output-*')))}.txt"
        self.waits = self.output.with_suffix(".waits")
        given = [[*map(str, arguments), *QUIET], patience, str(self.waits)]
        self.process = fork_server.start("cli_runs:run_beside_another", given, self.output, environment(folder))

    def wait(self) -> int:
        """Its exit status."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, self.text
        return self.process.exitcode

    def wait_for(self, condition) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.exitcode is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.01)

    @property
    def text(self) -> str:
        return self.output.read_text()


def predict_arguments(tiny_checkpoint, prompts, folder, *options):
    """Two solutions of each prompt, a prompt a batch."""
    return [
        "predict",
        "--model=Policy",
        f"--model.model_name_or_path={tiny_checkpoint}",
        "--model.num_samples=2",
        "--model.sampling.max_new_tokens=12",
        "--data=PromptDataModule",
        f"--data.prompts={prompts}",
        "--data.batch_size=1",
        "--return_predictions=false",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        f"--trainer.default_root_dir={folder}",
        "--trainer.callbacks+=PredictionWriter",
        f"--trainer.callbacks.output={folder}/rows.jsonl",
        *options,
    ]


@pytest.fixture(scope="module")
def prompt_lines(tiny_world):
    """Prompt rows without ids, with pictures by their whole paths."""
    path = tiny_world / "prompts" / "annotations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["id"]
        names = row.get("image", [])
        row["image"] = [str(path.parent / name) for name in ([names] if isinstance(names, str) else names)]
    return [json.dumps(row) + "\n" for row in rows]


@pytest.fixture
def predict(tiny_checkpoint, prompt_lines, tmp_path):
    """Arguments of the command whose output is ``rows.jsonl``; the prompts are in ``prompts.jsonl``."""
    (tmp_path / "prompts.jsonl").write_text("".join(prompt_lines))

    def arguments(*options):
        return predict_arguments(tiny_checkpoint, tmp_path / "prompts.jsonl", tmp_path, *options)

    return arguments


@pytest.fixture(scope="module")
def whole(tiny_checkpoint, prompt_lines, tmp_path_factory):
    """The output of a run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "prompts.jsonl").write_text("".join(prompt_lines))
    visualprm(folder, *predict_arguments(tiny_checkpoint, folder / "prompts.jsonl", folder))
    return (folder / "rows.jsonl").read_bytes()


def answered(folder):
    """Prompts in the journals."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("rows.jsonl.journal-*"))


def hold(folder, batch):
    options = [f"--trainer.callbacks.folder={folder}", f"--trainer.callbacks.batch={batch}"]
    return ["--trainer.callbacks+=run_control.Hold", *options, "--trainer.callbacks.ranks=[0]"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.thorough)])
def test_killed_at_random_moments(seed, predict, whole, tmp_path):
    """Twice; what is in the journal is never asked again, and the output is that of an undisturbed run."""
    moment = random.Random(seed)
    for _ in range(2):
        before = answered(tmp_path)
        wanted = before + moment.randint(0, 4)
        run = Command(tmp_path, *predict())
        run.wait_for(lambda wanted=wanted: answered(tmp_path) >= wanted)
        time.sleep(moment.random() / 10)
        os.kill(run.process.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        assert answered(tmp_path) >= before
        assert not (tmp_path / "rows.jsonl").exists()
    done = answered(tmp_path)
    cli = visualprm(tmp_path, *predict())
    assert len(cli.datamodule.completed_ids) == done
    assert (tmp_path / "rows.jsonl").read_bytes() == whole
    assert not answered(tmp_path)


def test_the_same_prediction_twice_at_once(predict, whole, tmp_path):
    """The second one ends before it has sampled anything, and says which process has the output."""
    first = Command(tmp_path, *predict(*hold(tmp_path, 2)))
    first.wait_for((tmp_path / "held-0").exists)
    second = Command(tmp_path, *predict())
    assert second.wait() == 1
    assert "rows.jsonl: another run writes here now: host " in second.text
    assert f", process {first.process.pid}, since 20" in second.text
    assert answered(tmp_path) == 2
    (tmp_path / "go").touch()
    assert first.wait() == 0, first.text
    assert (tmp_path / "rows.jsonl").read_bytes() == whole


def test_started_again_with_something_else(predict, whole, tmp_path, caplog):
    """A complete output is never replaced unless that is asked for."""
    output = tmp_path / "rows.jsonl"
    visualprm(tmp_path, *predict())
    visualprm(tmp_path, *predict())
    assert "rows.jsonl is there, and complete: nothing is left to do" in caplog.text
    with pytest.raises(
        ValueError, match=r"run with other settings is there: sampling\.temperature was 0\.7, is 0\.5; "
    ):
        visualprm(tmp_path, *predict("--model.sampling.temperature=0.5"))
    torch.save({}, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"run with other settings is there: checkpoint was None, is '.*best\.ckpt'; "):
        visualprm(tmp_path, *predict(f"--ckpt_path={tmp_path}/best.ckpt"))
    (tmp_path / "prompts.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"prompts\.jsonl: holds no prompts; the file is empty"):
        visualprm(tmp_path, *predict())
    assert output.read_bytes() == whole


@pytest.mark.thorough  # of the callback: `test_begin_anew` of test_prediction_journal.py
def test_overwrite(predict, prompt_lines, whole, tmp_path):
    """Begins anew: of other prompts here, each of which has the answers that it had among the others."""
    visualprm(tmp_path, *predict())
    (tmp_path / "prompts.jsonl").write_text("".join(prompt_lines[1:3]))
    with pytest.raises(ValueError, match="a finished run of other prompts is there: 16 with the digest"):
        visualprm(tmp_path, *predict())
    visualprm(tmp_path, *predict("--overwrite"))
    assert (tmp_path / "rows.jsonl").read_bytes().splitlines() == whole.splitlines()[2:6]


@pytest.mark.thorough  # of the callback: `test_a_prompt_that_is_gone_or_has_changed` of test_prediction_journal.py
def test_a_line_of_the_prompts_is_deleted(predict, prompt_lines, whole, tmp_path):
    """Rows have no ids here: a restart must not take the answers of one prompt for those of another."""
    visualprm(tmp_path, *predict("--trainer.limit_predict_batches=4"))
    assert answered(tmp_path) == 4
    (tmp_path / "prompts.jsonl").write_text("".join(prompt_lines[:1] + prompt_lines[2:]))
    with pytest.raises(
        ValueError, match=r"an unfinished run of other prompts is there: 1 answered ones are gone \(prompts-"
    ):
        visualprm(tmp_path, *predict())
    assert answered(tmp_path) == 4
    # One that nobody has answered may go.
    (tmp_path / "prompts.jsonl").write_text("".join(prompt_lines[:9] + prompt_lines[10:]))
    visualprm(tmp_path, *predict())
    rows = whole.splitlines()
    assert (tmp_path / "rows.jsonl").read_bytes().splitlines() == rows[:18] + rows[20:]


def test_prompts_that_cannot_be_used(predict, prompt_lines, whole, tmp_path, caplog):
    """A picture that is cut short, one that is not there, and a special token: left out, counted and named."""
    rows = [json.loads(line) for line in prompt_lines]
    picture = Path(next(name for row in rows for name in row["image"])).read_bytes()
    (tmp_path / "cut.png").write_bytes(picture[: len(picture) * 2 // 3])
    rows[2]["image"] = [str(tmp_path / "cut.png")]
    rows[4]["image"] = [str(tmp_path / "missing.png")]
    rows[6]["question"] += " <|end|>"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    visualprm(tmp_path, *predict())
    found = [f"{prompts}:{line}: field" for line in (5, 7, 3)]
    for place in found[:2]:
        assert f"left out: {place}" in caplog.text
    assert f"prompt rows: 1 left out so far by rank 0, the picture cannot be used: {found[2]} 'image'" in caplog.text
    assert f"rows.jsonl: 1 prompts are left out: {found[2]} 'image': '{tmp_path}/cut.png' cannot" in caplog.text
    kept = [line for number, line in enumerate(whole.splitlines()) if number // 2 not in (2, 4, 6)]
    assert (tmp_path / "rows.jsonl").read_bytes().splitlines() == kept
    with pytest.raises(ValueError, match=r"prompts\.jsonl:5: field 'image': .*missing\.png"):
        visualprm(tmp_path, *predict("--overwrite", "--data.on_bad_row=error"))


def test_the_same_training_twice_at_once(tiny_checkpoint, tiny_world, tmp_path):
    """The second one waits, and goes on from where the first one has come to, not from where it was when it started."""
    arguments = [
        "fit",
        "--model=Policy",
        f"--model.model_name_or_path={tiny_checkpoint}",
        "--data=PromptDataModule",
        f"--data.demonstrations={tiny_world}/demonstrations/annotations.jsonl",
        "--data.batch_size=4",
        "--trainer.max_steps=6",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.callbacks+=RunCheckpoints",
        f"--trainer.callbacks.folder={tmp_path}/checkpoints",
        "--trainer.callbacks.every_n_steps=1",
        "--trainer.callbacks+=cli_runs.BatchLog",
    ]
    first = Command(tmp_path, *arguments, f"--trainer.callbacks.path={tmp_path}/first.jsonl", *hold(tmp_path, 3))
    first.wait_for((tmp_path / "held-0").exists)
    assert (tmp_path / "checkpoints" / "latest").resolve().name == "step_00000003"
    longer = [f"--trainer.callbacks.path={tmp_path}/second.jsonl", "--trainer.max_steps=8"]
    second = Command(tmp_path, *arguments, *longer, patience=PATIENCE)
    second.wait_for(second.waits.exists)
    (tmp_path / "go").touch()
    assert first.wait() == 0, first.text
    assert second.wait() == 0, second.text
    steps = [[json.loads(line)[2] for line in (tmp_path / f"{name}.jsonl").open()] for name in ("first", "second")]
    assert steps == [[0, 1, 2, 3, 4, 5], [6, 7]]
    assert (tmp_path / "checkpoints" / "latest").resolve().name == "step_00000008"
