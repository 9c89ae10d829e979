"""Mistakes of users through the real commands: a status, a few lines, where it stands, and no traceback."""

import errno
import json
import logging
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass, field

import fork_server
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from datamodules.storage.files import parse_json_line
from lightning_modules.cli import main
from lightning_modules.configuration.mistakes import is_mistake, mistakes_reported, report
from lightning_modules.process_reward import ProcessRewardModel


@dataclass(frozen=True)
class Mistake:
    """What a user gets wrong and what must be said.

    Attributes:
        says: Pattern of the first line.
        options: Of the command line, besides the configuration file.
        change: Keys of the configuration file, with dots, and the values that they get; None removes one.
        place: End of the line that says where it stands.
        status: Of the process.
        command: Subcommand.
    """

    says: str
    options: tuple[str, ...] = ()
    change: dict = field(default_factory=dict)
    place: str | None = None
    status: int = 1
    command: str = "fit"


M, D, T = "model.init_args.", "data.init_args.", "trainer."
AT_LINE = r"at {folder}/run\.yaml:\d+: "

MISTAKES = {
    # Keys and values, which the parser refuses.
    "key of the model": Mistake(
        "`objektive` is not a setting of ProcessRewardModel; did you mean `objective`",
        change={M + "objektive": "value"},
        place=AT_LINE + r"model\.init_args\.objektive: value",
        status=2,
    ),
    "key of the trainer": Mistake(
        "`acelerator` is not a setting of trainer; did you mean `accelerator`",
        change={T + "acelerator": "cpu"},
        place=AT_LINE + r"trainer\.acelerator: cpu",
        status=2,
    ),
    "key of LoRA": Mistake(
        "`target_modules` is not a setting of LoraOptions; did you mean `targets`",
        change={M + "backbone": {"lora": {"target_modules": ["q_proj"]}}},
        place=AT_LINE + r"model\.init_args\.backbone\.lora\.target_modules.*",
        status=2,
    ),
    "key in a list": Mistake(
        "`foldr` is not a setting of SavePretrained; did you mean `folder`",
        change={T + "callbacks": [{"class_path": "SavePretrained", "init_args": {"foldr": "x"}}]},
        place=AT_LINE + r"trainer\.callbacks\[0\]\.init_args\.foldr: x",
        status=2,
    ),
    "abbreviation": Mistake(
        r"there is no option --trainer\.max_epoch; did you mean `--trainer\.max_epochs`",
        ("--trainer.max_epoch", "3"),
        place=r"at command line: --trainer\.max_epoch=3",
        status=2,
    ),
    "word without an option": Mistake("'3' belongs to no option", ("3",), status=2),
    "option without a value": Mistake("-c/--config: expected one argument", ("--config",), status=2),
    "choice": Mistake(
        r"model\.objective: must be one of 'value', .* or null, got 'valu'; did you mean `value`",
        change={M + "objective": "valu"},
        place=AT_LINE + r"model\.init_args\.objective: valu",
        status=2,
    ),
    "choice of numbers and words": Mistake(
        r"trainer\.precision: must be one of 64, 32, 16, 'transformer-engine', .* or null, got 'bf-16'; did you",
        ("--trainer.precision=bf-16",),
        place=r"at command line: --trainer\.precision=bf-16",
        status=2,
    ),
    "text for a number": Mistake(
        r"trainer\.max_steps: must be int, got 'two'",
        ("--trainer.max_steps", "two"),
        place=r"at command line: --trainer\.max_steps=two",
        status=2,
    ),
    "text for a number of the model": Mistake(
        r"model\.learning_rate: must be float, got 'fast'",
        change={M + "learning_rate": "fast"},
        place=AT_LINE + r"model\.init_args\.learning_rate: fast",
        status=2,
    ),
    "class": Mistake(
        "model: there is no class 'ProcessReward'; did you mean `ProcessRewardModel`",
        change={"model.class_path": "ProcessReward"},
        place=AT_LINE + r"model\.class_path: ProcessReward",
        status=2,
    ),
    "needed argument": Mistake(
        r"ProcessRewardModel needs `model_name_or_path`; give --model\.model_name_or_path",
        change={M + "model_name_or_path": None},
        status=2,
    ),
    "no model": Mistake("needed, but not given: `model`", change={"model": None}, status=2),
    "environment variable": Mistake(
        "the environment variable NOT_SET is not set",
        change={M + "model_name_or_path": "${oc.env:NOT_SET}/model"},
        place=AT_LINE + r"model\.init_args\.model_name_or_path: .*",
        status=2,
    ),
    "reference": Mistake(
        "'nowhere' not found",
        change={D + "cache_dir": "${nowhere}"},
        place=AT_LINE + r"data\.init_args\.cache_dir: .*",
        status=2,
    ),
    "configuration that is not there": Mistake(
        "missing.yaml: file does not exist", ("--config=missing.yaml",), status=2
    ),
    "folder as configuration": Mistake("{folder}: path is not a file", ("--config={folder}",), status=2),
    "no YAML": Mistake(r"{folder}/broken\.yaml:3: .*not valid YAML", ("--config={folder}/broken.yaml",), status=2),
    # What constructors refuse.
    "number that nothing counts to": Mistake(
        r"trainer\.num_nodes must be a number of at most 64 bits, got 9{30}$",
        (f"--trainer.num_nodes={'9' * 30}",),
        place=rf"at command line: --trainer\.num_nodes={'9' * 30}",
    ),
    "seed": Mistake("seed must be at least 0, got -1", ("--data.seed=-1",), place=r"at command line: --data\.seed=-1"),
    "workers": Mistake("num_workers must be at least 0, got -1", ("--data.num_workers=-1",)),
    "no names": Mistake("benchmark_names must name at least one", ("--data.benchmark_names=[]",)),
    "processes without end": Mistake("num_workers must be at most 1024, got 9999", ("--data.num_workers=9999",)),
    "no samples": Mistake(
        "num_samples must be at least 1, got 0",
        ("--model=Policy", "--model.model_name_or_path={model}", "--model.num_samples=0"),
        change={"model": None},
        command="predict",
    ),
    "class of this project without its path": Mistake(
        r"there is no class 'ServerEngine'; did you mean `lightning_modules\.generation\.server_engine\.ServerEngine`",
        ("--model=Policy", "--model.model_name_or_path={model}", "--model.engine=ServerEngine"),
        change={"model": None},
        status=2,
        command="predict",
    ),
    "prompts of a batch": Mistake(
        "batch_size must be at least 1, got 0",
        ("--data=PromptDataModule", "--data.prompts={folder}/prompts.jsonl", "--data.batch_size=0"),
        change={"data": None},
        command="predict",
    ),
    "empty variable as a folder": Mistake(
        r"folder must be a path, got ''", ("--trainer.callbacks+=RunCheckpoints", "--trainer.callbacks.folder=")
    ),
    "empty variable as data": Mistake(
        r"data\.init_args\.train_annotations must be a path, got ''", ("--data.train_annotations=['']",)
    ),
    "callback given twice": Mistake(
        "Found more than one stateful callback of type `RunCheckpoints`",
        ("--trainer.callbacks+=RunCheckpoints", "--trainer.callbacks.folder=a") * 2,
        change={T + "enable_checkpointing": True},
    ),
    "batch size": Mistake(
        "batch_size must be at least 1, got 0",
        change={D + "batch_size": 0},
        place=AT_LINE + r"data\.init_args\.batch_size: 0",
    ),
    "class tokens": Mistake(
        "class token 'yes and no' is .* tokens",
        change={M + "class_tokens": ["yes and no", "-"], M + "objective": None},
        place=AT_LINE + r"model\.init_args\.class_tokens",
    ),
    "LoRA targets": Mistake(
        r"lora\.targets: \['nothing'\] are no linear layers",
        ("--model.backbone.lora.targets=[nothing]",),
        place=r"at command line: --model\.backbone\.lora\.targets=\[nothing\]",
    ),
    "threshold": Mistake(
        r"threshold must be in \[0, 1\), got 3",
        ("--model.threshold=3",),
        place=r"at command line: --model\.threshold=3",
    ),
    "learning rate uphill": Mistake(
        r"learning_rate must be positive, got -0\.001",
        ("--model.learning_rate=-0.001",),
        place=r"at command line: --model\.learning_rate=-0\.001",
    ),
    "weight decay": Mistake("weight_decay must be at least 0, got -1.0", ("--model.weight_decay=-1",)),
    "warm-up": Mistake(r"warmup_ratio must be in \[0, 1\).*, got 5.0", ("--model.warmup_ratio=5",)),
    "weight of the second loss": Mistake(
        "language_model_weight must be at least 0, got -2.0", ("--model.language_model_weight=-2",)
    ),
    "optimizer's own setting": Mistake(
        "optimizer: Invalid epsilon value: -1.0",
        ("--model.optimizer=torch.optim.AdamW", "--model.optimizer.eps=-1"),
    ),
    "setting that the optimizer does not have": Mistake(
        r"`foo` is not a setting of optimizer \(\w+\); those are amsgrad, betas",
        ("--model.optimizer=torch.optim.AdamW", "--model.optimizer.foo=1"),
        status=2,
    ),
    "class of another kind": Mistake(
        "model.optimizer: `Policy` is a class of another kind", ("--model.optimizer=Policy",), status=2
    ),
    "attention": Mistake("the model cannot be loaded: .*SDPA", ("--model.backbone.attention_implementation=SDPA",)),
    "dtype of storage alone": Mistake(
        "dtype must be auto, bfloat16, .* got 'float8_e4m3fn'", ("--model.backbone.dtype=float8_e4m3fn",)
    ),
    "alpha": Mistake("lora.alpha must be above 0, got -1.0", ("--model.backbone.lora.alpha=-1",)),
    "memory for candidates": Mistake("scoring_memory_gib must be above 0", ("--model.scoring_memory_gib=0",)),
    "accelerator": Mistake("You selected an invalid accelerator name", ("--trainer.accelerator=abacus",)),
    "interval": Mistake(
        "invalid value 2.5 for val_check_interval",
        ("--trainer.val_check_interval=2.5",),
        place=r"at command line: --trainer\.val_check_interval=2\.5",
    ),
    # Models.
    "model that is not there": Mistake(
        "{folder}/none: there is no such folder",
        change={M + "model_name_or_path": "{folder}/none"},
        place=AT_LINE + r"model\.init_args\.model_name_or_path: {folder}/none",
    ),
    "README's model before it is there": Mistake(
        "checkpoints/InternVL2_5-8B: there is no such folder",
        ("--model.model_name_or_path", "checkpoints/InternVL2_5-8B"),
        place=r"at command line: --model\.model_name_or_path=checkpoints/InternVL2_5-8B",
    ),
    "folder that is no model": Mistake("empty: holds no config.json", ("--model.model_name_or_path={folder}/empty",)),
    "file as model": Mistake("rows.jsonl: is a file", ("--model.model_name_or_path={folder}/rows.jsonl",)),
    "weights cut short": Mistake(
        r"cut/model\.safetensors: damaged or cut short \(1000 bytes\)",
        ("--model.model_name_or_path={folder}/cut",),
    ),
    "model name of a variable that is not set": Mistake(
        r"model_name_or_path must be a path, got ''; is a variable of the shell not set",
        ("--model.model_name_or_path=",),
    ),
    "model that writes no text": Mistake(
        "clip: models of the family 'clip' cannot be a backbone: `transformers` has no class for it that writes text",
        ("--model.model_name_or_path={folder}/clip",),
    ),
    "protocol that is none": Mistake(
        r"protocol/process_reward_model\.json: objective must be one of .* got 'valu'",
        ("--model.model_name_or_path={folder}/protocol", "--model.objective=value"),
    ),
    # Data and checkpoints.
    "data that is not there": Mistake(
        r"annotations: {folder}/none\.jsonl is neither",
        change={D + "train_annotations": ["{folder}/none.jsonl"]},
        place=AT_LINE + r"data\.init_args\.train_annotations\[0\]: {folder}/none\.jsonl",
    ),
    "empty data": Mistake("no usable rows in .*empty.jsonl", ("--data.train_annotations=[{folder}/empty.jsonl]",)),
    "row": Mistake(
        r"no usable rows in .*: {folder}/bad\.jsonl:1: field 'question' must be a string",
        ("--data.train_annotations=[{folder}/bad.jsonl]",),
    ),
    "pictures": Mistake(
        "image_root: .*none is neither a folder nor a zip archive", ("--data.image_root={folder}/none",)
    ),
    "checkpoint that is not there": Mistake(
        r"none\.ckpt: there is no such checkpoint",
        ("--ckpt_path={folder}/none.ckpt",),
        place=r"at command line: --ckpt_path={folder}/none\.ckpt",
    ),
    "file that is no checkpoint": Mistake(
        r"rows\.jsonl: is no checkpoint of PyTorch, or was cut short", ("--ckpt_path={folder}/rows.jsonl",)
    ),
    "folder that is no checkpoint": Mistake("empty: is not a checkpoint folder", ("--ckpt_path={folder}/empty",)),
    # Commands that would end without a word.
    "nothing to test on": Mistake("nothing to test on; give the data module visual_process_bench", command="test"),
    "nothing to validate on": Mistake("nothing to validate on; give", command="validate"),
    "file as the folder of reports": Mistake(
        "output_dir: {folder}/rows.jsonl is a file, no folder",
        ("--trainer.callbacks+=ProcessBench", "--trainer.callbacks.output_dir={folder}/rows.jsonl"),
    ),
    "predictions for nobody": Mistake("no callback writes the predictions", command="predict"),
    "link to nothing as output": Mistake(
        "link: is a link to nowhere, which is not there",
        (
            "--model=Policy",
            "--model.model_name_or_path={model}",
            "--data=PromptDataModule",
            "--data.prompts={folder}/prompts.jsonl",
            "--trainer.callbacks+=PredictionWriter",
            "--trainer.callbacks.output={folder}/link",
        ),
        change={"model": None, "data": None},
        command="predict",
    ),
    "prompts as output": Mistake(
        r"prompts\.jsonl is read, and would be replaced; give another file",
        (
            "--overwrite",
            "--model=Policy",
            "--model.model_name_or_path={model}",
            "--data=PromptDataModule",
            "--data.prompts={folder}/prompts.jsonl",
            "--trainer.callbacks+=PredictionWriter",
            "--trainer.callbacks.output={folder}/prompts.jsonl",
        ),
        change={"model": None, "data": None},
        command="predict",
    ),
    "solutions as output": Mistake(
        r"solutions\.jsonl is read, and would be replaced; give another file",
        (
            "--overwrite",
            "--model=MonteCarloAnnotator",
            "--model.model_name_or_path={model}",
            "--model.solutions_from={folder}/solutions.jsonl",
            "--data=PromptDataModule",
            "--data.prompts={folder}/prompts.jsonl",
            "--trainer.callbacks+=PredictionWriter",
            "--trainer.callbacks.output={folder}/solutions.jsonl",
        ),
        change={"model": None, "data": None},
        command="predict",
    ),
    "folder as output": Mistake(
        "output: {folder} is a folder; a file is to be written there",
        ("--trainer.callbacks+=PredictionWriter", "--trainer.callbacks.output={folder}"),
        command="predict",
    ),
    "key of sampling": Mistake(
        r"`temprature` is not a setting of sampling \(SamplingParameters\); did you mean `temperature`",
        ("--model=Policy", "--model.model_name_or_path={model}", "--model.sampling={temprature: 1}"),
        change={"model": None},
        status=2,
        command="predict",
    ),
    "names twice": Mistake(
        "benchmark_names has 'MathVision' 2 times", ("--data.benchmark_names=[MathVision,MathVision]",)
    ),
    "attention of a GPU": Mistake(
        "PyTorch cannot train flex_attention on a CPU; give sdpa or eager",
        ("--model.backbone.attention_implementation=flex_attention",),
        place=r"at command line: --model\.backbone\.attention_implementation=flex_attention",
    ),
    "null for a number": Mistake("data.batch_size must have a value, got null", ("--data.batch_size=null",)),
    "schedule without an end": Mistake(
        "give trainer.max_steps or trainer.max_epochs", ("--trainer.max_steps=-1", "--trainer.max_epochs=-1")
    ),
    "logger that is not installed": Mistake("Requirement 'wandb", ("--trainer.logger=WandbLogger",)),
    "link to nothing": Mistake("link: is a link to nowhere, which is not there", ("--ckpt_path={folder}/link",)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_checkpoint):
    """A folder with a sound configuration, run.yaml, and files that are not."""
    folder = tmp_path_factory.mktemp("mistakes")
    step = {"step": "It is 2.", "score": 1.0, "num_mc_correct": 4, "num_mc_total": 4}
    row = {"question": "How many?", "answer": "2", "response": "It is 2.", "steps_with_score": [step]}
    (folder / "rows.jsonl").write_text("".join(json.dumps({**row, "num_mc_sequences": 4}) + "\n" for _ in range(4)))
    (folder / "bad.jsonl").write_text('{"question": 1}\n')
    (folder / "empty.jsonl").touch()
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("nowhere")
    (folder / "solutions.jsonl").write_text('{"id": "0/0", "response": "2"}\n')
    (folder / "prompts.jsonl").write_text('{"question": "How many?", "answer": "2"}\n')
    (folder / "broken.yaml").write_text("model:\n  a: [1\n  b: 2\n")
    (folder / "cut").mkdir()
    for file in tiny_checkpoint.iterdir():
        (folder / "cut" / file.name).write_bytes(file.read_bytes())
    os.truncate(folder / "cut" / "model.safetensors", 1000)
    shutil.copytree(tiny_checkpoint, folder / "clip")
    (folder / "clip" / "config.json").write_text('{"model_type": "clip"}')
    shutil.copytree(tiny_checkpoint, folder / "protocol")
    (folder / "protocol" / "process_reward_model.json").write_text('{"objective": "valu"}')
    return folder


@pytest.fixture
def sound(folder, tiny_checkpoint):
    """Content of a configuration that trains for a step."""
    return {
        "model": {
            "class_path": "ProcessRewardModel",
            "init_args": {"model_name_or_path": str(tiny_checkpoint), "objective": "value"},
        },
        "data": {
            "class_path": "VisualPRM400KDataModule",
            "init_args": {"train_annotations": [str(folder / "rows.jsonl")], "cache_dir": str(folder / "cache")},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(folder / "run"),
        },
    }


def changed(config, change, folder):
    for key, value in change.items():
        *above, last = key.split(".")
        node = config
        for name in above:
            node = node[name]
        if value is None:
            node.pop(last)
        else:
            node[last] = json.loads(json.dumps(value).replace("{folder}", str(folder)))
    return config


@pytest.fixture
def command(monkeypatch, capfd, tmp_path):
    """Runs `visualprm` in this process; gives its status and what it writes to stderr."""

    def log_to(stream):
        for logger in [logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))]:
            for handler in logger.handlers:
                if type(handler) is logging.StreamHandler:
                    monkeypatch.setattr(handler, "stream", stream)

    def run(*arguments):
        log_to(sys.stderr)  # of this test, where loggers would write to that of the first one
        monkeypatch.setattr(sys, "argv", ["visualprm", *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        try:
            main()
        except SystemExit as end:
            return end.code, capfd.readouterr().err
        return 0, capfd.readouterr().err

    return run


def reported(text, program="visualprm"):
    """The lines from the one that names the error."""
    lines = text.splitlines()
    (first,) = [index for index, line in enumerate(lines) if line.startswith(f"{program}: error: ")]
    return lines[first:]


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(mistake, folder, sound, command, tiny_checkpoint):
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(changed(sound, mistake.change, folder)))
    places = {"{folder}": str(folder), "{model}": str(tiny_checkpoint)}
    options = [re.sub(r"{\w+}", lambda found: places[found[0]], option) for option in mistake.options]
    status, text = command(mistake.command, "--config", file, *options)
    first, *more = reported(text)
    assert status == mistake.status
    assert "Traceback" not in text
    assert len(text.splitlines()) <= 6, text
    assert re.search(mistake.says.replace("{folder}", re.escape(str(folder))), first), first
    if mistake.place is not None:
        where = mistake.place.replace("{folder}", re.escape(str(folder)))
        assert re.fullmatch(f"  {where}", more[0]), more
    if status == 1:
        log = folder / "run" / "failures" / "rank0.log"
        assert more[-1] == f"  traceback: {log} (here with VISUALPRM_DEBUG=1)"
        assert "Traceback (most recent call last):" in log.read_text()


def test_the_line_of_a_file_is_that_of_the_key(folder, command, sound):
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(changed(sound, {D + "batch_size": 0}, folder)))
    number = next(n for n, line in enumerate(file.read_text().splitlines(), 1) if "batch_size: 0" in line)
    _, text = command("fit", "--config", file)
    assert f"  at {file}:{number}: data.init_args.batch_size: 0" in text.splitlines()


