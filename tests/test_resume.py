"""A run of the experiments that is killed by kill -9 and started again ends as if nothing had happened.

Fits go on from files of Lightning's `ModelCheckpoint` here, in one process. Folders of `RunCheckpoints`, kills while
one is written, and other numbers of processes are what tests/distributed/test_resume_scenarios.py is about.
"""

import json
import random
import shutil
import time

import pytest
import torch
from cli_runs import CONTINUATIONS, SOLUTIONS, visualprm, visualprm_killed_after, visualprm_until_killed
from safetensors.torch import load_file

CONFIGS = "experiments/quickstart"


def options_of(name, run, *, benchmarks=True):
    """Options that make a fit small: eight steps, of five batches an epoch (policy) or four (reward model)."""
    if name == "policy":
        demonstrations = run / "world" / "demonstrations" / "annotations.jsonl"
        return ["--trainer.max_steps=8", "--data.batch_size=12", f"--data.validation_demonstrations={demonstrations}"]
    options = ["--trainer.max_steps=8", "--trainer.max_epochs=2", "--data.packed_tokens=null", "--data.batch_size=8"]
    return [*options, *(FEW_BENCHMARKS if benchmarks else NO_BENCHMARKS)]


FEW_BENCHMARKS = ["--data.benchmark_names=[MathVision,LogicVista]"]
NO_BENCHMARKS = ["--data.benchmarks=null", "--data.rollouts=null", "--data.visual_process_bench=null"]


def fit_arguments(name, folder, *options, keep=0):
    """`visualprm fit` of an experiment that leaves its results, checkpoints and a log of its batches in ``folder``."""
    return [
        "fit",
        f"--config={CONFIGS}/{name}.yaml",
        "--trainer.logger=CSVLogger",
        f"--trainer.logger.init_args.save_dir={folder}",
        "--trainer.logger.init_args.name=logs",
        "--trainer.logger.init_args.version=all",
        f"--trainer.callbacks.folder={folder}/model",
        "--trainer.enable_checkpointing=true",
        "--trainer.callbacks+=ModelCheckpoint",
        f"--trainer.callbacks.dirpath={folder}/checkpoints",
        "--trainer.callbacks.filename={step}",
        "--trainer.callbacks.every_n_train_steps=1",
        f"--trainer.callbacks.save_top_k={keep}",
        "--trainer.callbacks.save_last=true",
        "--trainer.callbacks+=cli_runs.BatchLog",
        f"--trainer.callbacks.path={folder}/batches.jsonl",
        *options,
    ]


def batches(folder):
    return [json.loads(line) for line in (folder / "batches.jsonl").read_text().splitlines()]


