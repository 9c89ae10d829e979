"""The commands of the guides are run one after the other as a reader would, on the small quickstart's models and data.

What a guide calls ``checkpoints/VisualPRM-8B`` is the quickstart's reward model here, and so on. Launchers, servers and
what is measured on large models have tests of their own; `NOT_RUN` says where.
"""

import os
import re
import shlex
import shutil
import sys
import zipfile
from glob import glob
from itertools import pairwise
from pathlib import Path

import pytest
from cli_runs import FEWER_CANDIDATES, QUIET, REPOSITORY, SAMPLES
from guide_texts import GUIDES, blocks, name_of
from original_internvl import write_checkpoint
from test_guides import tool_of

from lightning_modules.cli import run

pytestmark = pytest.mark.thorough

PLACES = {
    "process_reward_model": ["checkpoints/VisualPRM-8B", "checkpoints/my_prm"],
    "policy": ["checkpoints/InternVL2_5-8B", "checkpoints/InternVL3-8B", "checkpoints/strong", "checkpoints/judge"],
    "world/benchmarks": ["DATA/benchmarks", "data/benchmarks", "downloads/benchmarks"],
    "rollouts.jsonl": ["DATA/rollouts.jsonl", "rollouts.jsonl", "rollouts/all.jsonl", "runs/rollouts.jsonl"],
    "visual_process_bench": [
        "DATA/VisualProcessBench",
        "data/VisualProcessBench",
        "data/visual_process_bench",
        "downloads/VisualProcessBench",
        "visual_process_bench",
    ],
    "process_reward_model_test": [
        "runs/test",
        "runs/beta_binomial_test",
        "runs/paper/table4_test",
    ],
    "world/prompts/process_supervision.jsonl": ["rows.jsonl", "weak.jsonl"],
    "world/prompts/process_supervision.jsonl.settings": ["rows.jsonl.settings"],
}
"""What the guides call the parts of the quickstart."""

TESTED = "experiments/quickstart/process_reward_model_test.yaml"

NOT_RUN = {
    "experiments/README.md": "launchers: tests/distributed",
    "experiments/REINFORCEMENT_LEARNING.md": "needs TRL: tests/test_reinforcement_learning.py",
    "experiments/RELEASED.md": "tests/test_released_recipes.py",
    "experiments/RESULTS.md": "measurements: tests/tools/benchmarks, tests/test_experiments.py",
    "lightning_modules/SERVERS.md": "servers: tests/lightning_modules/generation, tests/lightning_modules/scoring",
}

BEFORE = {
    "datamodules/BENCHMARKS.md": [
        "visualprm-rollouts export rollouts/all.jsonl --benchmarks data/benchmarks --benchmark MathVista "
        f"--sample-index {index} --output sample{index}/InternVL2_5-8B_MathVista_MINI.xlsx"
        for index in range(SAMPLES)
    ],
    "experiments/VIEW.md": [
        "visualprm test --model ProcessRewardModel --model.model_name_or_path checkpoints/VisualPRM-8B "
        "--data EvaluationDataModule --data.benchmarks data/benchmarks --data.rollouts rollouts.jsonl "
        "--trainer.callbacks+=BestOfN --trainer.logger=TensorBoardLogger --trainer.logger.save_dir=runs "
        "--trainer.logger.name= --trainer.logger.version=my_test",
        "visualprm predict --config experiments/quickstart/rollouts.yaml --config experiments/search/beam.yaml "
        "--trainer.callbacks.output=beam_search.jsonl",
    ],
    "lightning_modules/CHECKPOINTS.md": [
        "VISUALPRM_RUN=runs/prm visualprm fit --config experiments/visualprm_8b/full.yaml"
    ],
}
"""What a reader of a guide has done before."""

OF_RUNS = ("README.md", "experiments/RUNS.md")
"""Guides about the run of the 8B model; the others have the quickstart's."""

NOT_HERE = ("experiments/paper/table5.yaml", "experiments/servers")
"""Parts of commands that need what the quickstart does not have: benchmarks of text, servers."""