def test_the_option_that_counts_is_named(folder, command, sound):
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(changed(sound, {D + "batch_size": 4}, folder)))
    _, text = command("fit", "--config", file, "--data.batch_size=0")
    assert "  at command line: --data.batch_size=0" in text.splitlines()


@pytest.mark.parametrize(("words", "says"), [((), "required"), (("fti",), "invalid choice: 'fti'")])
def test_subcommands(words, says, command):
    status, text = command(*words)
    (line,) = reported(text)
    assert (status, says in line) == (2, True)


def test_debugging_shows_the_traceback(folder, sound, monkeypatch, capfd):
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(changed(sound, {D + "batch_size": 0}, folder)))
    monkeypatch.setenv("VISUALPRM_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["visualprm", "fit", "--config", str(file)])
    with pytest.raises(ValueError, match=r"^batch_size must be at least 1, got 0\n"):
        main()
    assert "FAILED" in capfd.readouterr().err


@pytest.mark.parametrize("key", ["key of the model", "abbreviation"])
def test_debugging_shows_what_the_parser_refuses(key, folder, sound, command, monkeypatch):
    """Where nothing has begun there is no log of failures."""
    monkeypatch.setenv("VISUALPRM_DEBUG", "1")
    mistake = MISTAKES[key]
    file = folder / "run.yaml"
    file.write_text(
        yaml.safe_dump(changed(sound, {T + "default_root_dir": "{folder}/never", **mistake.change}, folder))
    )
    status, text = command("fit", "--config", file, *mistake.options)
    assert status == 2
    assert "jsonargparse" in text.partition("visualprm: error: ")[0]
    assert not (folder / "never").exists()


@pytest.fixture
def begun(folder, sound, tmp_path):
    """Starts `visualprm fit` in a process of its own; gives the process and the file of its output."""

    def start(name, change, environment=None, mebibytes=None):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(changed(sound, {T + "default_root_dir": str(tmp_path), **change}, folder)))
        output = tmp_path / f"{name}.txt"
        given = [["fit", "--config", str(file)], mebibytes]
        return fork_server.start("cli_runs:command", given, output, environment), output

    return start


