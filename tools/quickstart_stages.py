"""The stages of the recipe in miniature; they run in one process, which imports everything once.

Example, as :mod:`tools.quickstart` does it::

    VISUALPRM_RUN=runs/quickstart/seed0 VISUALPRM_SEED=0 OMP_NUM_THREADS=2 python -m tools.quickstart_stages
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

EXPERIMENTS = Path("experiments", "quickstart")


@dataclass(frozen=True)
class Stage:
    """One command of the recipe.

    Attributes:
        title: Displayed description.
        result: File or folder that exists when the stage is done.
        command: Arguments of the Python interpreter.
        variables: Of the environment, which the experiments of the command read.
    """

    title: str
    result: Path
    command: list[str]
    variables: Mapping[str, str] = field(default_factory=dict)


def tool(name: str, *arguments: object) -> list[str]:
    """Interpreter arguments of a program under tools/."""
    return ["-m", f"tools.{name}", *map(str, arguments)]


def visualprm(subcommand: str, *configs: str, **overrides: object) -> list[str]:
    """Interpreter arguments of a `visualprm` command with configurations of this recipe, by name.

    Args:
        subcommand: Such as ``fit``.
        configs: Files of :data:`EXPERIMENTS` without their ending; others by their path from there.
        overrides: Options, with two underscores for a point.
    """
    arguments = ["-m", "lightning_modules.cli", subcommand]
    for name in configs:
        arguments += ["--config", os.path.normpath(EXPERIMENTS / f"{name}.yaml")]
    return arguments + [f"--{name.replace('__', '.')}={value}" for name, value in overrides.items()]


def stages(run: Path, seed: int) -> list[Stage]:
    """The stages of the recipe, in order.

    Args:
        run: Folder of the run.
        seed: Seed of the world and of all sampling and initialisation.
    """
    reward_model, annotation = "process_reward_model", "annotation"
    world = run / "world"
    texts = [world / split / "annotations.jsonl" for split in ("demonstrations", "statements")]
    supervision = [world / split / "process_supervision.jsonl" for split in ("prompts", "validation")]
    bench = run / "visual_process_bench"
    outcome = run / "outcome_reward_model_test" / "candidate_scores.jsonl"
    return [
        Stage(
            "draw the questions",
            world / "truth.jsonl",
            tool("build_world", "--output", world, "--seed", seed),
        ),
        Stage(
            "write a model with random weights",
            run / "random",
            tool("make_tiny_model", "--output", run / "random", "--seed", seed, "--texts", *texts),
        ),
        Stage("pretrain it on statements about pictures", run / "base", visualprm("fit", "base")),
        Stage("fine-tune the policy", run / "policy", visualprm("fit", "policy")),
        Stage(
            "sample 32 solutions a benchmark question",
            run / "rollouts.jsonl",
            visualprm("predict", "rollouts"),
        ),
        Stage(
            "label benchmark solutions with the exact truth",
            bench / "test.jsonl",
            tool("build_process_bench", "--world", world, "--rollouts", run / "rollouts.jsonl", "--output", bench),
        ),
        Stage("annotate training solutions by Monte Carlo", supervision[0], visualprm("predict", annotation)),
        Stage(
            "annotate validation solutions by Monte Carlo",
            supervision[1],
            visualprm(
                "predict",
                annotation,
                data__prompts=world / "validation" / "annotations.jsonl",
                trainer__callbacks__output=supervision[1],
            ),
        ),
        Stage(
            "train the outcome reward model",
            run / "outcome_reward_model",
            visualprm("fit", reward_model, "outcome_reward_model"),
        ),
        Stage(
            "score the solutions with it",
            outcome,
            visualprm("test", reward_model, "outcome_reward_model_test"),
        ),
        Stage("train the process reward model", run / "process_reward_model", visualprm("fit", reward_model)),
        Stage(
            "compare the ways to choose a solution",
            run / "process_reward_model_test" / "best_of_n_test.json",
            visualprm("test", reward_model, "process_reward_model_test"),
        ),
    ]


def run_command(command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
    """Run ``python -m MODULE ...`` in this process.

    Args:
        command: Arguments of the interpreter.
        variables: Of the environment, set meanwhile.

    Raises:
        SystemExit: If the program ends with a status other than 0.
    """
    _, module, *arguments = command
    argv, before = sys.argv, dict(os.environ)
    sys.argv = [module, *arguments]
    os.environ.update(variables or {})
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = argv
        for name in variables or {}:
            os.environ.pop(name, None)
        os.environ.update({name: before[name] for name in variables or {} if name in before})


def run_stages(run: Path, seed: int, more: Sequence[Stage] = ()) -> None:
    """Run the unfinished stages.

    The environment must hold VISUALPRM_RUN and VISUALPRM_SEED, which the experiments read.

    Args:
        run: See :func:`stages`.
        seed: See :func:`stages`.
        more: Stages to run behind these.

    Raises:
        RuntimeError: If a stage ends without its result.
    """
    begin = time.monotonic()
    todo = [*stages(run, seed), *more]
    for number, stage in enumerate(todo, start=1):
        heading = f"[{number}/{len(todo)}] {stage.title}"
        if stage.result.exists():
            print(f"{heading}: done before, {stage.result}", flush=True)
            continue
        print(f"{heading}\n    python {' '.join(stage.command)}", flush=True)
        start = time.monotonic()
        run_command(stage.command, stage.variables)
        if not stage.result.exists():
            raise RuntimeError(f"the stage {stage.title!r} has ended without {stage.result}; see its output above")
        print(f"    {time.monotonic() - start:.0f} s", flush=True)
    print(f"{run}: {time.monotonic() - begin:.0f} s; curves and figures: tensorboard --logdir {run / 'logs'}")


if __name__ == "__main__":
    # They have their commands from here.
    from tools.beyond_stages import beyond_stages
    from tools.table_stages import table_stages

    folder = Path(os.environ["VISUALPRM_RUN"])
    more = {"tables": table_stages, "beyond": beyond_stages}
    besides = [stage for name in sys.argv[1:] for stage in more[name](folder)]
    run_stages(folder, int(os.environ["VISUALPRM_SEED"]), besides)