ON_THIS_MACHINE = {
    "fit": [
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.precision=32-true",
        "--trainer.limit_train_batches=1",
        "--trainer.accumulate_grad_batches=1",
        "--trainer.limit_val_batches=1",
        "--trainer.val_check_interval=1.0",
        "--data.num_workers=0",
    ],
    "predict": ["--trainer.accelerator=cpu"],
    "experiments/visualprm_8b/full.yaml": ["--data.validation_fraction=0.2", "--trainer.accelerator=cpu"],
    "experiments/paper/table6.yaml": [FEWER_CANDIDATES],
    "experiments/paper/rollouts.yaml": ["--model.sampling.max_new_tokens=4", "--trainer.callbacks.output=paper.jsonl"],
    "experiments/beyond/calibration.yaml": ["--data.validation_annotations=weak.jsonl"],
    "experiments/beyond/picture_controls.yaml": [FEWER_CANDIDATES],
}
"""Options that make the guides' commands small, by subcommand and configuration."""


def lines_of(guide):
    """The lines of the shell blocks, those that go on on the next line joined."""
    for block in blocks(guide, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


@pytest.fixture
def home(quickstart_run, tmp_path):
    """A folder with the repository's parts and all that the guides name."""
    folder = tmp_path
    for name in ("experiments", "lightning_modules", "datamodules", "tools"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(quickstart_run, folder / "runs/quickstart/seed0")
    for part, names in PLACES.items():
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(quickstart_run / part)
    shutil.copytree(quickstart_run / "process_reward_model_test", folder / "runs/paper/early_stop_test")
    raw = quickstart_run / "world/prompts"
    for name in ("downloads/VisualPRM400K-v1.1-Raw/a", "data/VisualPRM400K-v1.1-Raw/a", "annotated/rows"):
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(parents=True)
        file.symlink_to(raw / "process_supervision.jsonl")
        (file.parent / "images").symlink_to(raw / "images")
    (folder / "images").symlink_to(raw / "images")
    (folder / "downloads/VisualPRM400K-v1.1").mkdir()
    with zipfile.ZipFile(folder / "downloads/VisualPRM400K-v1.1/images.zip", "w") as archive:
        archive.write(next((raw / "images").iterdir()), "images/one.png")
    for name in ("InternVL2_5-8B", "VisualPRM-8B"):
        write_checkpoint(folder / "downloads" / name)
    return folder


@pytest.fixture
def reader(home, monkeypatch):
    """Gives a function that runs a line of a guide."""
    monkeypatch.chdir(home)
    for name in [name for name in os.environ if name.startswith("VISUALPRM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VISUALPRM_VALIDATIONS", "1")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")

    def read(words):
        while words and (found := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
            monkeypatch.setenv(found[1], found[2])
            words = words[1:]
        if words and words[0] == "export":
            for word in words[1:]:
                monkeypatch.setenv(*word.split("=", 1))
        elif words and words[0] == "visualprm" and "--help" not in words:
            small = [option for word in words for option in ON_THIS_MACHINE.get(word, [])]
            if TESTED in words and "--data.candidates_per_question" not in words:
                small.append(FEWER_CANDIDATES)
            run([*words[1:], *small, *QUIET])
        elif words and (tool := tool_of(words)):
            if words[0] == "visualprm-convert":
                Path(words[2]).unlink(missing_ok=True)
            program, arguments = tool
            if "runs/quickstart/seed2" in arguments:
                shutil.copytree("runs/quickstart/seed0", "runs/quickstart/seed2")
            fewer = (str(SAMPLES) if before == "--candidates" else word for before, word in pairwise(["", *arguments]))
            monkeypatch.setattr(
                sys, "argv", [words[0], *(path for word in fewer for path in sorted(glob(word)) or [word])]
            )
            try:
                return program()
            except SystemExit as end:
                return end.code
        return 0

    return read


@pytest.mark.parametrize("guide", [g for g in GUIDES if name_of(g) not in NOT_RUN and any(lines_of(g))], ids=name_of)
def test_the_commands_of_a_guide(guide, reader):
    if name_of(guide) not in OF_RUNS:
        reader(["export", "VISUALPRM_RUN=runs/quickstart/seed0"])
    if name_of(guide) == "lightning_modules/ANNOTATION.md":
        # Made by other settings than the guide has.
        for path in Path("runs/quickstart/seed0/world/prompts").glob("process_supervision.jsonl*"):
            path.unlink()
    for line in BEFORE.get(name_of(guide), []):
        reader(shlex.split(line))
    for words in lines_of(guide):
        if not any(part in word for word in words for part in NOT_HERE):
            assert not reader(list(words)), " ".join(words)