def assert_equal_state(one, other, path="checkpoint"):
    """Bit for bit, whatever is nested in whatever."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal_state(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal_state(a, b, f"{path}/{index}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, path
        assert torch.equal(one, other), path
    else:
        assert one == other, path


def assert_equal_results(folder, other):
    """The same exported weights, and the same weights, optimizer and schedule in the last checkpoint."""
    one, two = (load_file(f / "model" / "model.safetensors") for f in (folder, other))
    assert_equal_state(one, two)
    one, two = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (folder, other))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_equal_state(one[part], two[part], part)


@pytest.fixture(scope="module")
def whole_run(quickstart_run, tmp_path_factory):
    """Makes a run that nobody interrupts and that keeps its checkpoint of every step; gives its folder."""
    made = {}

    def make(name, *options):
        if (name, options) not in made:
            folder = made[name, options] = tmp_path_factory.mktemp(f"whole_{name}")
            visualprm(quickstart_run, *fit_arguments(name, folder, *options, keep=-1))
        return made[name, options]

    return make


@pytest.mark.parametrize(
    ("name", "batches_done"),
    # tests/distributed/test_resume_scenarios.py kills a run inside of an epoch in `make test`, too.
    [pytest.param(*case, marks=pytest.mark.thorough) for case in (("policy", 7), ("process_reward_model", 5))],
)
def test_kill_in_the_middle_of_an_epoch(name, batches_done, quickstart_run, whole_run, tmp_path):
    options = options_of(name, quickstart_run)
    whole = whole_run(name, *options)
    arguments = fit_arguments(name, tmp_path, *options)
    visualprm_until_killed(
        quickstart_run,
        *arguments,
        "--trainer.callbacks+=cli_runs.Kill",
        "--trainer.callbacks.hook=on_after_backward",
        f"--trainer.callbacks.times={batches_done}",
    )
    assert batches(tmp_path) == batches(whole)[:batches_done]
    assert not (tmp_path / "model").exists()

    visualprm(quickstart_run, *arguments, f"--ckpt_path={tmp_path}/checkpoints/last.ckpt")
    # No batch is lost or seen twice, and every loss is the same to the last bit.
    assert batches(tmp_path) == batches(whole)
    assert len(batches(whole)) == 8
    assert_equal_results(tmp_path, whole)
    reports = sorted(path.name for path in (whole / "logs" / "all").glob("*.json"))
    kinds = ("best_of_n", "process_bench") if name == "process_reward_model" else ()
    assert reports == [f"{kind}_epoch{epoch}.json" for kind in kinds for epoch in (0, 1)]
    for report in reports:
        both = [json.loads((folder / "logs" / "all" / report).read_text()) for folder in (tmp_path, whole)]
        assert both[0] == both[1]


# Inside of an epoch of five batches, and at the end of one of four; the kill above is inside of the next one.
USUAL_PLACES = {("policy", 2), ("process_reward_model", 4)}
PLACES = [
    pytest.param(name, step, marks=[] if (name, step) in USUAL_PLACES else [pytest.mark.thorough])
    for name in ("policy", "process_reward_model")
    for step in range(1, 8)
]


@pytest.mark.parametrize(("name", "step"), PLACES)
def test_every_checkpoint_is_a_place_to_resume_from(name, step, quickstart_run, whole_run, tmp_path):
    """Without benchmarks, whose evaluation leaves no trace in what is trained."""
    whole = whole_run(name, *options_of(name, quickstart_run))
    options = options_of(name, quickstart_run, benchmarks=False)
    checkpoint = whole / "checkpoints" / f"step={step}.ckpt"
    visualprm(quickstart_run, *fit_arguments(name, tmp_path, *options), f"--ckpt_path={checkpoint}")
    assert batches(tmp_path) == batches(whole)[step:]
    assert_equal_results(tmp_path, whole)


@pytest.mark.thorough  # test_resume_scenarios.py accumulates gradients, too, and test_visual_prm_400k.py has workers
@pytest.mark.parametrize("name", ["policy", "process_reward_model"])
def test_resuming_with_accumulated_gradients_and_workers(name, quickstart_run, whole_run, tmp_path):
    options = [
        *options_of(name, quickstart_run, benchmarks=False),
        "--trainer.accumulate_grad_batches=2",
        "--trainer.max_steps=5",
    ]
    whole = whole_run(name, *options)
    checkpoint = whole / "checkpoints" / "step=1.ckpt"
    arguments = fit_arguments(name, tmp_path, *options, "--data.num_workers=1")
    visualprm(quickstart_run, *arguments, f"--ckpt_path={checkpoint}")
    assert batches(tmp_path) == batches(whole)[2:]
    assert_equal_results(tmp_path, whole)


def test_the_middle_of_an_epoch_of_packed_batches(quickstart_run, whole_run, tmp_path):
    """Batches of at most 600 tokens, so of other numbers of conversations than the padded ones."""
    options = [*options_of("process_reward_model", quickstart_run, benchmarks=False), "--data.packed_tokens=600"]
    whole = whole_run("process_reward_model", *options)
    arguments = fit_arguments("process_reward_model", tmp_path, *options)
    visualprm(quickstart_run, *arguments, f"--ckpt_path={whole}/checkpoints/step=3.ckpt")
    assert batches(tmp_path) == batches(whole)[3:]
    assert 8 not in {len(names) for *_, names, _ in batches(whole)}  # the size of padded batches
    assert_equal_results(tmp_path, whole)


def test_the_command_line_holds_also_with_a_checkpoint(quickstart_run, whole_run, tmp_path):
    """A checkpoint remembers how its model was made; what is asked for now must not lose against that."""
    options = options_of("process_reward_model", quickstart_run)
    checkpoint = whole_run("process_reward_model", *options) / "checkpoints" / "last.ckpt"
    moved = tmp_path / "base"
    shutil.copytree(quickstart_run / "base", moved)
    cli = visualprm(
        quickstart_run,
        "validate",
        f"--config={CONFIGS}/process_reward_model.yaml",
        *NO_BENCHMARKS,
        "--trainer.logger=false",
        "--trainer.callbacks=null",
        f"--trainer.default_root_dir={tmp_path}",
        f"--ckpt_path={checkpoint}",
        "--model.aggregation=min",
        "--model.max_steps=3",
        f"--model.model_name_or_path={moved}",
    )
    assert cli.model.protocol.aggregation == "min"
    assert cli.model.protocol.max_steps == 3
    assert cli.model.hparams["model_name_or_path"] == str(moved)
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(cli.model.head.weight, stored["head.weight"])


# ------------------------------------------------------------- prediction


def predict_arguments(output, *options):
    """Annotation of the 16 prompts in four batches, as `quickstart_run` has done it."""
    return [
        "predict",
        f"--config={CONFIGS}/annotation.yaml",
        f"--model.num_solutions={SOLUTIONS}",
        f"--model.num_continuations={CONTINUATIONS}",
        "--model.sampling.max_new_tokens=64",
        "--data.batch_size=4",
        f"--trainer.default_root_dir={output.parent}",
        f"--trainer.callbacks.output={output}",
        *options,
    ]


@pytest.fixture(scope="module")
def whole_annotation(quickstart_run):
    return (quickstart_run / "world" / "prompts" / "process_supervision.jsonl").read_text()


@pytest.fixture(scope="module")
def killed_annotation(quickstart_run, tmp_path_factory):
    """Folder of an annotation that was killed when its third batch began."""
    output = tmp_path_factory.mktemp("killed_annotation") / "rows.jsonl"
    killer = [
        "--trainer.callbacks+=cli_runs.Kill",
        "--trainer.callbacks.hook=on_predict_batch_start",
        "--trainer.callbacks.times=2",
    ]
    visualprm_until_killed(quickstart_run, *predict_arguments(output), *killer)
    return output.parent


def prompts_of(text):
    """Prompts of the rows, in order, a prompt as often as it has rows."""
    return [json.loads(line)["id"].rpartition("/")[0] for line in text.splitlines()]


@pytest.mark.parametrize(
    "torn",
    [pytest.param(False, marks=pytest.mark.thorough, id="between_batches"), pytest.param(True, id="inside_of_a_line")],
)
def test_killed_annotation(torn, quickstart_run, whole_annotation, killed_annotation, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(killed_annotation, folder)
    (journal,) = folder.glob("*.jsonl.journal-*")
    assert not (folder / "rows.jsonl").exists()
    finished = 8
    if torn:  # the kill hit while the line of the last prompt was written
        text = journal.read_bytes()
        journal.write_bytes(text[: text.rindex(b"\n", 0, -1) + 40])
        finished = 7
    cli = visualprm(quickstart_run, *predict_arguments(folder / "rows.jsonl"))
    expected = [f"prompts-{number:05d}" for number in range(16)]
    assert cli.datamodule.completed_ids == set(expected[:finished])
    text = (folder / "rows.jsonl").read_text()
    assert prompts_of(text) == [name for name in expected for _ in range(SOLUTIONS)]
    assert text == whole_annotation
    assert not list(folder.glob("*.journal-*"))


def test_killed_between_the_last_prediction_and_the_result(quickstart_run, whole_annotation, tmp_path):
    """No prompt is left to predict, but the result still has to be written."""
    output = tmp_path / "rows.jsonl"
    killer = ["--trainer.callbacks+=cli_runs.Kill", "--trainer.callbacks.hook=on_predict_epoch_end"]
    visualprm_until_killed(quickstart_run, *predict_arguments(output), *killer)
    assert not output.exists()
    cli = visualprm(quickstart_run, *predict_arguments(output))
    assert len(cli.datamodule.completed_ids) == 16
    assert output.read_text() == whole_annotation
    assert not list(tmp_path.glob("*.journal-*"))


@pytest.mark.thorough
@pytest.mark.parametrize("stopping", ["all", "first_success"])
def test_annotation_killed_at_random_twenty_times(stopping, quickstart_run, whole_annotation, tmp_path):
    """Wherever the kills hit, the rows are those of a run that was not disturbed, in the same order, none twice."""
    options = [f"--model.stopping={stopping}"]
    undisturbed = tmp_path / "undisturbed" / "rows.jsonl"
    begin = time.monotonic()
    visualprm(quickstart_run, *predict_arguments(undisturbed, *options))
    whole = time.monotonic() - begin
    if stopping == "all":
        assert undisturbed.read_text() == whole_annotation
    output = tmp_path / "killed" / "rows.jsonl"
    moments = random.Random(stopping)
    kills = 0
    while kills < 20:
        if not visualprm_killed_after(
            quickstart_run, moments.uniform(0, 1.5 * whole), *predict_arguments(output, *options)
        ):
            # It came to its end: begin with another one, so that kills hit all moments of a run.
            assert output.read_text() == undisturbed.read_text()
            shutil.rmtree(output.parent)
        else:
            kills += 1
    visualprm(quickstart_run, *predict_arguments(output, *options))
    assert output.read_text() == undisturbed.read_text()
    assert not list(output.parent.glob("*.journal-*"))
    assert (output.parent / "rows.jsonl.card.md").read_text().startswith("# rows\n")
