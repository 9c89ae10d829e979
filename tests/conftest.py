"""Fixtures that every test may use: a tiny world, a tiny checkpoint, and small files in the released formats.

What takes seconds to import is imported by the fixture that needs it: the process that hands tests out needs nothing.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fork_server
import pytest
from filelock import FileLock
from fork_server import OF_A_RUN
from hypothesis import settings
from PIL import Image
from vllm_server import NO_SERVER, server_python

if TYPE_CHECKING:
    from transformers import ProcessorMixin

# Nearly all that imports and collection make lives to the end: searching it for garbage takes a third of their time.
gc.disable()

# A busy machine is no reason for a property not to hold, so there are no deadlines.
settings.register_profile("default", deadline=None, max_examples=10)
settings.register_profile("all", deadline=None, max_examples=100)
settings.load_profile("default")


LONG_FILES = (
    "distributed/test_resume_scenarios.py",
    "test_end_to_end.py",  # the first that needs `quickstart_run`, on which others wait
    "distributed/test_two_nodes.py",
    "distributed/test_sharding.py",
    "test_resume.py",
    "test_runs_at_once.py",
    "distributed/test_equivalence.py",
    "distributed/test_slurm.py",
    "test_ablations.py",
    "test_experiments.py",
    "lightning_modules/configuration/test_mistakes.py",
    "lightning_modules/model/test_backbone_module.py",
    "lightning_modules/callbacks/test_best_of_n_callback.py",
    "tools/benchmarks/test_indexing.py",
    "distributed/test_monitoring.py",
    "tools/test_export.py",
    "datamodules/answers/test_symbolic.py",
    "lightning_modules/test_annotation.py",
)
"""What takes longest comes first, so that no process is left with a long file when the others have ended."""


def pytest_configure(config: pytest.Config) -> None:
    """Start the server of tests/fork_server.py once for all processes of pytest-xdist, while they collect tests."""
    if getattr(config.option, "dist", "no") != "no" and "PYTEST_XDIST_WORKER" not in os.environ:
        fork_server.share()
        gc.enable()  # this process collects no tests


def pytest_collection_finish() -> None:
    """Collect garbage again, of what tests make."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first; those of a file stay together, in their order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU, or vLLM, where there is none."""
    if item.get_closest_marker("server") and server_python() is None:
        pytest.skip(NO_SERVER)
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device: run `pytest -m gpu` on a machine that has one")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line that tests with a real server were not run."""
    skipped = [report for report in terminalreporter.getreports("skipped") if NO_SERVER in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests with a real server were not run: {NO_SERVER}")


@pytest.fixture(autouse=True)
def no_rank_is_left() -> Iterator[None]:
    """A trainer with a distributed strategy leaves its process group and variables behind; the next test must not."""
    before = {name: os.environ.get(name) for name in OF_A_RUN}
    yield
    if (distributed := sys.modules.get("torch.distributed")) and distributed.is_initialized():
        distributed.destroy_process_group()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


TEXTS = [
    "How many digits are larger than 4 ?",
    "The digits are 3 , 7 and 9 .",
    "So the answer is \\boxed{2} .",
    "+ - =",
]


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small world of handwritten digits; read it, do not write into it."""
    from datamodules.handwritten.world import WorldSize, build_world

    folder = tmp_path_factory.mktemp("tiny_world")
    size = WorldSize(statements=24, demonstrations=64, prompts=16, validation=8, benchmark_questions=10)
    build_world(folder, size, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small, randomly initialised InternVL checkpoint, in the format of a large one."""
    from tools.make_tiny_model import make_tiny_model

    folder = tmp_path_factory.mktemp("tiny_checkpoint")
    make_tiny_model(
        folder,
        iter(TEXTS),
        vision_hidden_size=16,
        vision_layers=1,
        text_hidden_size=32,
        text_layers=2,
        heads=2,
    )
    return folder


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a whole quickstart run, made small, once for all processes of tests; read it, do not write into it."""
    from cli_runs import run_quickstart

    ours = tmp_path_factory.getbasetemp()
    common = ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours
    folder = common / "quickstart_run"
    with FileLock(common / "quickstart_run.lock"):
        if not (common / "quickstart_run.done").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that has failed
            folder.mkdir()
            run_quickstart(folder)
            (common / "quickstart_run.done").touch()
    return folder


@pytest.fixture(scope="session")
def tiny_processor(tiny_checkpoint: Path) -> ProcessorMixin:
    """The processor of :func:`tiny_checkpoint`."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="session")
def family_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny checkpoint of a family of tests/tiny_families.py; read it, do not write into it."""
    from tiny_families import write_family

    folder = tmp_path_factory.mktemp("families")

    def checkpoint(name: str) -> Path:
        if not (folder / name).is_dir():
            write_family(name, folder / name)
        return folder / name

    return checkpoint


WriteLines = Callable[[Path, Sequence[Any]], Path]


@pytest.fixture
def write_lines() -> WriteLines:
    """Writes JSON objects, or ready-made texts, one a line."""

    def write(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def raw_row() -> Callable[..., dict[str, Any]]:
    """Makes VisualPRM400K raw rows; keyword arguments replace fields, None leaves one out."""

    def make(**fields: Any) -> dict[str, Any]:
        row = {
            "image": "pictures/a.png",
            "question": "How many digits are larger than 4?",
            "answer": "2",
            "response": "The digits are 3, 7 and 9.\n\nSo the answer is \\boxed{2}.",
            "steps_with_score": [
                {"step": "The digits are 3, 7 and 9.", "score": 0.75, "num_mc_correct": 3, "num_mc_total": 4},
                {"step": "So the answer is \\boxed{2}.", "score": 1, "num_mc_correct": 4, "num_mc_total": 4},
            ],
            "num_mc_sequences": 4,
        }
        return {name: value for name, value in {**row, **fields}.items() if value is not None}

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The folder ``tmp_path / "pictures"``: a.png is sound, broken.png cut short, text.png no image."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (24, 24), (200, 0, 0)).save(folder / "a.png")
    Image.effect_noise((64, 64), 50).save(folder / "broken.png")
    content = (folder / "broken.png").read_bytes()
    (folder / "broken.png").write_bytes(content[: len(content) // 2])
    (folder / "text.png").write_text("no image")
    return folder
