"""Runs of `visualprm predict` through a server that fails: the rows must be those of an undisturbed run."""

import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fork_server
import yaml
from cli_runs import QUIET, environment, visualprm, visualprm_killed_after, visualprm_until_killed
from fault_proxy import FaultProxy

POLICY = ("lightning_modules.policy.Policy", {"num_samples": 3})
ANNOTATOR = ("lightning_modules.annotation.MonteCarloAnnotator", {"num_solutions": 2, "num_continuations": 3})
PROMPTS = 6
_WRITER = "lightning_modules.callbacks.prediction_writer.PredictionWriter"


class ServedRuns:
    """Runs with one policy behind a server.

    Args:
        url: Base address of a server that does not fail.
        policy: Folder of the processor, or only a name.
        world: Folder with questions.
        engine: More arguments of the engine.
    """

    def __init__(self, url: str, policy: str, world: Path, **engine: Any) -> None:
        self.url, self.policy, self.world, self.engine = url, policy, world, engine

    def config(self, folder: Path, module: tuple[str, dict[str, Any]], url: str, **engine: Any) -> list[str]:
        """Arguments of the command."""
        class_path, arguments = module
        engine = {
            "base_urls": [url],
            "model": "tiny",
            "concurrency": 4,
            "samples_per_request": 1,
            **self.engine,
            **engine,
        }
        engine_path = "lightning_modules.generation.server_engine.ServerEngine"
        arguments = {
            **arguments,
            "model_name_or_path": self.policy,
            "sampling": {"temperature": 1.0, "max_new_tokens": 16, "seed": 1},
            "engine": {"class_path": engine_path, "init_args": engine},
        }
        data = {"prompts": str(self.world / "prompts" / "annotations.jsonl"), "max_prompts": PROMPTS, "batch_size": 2}
        config = {
            "model": {"class_path": class_path, "init_args": arguments},
            "data": {"class_path": "datamodules.prompts_datamodule.PromptDataModule", "init_args": data},
            "return_predictions": False,
            "trainer": {
                "accelerator": "cpu",
                "logger": False,
                "default_root_dir": str(folder),
                "callbacks": [{"class_path": _WRITER, "init_args": {"output": str(folder / "rows.jsonl")}}],
            },
        }
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return ["predict", f"--config={folder / 'config.yaml'}"]

    def rows(self, folder: Path, module: tuple[str, dict[str, Any]], url: str | None = None) -> list[dict[str, Any]]:
        """What a run in this process writes."""
        visualprm(folder, *self.config(folder, module, url or self.url))
        return self.written(folder)

    def written(self, folder: Path) -> list[dict[str, Any]]:
        """The rows of a run that has ended."""
        return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]

    def finished(self, folder: Path) -> list[str]:
        """Ids of the prompts in the journals of a run that did not end."""
        lines = [line for path in sorted(folder.glob("rows.jsonl.journal-*")) for line in path.read_text().splitlines()]
        return [json.loads(line)["prompt_id"] for line in lines]


def check_spoilt_answers(runs: ServedRuns, folder: Path, module: tuple[str, dict[str, Any]]) -> None:
    """HTTP 500 and broken JSON among the answers change nothing."""
    undisturbed = runs.rows(folder / "undisturbed", module)
    proxy = FaultProxy(runs.url, every=5)
    try:
        assert runs.rows(folder / "spoilt", module, proxy.url) == undisturbed
    finally:
        proxy.stop()
    assert proxy.spoilt > 2
    assert len({row.get("question_id", row.get("id")) for row in undisturbed}) >= PROMPTS


@contextmanager
def when(condition: Callable[[], bool], action: Callable[[], None]) -> Any:
    """Does something as soon as a condition holds, while the block runs; it must come to that."""
    ended = threading.Event()
    done = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if condition():
                action()
                done.set()
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert done.is_set()


def check_a_pause(runs: ServedRuns, folder: Path, seconds: float) -> None:
    """The server is gone for some seconds in the middle: the run waits for it."""
    undisturbed = runs.rows(folder / "undisturbed", POLICY)
    proxy = FaultProxy(runs.url)

    def pause() -> None:
        proxy.stop()
        time.sleep(seconds)
        proxy.start()

    begin = time.monotonic()
    try:
        with when(lambda: proxy.answered >= 2, pause):
            assert runs.rows(folder / "paused", POLICY, proxy.url) == undisturbed
    finally:
        proxy.stop()
    assert time.monotonic() - begin > seconds


def check_gone_for_good(runs: ServedRuns, folder: Path) -> None:
    """An error within the bound, and an exit status that is not 0; what was done is kept, and the rest done later."""
    proxy = FaultProxy(runs.url)
    arguments = runs.config(folder / "run", POLICY, proxy.url, patience=2.0, concurrency=1)
    output = folder / "output.txt"
    with when(lambda: len(runs.finished(folder / "run")) >= 2, proxy.stop):
        process = fork_server.start(
            "lightning_modules.cli:run", [[*arguments, *QUIET]], output, environment(folder / "run")
        )
        process.join(300)
    assert process.exitcode not in (None, 0)
    assert "none has answered for 2 s" in output.read_text()
    kept = runs.finished(folder / "run")
    assert 2 <= len(kept) < PROMPTS
    after_it = FaultProxy(runs.url)
    try:
        rows = runs.rows(folder / "run", POLICY, after_it.url)
        # Of what is kept nothing is asked again.
        assert after_it.answered == 3 * (PROMPTS - len(kept))
    finally:
        after_it.stop()
    assert rows == runs.rows(folder / "undisturbed", POLICY)


def check_kill(runs: ServedRuns, folder: Path, module: tuple[str, dict[str, Any]]) -> None:
    """After kill -9 the same command goes on: the same prompts and counts, none twice."""
    undisturbed = runs.rows(folder / "undisturbed", module)
    arguments = runs.config(folder / "killed", module, runs.url)
    killing = ["--trainer.callbacks+=cli_runs.Kill", "--trainer.callbacks.init_args.hook=on_predict_batch_end"]
    visualprm_until_killed(folder / "killed", *arguments, *killing, "--trainer.callbacks.init_args.times=1")
    assert 2 <= len(runs.finished(folder / "killed")) < PROMPTS
    assert runs.rows(folder / "killed", module) == undisturbed
    names = [(row["question_id"], row["sample_index"]) if "sample_index" in row else row["id"] for row in undisturbed]
    assert len(names) == len(set(names)) == PROMPTS * (3 if module is POLICY else 2)


def check_many_kills(runs: ServedRuns, folder: Path, module: tuple[str, dict[str, Any]], times: int) -> None:
    """After kill -9 at random moments, again and again, the same command ends with the rows of an undisturbed run."""
    begin = time.monotonic()
    undisturbed = runs.rows(folder / "undisturbed", module)
    whole = time.monotonic() - begin
    moments, kills = random.Random(times), 0
    while kills < times:
        arguments = runs.config(folder / "killed", module, runs.url)
        if visualprm_killed_after(folder / "killed", moments.uniform(0, 3 * whole), *arguments):
            kills += 1
        else:
            # It came to its end: begin with another one, so that kills hit all moments of a run.
            assert runs.written(folder / "killed") == undisturbed
            shutil.rmtree(folder / "killed")
    assert runs.rows(folder / "killed", module) == undisturbed
    assert not list((folder / "killed").glob("*.journal-*"))
