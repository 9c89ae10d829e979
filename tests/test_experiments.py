"""Every YAML under experiments/ runs with the command of its first line, and says what that reproduces and takes."""

import itertools
import re
import shlex
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
from cli_runs import FEWER_CANDIDATES, REPOSITORY, parsed, visualprm
from literal_server import literal_server
from local_servers import counting, serving

from lightning_modules.objectives.step_loss import LossOptions

LARGE = ("visualprm_8b", "strategies")
EXPERIMENTS = sorted((REPOSITORY / "experiments").rglob("*.yaml"))
TRAINED = "experiments/quickstart/process_reward_model.yaml"
TESTED = "experiments/quickstart/process_reward_model_test.yaml"
FULL = "experiments/visualprm_8b/full.yaml"
ABLATIONS = {
    "advantage": {"objective": "advantage"},
    "binomial": {"objective": "soft", "loss.binomial_weight": True},
    "class_weights": {"loss.class_weights": [1.0, 9.0]},
    "early_stop": {"loss.early_stop": True},
    "focal": {"loss.focal_gamma": 2.0},
    "high_threshold": {"threshold": 0.5},
    "outcome": {"objective": "outcome"},
    "regression": {"objective": "regression"},
    "sample_averaging": {"loss.averaging": "sample"},
    "soft": {"objective": "soft"},
}
"""What each changes in the arguments of the base experiment's model."""
RUN_FOR_REAL = {"base", "outcome_reward_model", "outcome_reward_model_test", "annotation"}
"""Stages of the quickstart, which `quickstart_run` runs, whose trial run is like that of another stage."""

LIKE_OTHERS = {"best_first", "lookahead", "judge", "qlora", "qlora_80gb", "single_device", "ddp"}
"""Searches, critics, quantized trainings and strategies that differ from others in a few settings; all have tests of
their own."""


PARTS_OF_OTHER_RUNS = {
    "experiments/quickstart/policy.yaml",  # `quickstart_run`
    "experiments/visualprm_8b/full.yaml",  # what all others of its folder are laid over
    "experiments/strategies/fsdp2.yaml",  # tests/distributed
}
"""Files that a test runs in any case."""


def name_of(path):
    return str(path.relative_to(REPOSITORY))


def head_of(path):
    """The comment that a YAML begins with, line by line."""
    comment = re.match(r"(?:#.*\n)+", path.read_text())
    assert comment, f"{path}: begin with a comment: the command, what it does, what it reproduces, how long it takes"
    return [line.removeprefix("#").strip() for line in comment[0].splitlines()]


def command_of(path):
    """Arguments of the `visualprm` command in the first line of a YAML."""
    line = head_of(path)[0]
    assert line.startswith("visualprm "), f"{path}: the first line must be the command that runs it, got {line!r}"
    return shlex.split(line)[1:]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_the_head_of_an_experiment(path):
    """That its command parses and runs is checked by :func:`test_fast_dev_run`."""
    arguments, sentences = command_of(path), head_of(path)[1:]
    named = [value for option, value in itertools.pairwise(arguments) if option == "--config"]
    assert named[-1] == name_of(path)
    assert all((REPOSITORY / name).is_file() for name in named)
    starts = [number for number, line in enumerate(sentences) if re.match(r"(Reproduces|Takes)\b", line)]
    kinds = [sentences[number].split()[0].rstrip(":") for number in starts]
    assert kinds == ["Reproduces", "Takes"], f"{path}: say what it does, then 'Reproduces ...', then 'Takes ...'"
    assert starts[0] > 0, f"{path}: say what it does first"
    takes = " ".join(sentences[starts[1] :])
    # A duration without machine and date says nothing.
    assert "not measured" in takes or re.search(r"\d+ s \(.+, \d{4}-\d\d-\d\d\)", takes), takes


# --------------------------------------------------------- values that refer to others


@cache
def with_seed_3(path):
    """What an experiment is configured to do when its command has another seed."""
    return parsed(Path("run"), *command_of(path), "--seed_everything=3")


