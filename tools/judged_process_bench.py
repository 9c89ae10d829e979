"""Step F1 of a judge on VisualProcessBench, from the rows that it wrote.

    python -m tools.judged_process_bench judged.jsonl --visual-process-bench DATA/VisualProcessBench --output judge

writes what ``visualprm test`` writes of a reward model: ``process_bench_test.json`` and ``.md``, and the scores of all
steps. A step without a verdict counts as judged wrong; how many there are is said.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.policy.process_bench_prompts import prompt_id
from datamodules.process_bench.solutions import JudgedSolution, read_visual_process_bench
from datamodules.process_bench.totals import count_steps, coverage_sentence, differences_from_release
from datamodules.storage.files import atomic_write_text, require_writable_folder
from lightning_modules.callbacks.step_scores import STEP_SCORES, write_step_scores
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import nonempty_path, number
from lightning_modules.metrics.step_report import ScoredSolution, step_report
from lightning_modules.metrics.step_report_table import step_report_markdown, step_report_tables
from lightning_modules.metrics.step_threshold import StepThreshold
from lightning_modules.metrics.table import print_tables
from tools.judge_scores import JudgedSteps, judged_steps


def scored_solutions(
    solutions: Sequence[JudgedSolution], judged: dict[str, JudgedSteps], allow_missing: bool = False
) -> list[ScoredSolution]:
    """The solutions with the scores of a judge.

    Args:
        solutions: Of VisualProcessBench.
        judged: Rows of the judge by id.
        allow_missing: Take a solution without a row for one without any verdict.

    Raises:
        ValueError: If a solution has no row, or one of other steps; names the first and says how many there are.
    """
    found, missing, others = [], [], []
    for solution in solutions:
        row = judged.get(f"{prompt_id(solution.sample_id)}/0")
        if row is None and allow_missing:
            scores = [0.0] * len(solution.steps)
            found.append(ScoredSolution(solution.sample_id, solution.data_source, scores, list(solution.correctness)))
        elif row is None:
            missing.append(solution.sample_id)
        elif len(row.of_steps) != len(solution.steps) or row.response.split() != " ".join(solution.steps).split():
            others.append(solution.sample_id)
        else:
            scores = [score or 0.0 for score in row.of_steps]
            found.append(ScoredSolution(solution.sample_id, solution.data_source, scores, list(solution.correctness)))
    for problem, names in (("were not judged", missing), ("have other steps than were judged", others)):
        if names:
            advice = "; --allow-missing counts them as judged wrong" if names is missing else ""
            raise ValueError(f"{len(names)} of {len(solutions)} solutions {problem}, the first is {names[0]}{advice}")
    return found


@tool("judged_process_bench")
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the tool; returns its exit status."""
    parser = ToolParser(prog="judged_process_bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("judged", type=nonempty_path, help="rows that StepJudge wrote of data.visual_process_bench")
    parser.add_argument("--visual-process-bench", type=nonempty_path, required=True, help="folder with test.jsonl")
    parser.add_argument("--threshold", type=number(0, 1), default=0.5, help="least score of a correct step")
    parser.add_argument("--allow-missing", action="store_true", help="solutions without a row count as judged wrong")
    parser.add_argument("--output", type=nonempty_path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    parsed = parser.parse_args(arguments)
    output: Path = parsed.output
    if parsed.threshold == 0:
        raise ValueError("--threshold 0 would take steps without a verdict for right; give more than 0")
    require_writable_folder(output)
    if (output / "process_bench_test.json").exists() and not parsed.overwrite:
        raise FileExistsError(f"{output} holds a report already; give another folder or --overwrite")
    solutions = read_visual_process_bench(parsed.visual_process_bench)
    scored = scored_solutions(solutions, judged := judged_steps(parsed.judged), parsed.allow_missing)
    total = sum(len(each.scores) for each in scored)
    with_verdict = sum(len(row.of_steps) - row.unjudged for row in judged.values())
    unjudged = total - with_verdict
    report = step_report(scored, StepThreshold(parsed.threshold), others=[None])
    totals = count_steps((solution.data_source, solution.correctness) for solution in solutions)
    coverage = f"{coverage_sentence(totals)} {unjudged} of {total} steps have no verdict, and count as judged wrong."
    head = {
        "run": "test",
        "is_released_set": not differences_from_release(totals),
        "coverage": coverage,
        "steps_without_verdict": unjudged,
    }
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(head | report.to_dict(), indent=2, allow_nan=False)
    atomic_write_text(output / "process_bench_test.json", f"{text}\n")
    atomic_write_text(output / "process_bench_test.md", step_report_markdown(report, coverage))
    write_step_scores(output / STEP_SCORES, scored)
    print_tables(step_report_tables(report, coverage))
    return 0


if __name__ == "__main__":
    sys.exit(main())
