r"""Write a miniature VisualProcessBench: a policy's solutions with exact step labels.

The labels come from the miniature world's truth, not from Monte Carlo. Example::

    python -m tools.build_process_bench --world data/quickstart/world --rollouts data/quickstart/rollouts.jsonl \
        --output data/quickstart/visual_process_bench
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datamodules.benchmarks import BENCHMARKS
from datamodules.conversation.steps import split_into_steps
from datamodules.handwritten.question import true_step_labels
from datamodules.rollouts.records import read_rollouts
from datamodules.storage.files import atomic_write_text, errors_name, read_jsonl, require_writable_folder
from lightning_modules.checkpointing.run_lock import RunLock
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import nonempty_path

DATA_SOURCE = {
    "MMMU": "MMMU",
    "MathVision": "MathVision",
    "MathVerse-VO": "MathVerse",
    "DynaMath": "DynaMath",
    "WeMath": "WeMath",
}
"""The released benchmark draws on five of the seven; benchmark name to its ``data_source``."""


def build_process_bench(world: Path, rollouts: Path, output: Path) -> int:
    """Write ``test.jsonl`` and ``images/``; returns the number of samples.

    It takes the first sampled solution of every question; empty responses have no steps and are left out.
    """
    truth = {(row["benchmark"], row["question_id"]): row for _, row in read_jsonl(world / "truth.jsonl")}
    questions = {
        (name, question.question_id): question
        for name in DATA_SOURCE
        for question in BENCHMARKS[name]().read(world / "benchmarks")
    }
    sampled = read_rollouts(rollouts)
    (output / "images").mkdir(parents=True, exist_ok=True)
    # Samples of before must not be left with some of these pictures if this process is killed.
    (output / "test.jsonl").unlink(missing_ok=True)
    lines = []
    for rollout in sampled:
        key = (rollout.benchmark, rollout.question_id)
        steps = split_into_steps(rollout.response)
        if rollout.sample_index != 0 or key not in questions or not steps:
            continue
        question, true = questions[key], truth[key]
        names = []
        for number, image in enumerate(question.images):
            name = f"images/{rollout.benchmark}_{rollout.question_id}_{number}.png"
            image.save(output / name)
            names.append(name)
        labels = true_step_labels(steps, true["steps"], frozenset(true["neutral_steps"]))
        row = {
            "image": names,
            "question": question.question,
            "answer": question.gold[0],
            "response": {"steps": steps, "process_correctness": labels},
            "policy_model": rollout.policy,
            "data_source": DATA_SOURCE[rollout.benchmark],
        }
        lines.append(json.dumps(row))
    atomic_write_text(output / "test.jsonl", "".join(f"{line}\n" for line in lines))
    return len(lines)


@tool("build_process_bench")
def main() -> int:
    """Command line of the tool; returns the exit status."""
    parser = ToolParser(prog="build_process_bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", type=nonempty_path, required=True, help="folder that tools.build_world wrote")
    parser.add_argument("--rollouts", type=nonempty_path, required=True, help="rollouts of its benchmarks")
    parser.add_argument("--output", type=nonempty_path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of samples that are there")
    arguments = parser.parse_args()
    require_writable_folder(arguments.output)
    if (arguments.output / "test.jsonl").exists() and not arguments.overwrite:
        raise FileExistsError(f"{arguments.output} holds samples already; give another folder or --overwrite")
    with RunLock(arguments.output).held(0.0), errors_name(arguments.output):
        count = build_process_bench(arguments.world, arguments.rollouts, arguments.output)
    print(f"{arguments.output}: {count} samples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