def test_one_of_several_processes_reports(begun, tmp_path):
    """Every rank meets the mistake; a later run of the same names says it again."""
    for run in (1, 2):
        ranks = []
        for rank in range(3):
            names = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "3"}
            names["TORCHELASTIC_RUN_ID"] = str(tmp_path)
            ranks.append(begun(f"{run}-{rank}", {D + "batch_size": 0}, names))
        for process, _ in ranks:
            process.join(60)
            assert process.exitcode == 1
        texts = [text for _, output in ranks if (text := output.read_text())]
        (report,) = [text for text in texts if "error: batch_size must be at least 1" in text]
        assert re.search(r"^  failed in this process: rank \d on ", report, re.MULTILINE)
        assert all("rror" not in text for text in texts if text is not report), texts
    logs = sorted((tmp_path / "failures").iterdir())
    assert [log.name for log in logs] == ["rank0.log", "rank1.log", "rank2.log"]
    assert all(log.read_text().count("ValueError: batch_size") >= 2 for log in logs)


def test_too_little_memory(begun, folder):
    """What PyTorch says about an allocation that fails, and which settings matter with their values."""
    row = json.loads((folder / "rows.jsonl").read_text().splitlines()[0])
    row["question"] = "How many? " * 80
    (folder / "long.jsonl").write_text((json.dumps(row) + "\n") * 256)
    change = {D + "train_annotations": [str(folder / "long.jsonl")], D + "batch_size": 256, D + "check_images": False}
    process, output = begun("memory", change, mebibytes=200)
    process.join(120)
    text = output.read_text()
    first, second, last = reported(text)
    assert process.exitcode == 1
    assert re.search("error: out of memory: DefaultCPUAllocator: can't allocate memory: you tried to allocate", first)
    assert "lower data.batch_size (now 256) and raise trainer.accumulate_grad_batches" in second
    assert "Traceback" in (output.parent / "failures" / "rank0.log").read_text()
    assert last == f"  traceback: {output.parent}/failures/rank0.log (here with VISUALPRM_DEBUG=1)"