def seeds(node):
    """All values of keys called `seed` in a part of a configuration."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key == "seed" else seeds(value)
    elif isinstance(node, list):
        for value in node:
            yield from seeds(value)


def is_seeded(path):
    """Tests of reward models draw nothing but resamples."""
    return path.parent.name not in ("strategies", "paper") or path.stem == "rollouts"


def assert_the_seed_is_3_everywhere(config, path):
    assert config["seed_everything"] == 3
    assert config["data"]["init_args"]["seed"] == 3
    if path.stem in ("rollouts", "annotation"):
        assert config["model"]["init_args"]["sampling"]["seed"] == 3
    assert set(seeds([config["model"], config["data"]])) == {3}


def is_tried(path):
    """Whether `make test` runs an experiment for a batch; tests/test_ablations.py runs ablations by the same commands.

    What is beyond the paper is a callback or an option of a training that is run, with tests of its own.
    """
    is_run_elsewhere = path.parent.name in ("ablations", "beyond") or path.stem in RUN_FOR_REAL | LIKE_OTHERS
    is_run_elsewhere |= path.parent.name == "paper" and path.stem != "table8"
    return not is_run_elsewhere and name_of(path) not in PARTS_OF_OTHER_RUNS


@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if is_seeded(path) and not is_tried(path)], ids=name_of)
def test_the_seed_of_the_command_reaches_everything(path):
    """Of the others it is checked where they run."""
    assert_the_seed_is_3_everywhere(with_seed_3(path), path)


def places(config):
    """What the callbacks of a run write, and how its logger calls it."""
    found = {
        callback["class_path"].rpartition(".")[2]: Path(callback["init_args"][key])
        for callback in config["trainer"]["callbacks"]
        for key in ("folder", "output", "output_dir")
        if callback.get("init_args", {}).get(key)
    }
    logger = config["trainer"]["logger"]
    if logger and logger["init_args"]["version"]:
        found["logger"] = Path(logger["init_args"]["version"])
    return found


def model_options(config):
    """Arguments of the model, those of its loss with defaults filled in, by key."""
    arguments = dict(config["model"]["init_args"])
    loss = asdict(LossOptions(**(arguments.pop("loss") or {})))
    return arguments | {f"loss.{name}": value for name, value in loss.items()}


def test_every_ablation_is_known():
    assert {path.stem for path in EXPERIMENTS if path.parent.name == "ablations"} == set(ABLATIONS)


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_an_ablation_changes_what_it_is_about(name):
    base, config = (with_seed_3(REPOSITORY / path) for path in (TRAINED, f"experiments/ablations/{name}.yaml"))
    before, after = model_options(base), model_options(config)
    assert {key: value for key, value in after.items() if before[key] != value} == ABLATIONS[name]
    assert config["data"] == base["data"]
    folder = Path("run", f"ablation_{name}")
    assert places(config) == {"SavePretrained": folder, "logger": Path(folder.name)}
    # All else of the trainer is the base's: the same text, but for the name of the run.
    assert str(config["trainer"]).replace(folder.name, "process_reward_model") == str(base["trainer"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"fit --config {TRAINED}", {"SavePretrained": "process_reward_model", "logger": "process_reward_model"}),
        (f"fit --config {TRAINED} --run_name=x", {"SavePretrained": "x", "logger": "x"}),
        (
            f"test --config {TRAINED} --config experiments/ablations/soft.yaml --config {TESTED}",
            {"model": "ablation_soft", "ProcessBench": "ablation_soft_test", "BestOfN": "ablation_soft_test"},
        ),
        ("predict --config experiments/quickstart/rollouts.yaml --run_name=x", {"PredictionWriter": "x.jsonl"}),
        (f"fit --config {FULL}", {"RunCheckpoints": "checkpoints", "SavePretrained": "model"}),
        (
            f"fit --config {FULL} --config experiments/visualprm_8b/lora.yaml",
            {"RunCheckpoints": "lora/checkpoints", "SavePretrained": "lora/model"},
        ),
        (
            f"fit --config {FULL} --trainer.logger.init_args.version=x",
            {"RunCheckpoints": "x/checkpoints", "SavePretrained": "x/model", "logger": "x"},
        ),
    ],
)
def test_a_run_writes_to_folders_of_its_name(words, expected):
    config = parsed(Path("run"), *words.split())
    found = places(config)
    if "model" in expected:
        found["model"] = Path(config["model"]["init_args"]["model_name_or_path"])
    assert found == {name: Path(place) if name == "logger" else Path("run", place) for name, place in expected.items()}


# ---------------------------------------------------------------------- compositions


OVERLAYS, STRATEGIES = (sorted((REPOSITORY / "experiments" / name).glob("*.yaml")) for name in LARGE)


@cache
def composed(*files):
    """What `visualprm fit` with these files is configured to do."""
    return parsed(Path("run"), "fit", *(f"--config={path}" for path in dict.fromkeys(files)))


def compositions():
    """All; `make test` takes the full fine-tuning under every strategy, and every overlay under FSDP2."""
    for overlay, strategy in itertools.product(OVERLAYS, STRATEGIES):
        is_usual = overlay == REPOSITORY / FULL or strategy.stem == "fsdp2"
        marks = [] if is_usual else [pytest.mark.thorough]
        yield pytest.param(overlay, strategy, marks=marks, id=f"{overlay.stem}-{strategy.stem}")


@pytest.mark.parametrize(("overlay", "strategy"), compositions())
def test_large_experiments_compose_with_every_strategy(overlay, strategy):
    """An overlay decides where weights are, and nothing of the training itself."""
    alone, config = composed(REPOSITORY / FULL, overlay), composed(REPOSITORY / FULL, overlay, strategy)
    assert config["model"] == alone["model"]
    assert config["data"] == alone["data"]
    changed = {name for name, value in config["trainer"].items() if value != alone["trainer"][name]}
    assert changed <= {"strategy", "devices", "num_nodes", "inference_mode"}
    assert changed & {"strategy", "devices"}


# --------------------------------------------------------------- tables of the paper


SEVEN = ["MMMU", "MathVista", "MathVision", "MathVerse-VO", "DynaMath", "WeMath", "LogicVista"]
POWERS: list[int] = []  # none given: the powers of two up to the candidates
TABLES = {
    "critic": (None, POWERS, True),
    "table2": (SEVEN, [1, 8], False),
    "table3": (None, None, True),
    "table4": (SEVEN, POWERS, True),
    "table5": (["GSM8K", "MATH-500", "GPQA-Diamond"], [1, 8], False),
    "table6": (SEVEN, [1, 2, 4, 8, 16, 32, 64, 128], False),
    "table8": (SEVEN, [1, 8], True),
}
"""Benchmarks, numbers of candidates, and whether VisualProcessBench is judged."""


def test_every_table_of_the_paper_has_a_file():
    names = {path.stem for path in EXPERIMENTS if path.parent.name == "paper"}
    assert names == {*TABLES, "rollouts"}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_of_the_paper(name, tmp_path, monkeypatch):
    evaluated_in_miniature(tmp_path, monkeypatch)
    benchmarks, ns, has_steps = TABLES[name]
    config = parsed(Path("run"), *command_of(REPOSITORY / f"experiments/paper/{name}.yaml"))
    data = config["data"]["init_args"]
    callbacks = {each["class_path"].rpartition(".")[2]: each["init_args"] for each in config["trainer"]["callbacks"]}
    assert config["model"]["init_args"]["model_name_or_path"] == str(tmp_path / "process_reward_model")
    assert (data["benchmark_names"], bool(data["visual_process_bench"])) == (benchmarks, has_steps)
    assert bool(data["benchmarks"]) == bool(data["rollouts"]) == (ns is not None)
    assert ("ProcessBench" in callbacks) == has_steps
    assert callbacks.get("BestOfN", {}).get("ns") == (ns or None)
    assert data["candidates_per_question"] == max(ns or [8])
    assert {Path(each["output_dir"]) for each in callbacks.values()} == {Path("run", f"{name}_test")}


def test_the_main_run_is_evaluated_where_it_has_something_to_evaluate_on(tmp_path, monkeypatch):
    evaluated_in_miniature(tmp_path, monkeypatch)
    given = parsed(Path("run"), "fit", f"--config={FULL}")["data"]["init_args"]
    assert given["benchmarks"] == str(tmp_path / "world/benchmarks")
    assert given["rollouts"] == str(tmp_path / "rollouts.jsonl")
    assert given["visual_process_bench"] == str(tmp_path / "visual_process_bench")
    for name in ("BENCHMARKS", "ROLLOUTS", "PROCESS_BENCH"):
        monkeypatch.delenv(f"VISUALPRM_{name}")
    without = parsed(Path("run"), "fit", f"--config={FULL}")["data"]["init_args"]
    assert [without[name] for name in ("benchmarks", "rollouts", "visual_process_bench")] == [None] * 3


def test_rollouts_of_the_paper(monkeypatch):
    command = command_of(REPOSITORY / "experiments/paper/rollouts.yaml")
    model = parsed(Path("run"), *command)["model"]["init_args"]
    assert (model["num_samples"], model["sampling"]["temperature"]) == (8, 0.7)
    monkeypatch.setenv("VISUALPRM_SAMPLES", "128")
    monkeypatch.setenv("VISUALPRM_TEMPERATURE", "1.3")
    served = parsed(Path("run"), *command, "--config=experiments/servers/policy.yaml")["model"]["init_args"]
    assert (served["num_samples"], served["sampling"]["temperature"]) == (128, 1.3)
    assert served["engine"]["class_path"].endswith("ServerEngine")


# ------------------------------------------------------------------------------ runs


def files_of(folder):
    """What is there and when it was written; not the cache of tables, which is known by content."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "cache" not in path.relative_to(folder).parts]
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in paths}


@pytest.fixture
def counting_server():
    """Answers as a policy behind a server would, which has another tokenizer."""
    with serving(counting) as (server,):
        yield server


@pytest.fixture
def judging_server(quickstart_run):
    """Holds the reward model of the quickstart."""
    with literal_server(quickstart_run / "process_reward_model") as server:
        yield server


def evaluated_in_miniature(run, monkeypatch):
    """The variables of experiments/paper, with the quickstart's models and data."""
    values = {
        "MODEL": "process_reward_model",
        "POLICY": "policy",
        "BENCHMARKS": "world/benchmarks",
        "ROLLOUTS": "rollouts.jsonl",
        "PROCESS_BENCH": "visual_process_bench",
    }
    for name, place in values.items():
        monkeypatch.setenv(f"VISUALPRM_{name}", str(run / place))
    monkeypatch.setenv("VISUALPRM_WORKERS", "0")


ROLLOUTS_ARE_FEWER = {
    "table6": ["--data.candidates_per_question=8"],
    "rollouts": ["--model.sampling.max_new_tokens=4", "--data.batch_size=1"],
}
"""What else the quickstart's rollouts and a trial run need."""


@pytest.fixture
def on_this_machine(path, quickstart_run, tiny_checkpoint, monkeypatch, request):
    """Overrides with which an experiment made for large machines runs here: a tiny checkpoint, a few rows, the CPU."""
    if path.parent.name == "search":
        return ["--data.batch_size=1", "--model.sampling.max_new_tokens=24"]
    if path.parent.name == "critics":
        return ["--data.batch_size=1", *(["--model.sampling.max_new_tokens=4"] if path.stem != "likelihood" else [])]
    if path.parent.name == "servers" and command_of(path)[0] == "test":
        monkeypatch.setenv("VISUALPRM_SERVERS", request.getfixturevalue("judging_server").url)
        return [FEWER_CANDIDATES, "--data.eval_batch_size=2", "--data.questions_per_batch=1"]
    if path.parent.name == "quickstart" and command_of(path)[0] == "test":
        return [FEWER_CANDIDATES]
    if path.parent.name == "servers":
        monkeypatch.setenv("VISUALPRM_SERVERS", request.getfixturevalue("counting_server").url)
    if path.parent.name == "paper":
        evaluated_in_miniature(quickstart_run, monkeypatch)
        return ["--trainer.accelerator=cpu", *ROLLOUTS_ARE_FEWER.get(path.stem, [])]
    if path.parent.name in ("released", "servers") and command_of(path)[0] == "predict":
        monkeypatch.setenv("VISUALPRM_POLICY", str(quickstart_run / "policy"))
        monkeypatch.setenv("VISUALPRM_BENCHMARKS", str(quickstart_run / "world/benchmarks"))
        monkeypatch.setenv("VISUALPRM_PROMPTS", str(quickstart_run / "world/prompts/annotations.jsonl"))
        monkeypatch.setenv("VISUALPRM_IMAGES", str(quickstart_run / "world/prompts"))
        options = ["--trainer.accelerator=cpu", "--model.sampling.max_new_tokens=4", "--data.batch_size=1"]
        return [*options, *(["--model.engine.init_args.check_prompts=warn"] if path.parent.name == "servers" else [])]
    if path.parent.name not in (*LARGE, "released", "servers"):
        return []
    monkeypatch.setenv("VISUALPRM_SYSTEM_PROMPT", "Judge each step.")  # raw rows have none
    monkeypatch.setenv("VISUALPRM_BASE", str(tiny_checkpoint))
    monkeypatch.setenv("VISUALPRM_DATA", str(quickstart_run / "world/prompts/process_supervision.jsonl"))
    monkeypatch.setenv("VISUALPRM_WORKERS", "0")
    monkeypatch.setenv("VISUALPRM_OFFLOAD_BACKEND", "gloo")  # NCCL begins on GPUs only
    return ["--trainer.accelerator=cpu", "--trainer.devices=1", "--data.validation_fraction=0.2"]


def trial_run(path):
    """A case of the test below."""
    return pytest.param(path, marks=[] if is_tried(path) else [pytest.mark.thorough], id=name_of(path))


@pytest.mark.parametrize("path", map(trial_run, [path for path in EXPERIMENTS if path.stem != "table5"]))
def test_fast_dev_run(path, quickstart_run, on_this_machine):
    arguments = command_of(path)
    before = files_of(quickstart_run)
    seed = ["--seed_everything=3"] if is_seeded(path) else []
    cli = visualprm(quickstart_run, *arguments, *seed, "--trainer.fast_dev_run=true", *on_this_machine)
    if seed:
        assert_the_seed_is_3_everywhere(cli.config[arguments[0]].as_dict(), path)
    assert cli.trainer.state.finished
    assert cli.trainer.fast_dev_run
    # A trial run leaves no result behind that the real run would take for its own.
    assert files_of(quickstart_run) == before