@pytest.mark.parametrize(
    ("hook", "text", "says"),
    [
        ("setup", None, r"set model\.backbone\.dtype bfloat16 \(now auto\) or model\.backbone\.quantization nf4"),
        ("on_before_backward", None, r"lower data\.batch_size \(now 8\) and raise trainer\.accumulate_grad_batches"),
        ("on_before_optimizer_step", "CUDA error: out of memory", r"set model\.backbone\.gradient_checkpointing true"),
        (
            "on_after_backward",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
            r"model\.backbone\.lora",
        ),
    ],
)
def test_too_little_memory_of_a_gpu(hook, text, says, folder, sound, command):
    """The types and texts of PyTorch, raised where it would raise them; no GPU is needed to report them."""
    init_args = {"hook": hook, "text": text}
    callback = {"class_path": "cli_runs.OutOfMemory", "init_args": init_args}
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(changed(sound, {T + "callbacks": [callback]}, folder)))
    status, written = command("fit", "--config", file)
    first, second, last = reported(written)
    assert (status, "Traceback" in written, len(written.splitlines()) <= 6) == (1, False, True), written
    assert first.startswith("visualprm: error: out of memory: ")
    assert "Of the allocated memory" not in first
    assert re.search(says, second), second
    assert last == f"  traceback: {folder}/run/failures/rank0.log (here with VISUALPRM_DEBUG=1)"


def raised(action):
    with pytest.raises(Exception) as found:  # noqa: PT011 - whatever it is
        action()
    return found.value


class Rows(torch.utils.data.Dataset):
    def __init__(self, read):
        self.read = read

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.read(index)


def refused(index):
    return parse_json_line(b"[", "rows.jsonl:3")


def divided(index):
    return int("x" * (index + 1))


def test_what_is_a_mistake(tmp_path):
    """By type and origin, whatever the message."""
    assert is_mistake(raised(lambda: (tmp_path / "none").read_text()))
    assert is_mistake(raised(lambda: refused(0)))
    assert is_mistake(raised(lambda: next(iter(DataLoader(Rows(refused), num_workers=1)))))
    assert is_mistake(MemoryError())
    assert is_mistake(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_mistake(raised(lambda: torch.empty(2**60)))


def test_what_is_a_bug():
    assert not is_mistake(raised(lambda: divided(0)))
    assert not is_mistake(raised(lambda: next(iter(DataLoader(Rows(divided), num_workers=1)))))
    assert not is_mistake(raised(lambda: [][0]))
    assert not is_mistake(raised(lambda: torch.zeros(2) @ torch.zeros(3)))
    assert not is_mistake(ConnectionResetError("reset by peer"))
    assert not is_mistake(ValueError("raised by a test, which is no part of the project"))


def test_a_worker_says_what_it_would_say_here():
    error = raised(lambda: next(iter(DataLoader(Rows(refused), num_workers=1))))
    assert report("command", error).startswith("command: error: rows.jsonl:3: not valid JSON: ")
    assert len(report("command", error).splitlines()) == 1


def test_errors_of_the_system():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")
    assert report("command", full) == (
        "command: error: /data/x: No space left on device; make room there or give another folder\n"
    )
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/x")
    assert report("command", denied).startswith("command: error: /data/x: Permission denied; ")


def test_a_link_to_nothing(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    error = raised(lambda: (tmp_path / "link").read_text())
    said = f"{tmp_path}/link is a link to {tmp_path}/nowhere, which is not there"
    assert said in report("command", error)
    assert said in report("command", raised(lambda: (tmp_path / "link" / "below").mkdir(parents=True)))
    assert said in report("command", FileNotFoundError(f"annotations: {tmp_path}/link is no file"))


def test_no_report_is_long():
    error = ValueError("\n".join(f"line {number} {'x' * 2000}" for number in range(100)))
    for number in range(20):
        error.add_note(f"note {number}")
    lines = report("command", error).splitlines()
    assert len(lines) <= 6
    assert max(map(len, lines)) <= 600


def test_ctrl_c_in_an_evaluation(folder, sound, command, monkeypatch, request):
    """Lightning would end the process with status 1."""

    def stopped(*arguments):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)  # which Lightning changes
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(ProcessRewardModel, "validation_step", stopped)
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(changed(sound, {D + "validation_annotations": "{folder}/rows.jsonl"}, folder)))
    status, text = command("validate", "--config", file)
    assert (status, text.splitlines()[-1]) == (130, "visualprm: stopped (Ctrl-C)")
    assert "Traceback" not in text


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 1)])
def test_interruptions(error, status, monkeypatch, capfd):
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # which leaves this process no output
    with pytest.raises(SystemExit) as end, mistakes_reported("command"):
        raise error
    assert end.value.code == status
    assert len(capfd.readouterr().err.splitlines()) <= 1
