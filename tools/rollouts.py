r"""Rollout files: import from other tools, check against the benchmarks, export for other tools.

Examples::

    # Eight prediction files of VLMEvalKit become the samples 0 to 7.
    python -m tools.rollouts import --benchmarks data/benchmarks --benchmark MathVista --policy InternVL2_5-8B \
        --temperature 0.7 --output rollouts/mathvista.jsonl outputs/sample*/InternVL2_5-8B_MathVista_MINI.xlsx
    # What the authors of a benchmark published, graded by their own rules.
    python -m tools.rollouts import --benchmarks MATH-V --benchmark MathVision --policy Qwen-VL-Max --rules official \
        --output rollouts/qwen.jsonl MATH-V/outputs/closed-source/Qwen/Qwen-VL-Max.jsonl
    # Is every question there with 8 candidates, nothing twice, every verdict that of the present rules?
    python -m tools.rollouts check rollouts/mathvista.jsonl --benchmarks data/benchmarks --candidates 8
    # What a judge said about the steps becomes a critic's scores, for `BestOfN` to compare with.
    python -m tools.rollouts scores judged.jsonl --rollouts rollouts/mathvista.jsonl --output judge_scores.jsonl
    # What the reward model picked, for VLMEvalKit to score.
    python -m tools.rollouts export rollouts/mathvista.jsonl --benchmarks data/benchmarks --benchmark MathVista \
        --candidate-scores runs/test/candidate_scores.jsonl --output InternVL2_5-8B_MathVista_MINI.xlsx

JSON lines are imported, too: rows of ``question_id`` (or ``index``, ``id``) and ``response`` (or a list of
``responses``), and the JSON files of responses that the authors of MathVista, MMMU, LogicVista and others publish.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from datamodules.benchmarks import (
    BENCHMARKS,
    Benchmark,
    BenchmarkOptions,
    BenchmarkQuestion,
    Rules,
    make_benchmark,
)
from datamodules.best_of_n import check_readable
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.rollouts.check import RolloutCheck, check_rollouts
from datamodules.rollouts.from_other_tools import Origin, import_responses
from datamodules.rollouts.prediction_tables import write_predictions
from datamodules.rollouts.question_as_read import with_prompts
from datamodules.rollouts.records import MAX_SAMPLES, Rollout, read_rollouts, write_rollouts
from datamodules.rollouts.responses import read_responses
from datamodules.rollouts.to_vlmevalkit import prediction_rows, sample_of_each
from datamodules.storage.bad_rows import MAX_BAD_ROWS, BadRows, OnBadRow
from datamodules.storage.fields import first_of
from datamodules.storage.files import require_writable_file
from lightning_modules.callbacks.candidate_scores import (
    OutcomeScores,
    read_candidate_scores,
    response_digest,
    write_candidate_scores,
)
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import nonempty_path, nonempty_text, number, whole_number
from tools.combined_scores import combined_scores
from tools.judge_scores import judge_scores, judged_steps
from tools.reading_facts import reading_facts


def import_rollouts(arguments: argparse.Namespace) -> int:
    """The command ``import``; 0 if it went well."""
    benchmark = _benchmark(arguments.benchmark, arguments)
    questions = benchmark.read(arguments.benchmarks, images="optional")
    responses = read_responses(
        arguments.files,
        benchmark,
        arguments.benchmarks,
        arguments.first_sample_index,
        arguments.on_bad_row,
        arguments.max_bad_rows,
    )
    names = ("policy", "temperature", "top_p", "max_new_tokens", "seed")
    origin = Origin(**{name: getattr(arguments, name) for name in names})
    found = import_responses(responses, benchmark, questions, arguments.benchmarks, origin, arguments.on_bad_row)
    if arguments.prompts_as:
        found.rollouts = with_prompts(found.rollouts, benchmark, questions, arguments.prompts_as)
    check = check_rollouts(benchmark, questions, found.rollouts)
    if check.repeated:
        raise ValueError("; ".join(check.broken))
    write_rollouts(arguments.output, found.rollouts)
    print(f"{arguments.output}: {_summary(check)}")
    for line in [*found.notes, *check.problems]:
        print(f"  {line}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """The command ``check``; 1 if there is a problem."""
    bad = BadRows(arguments.on_bad_row, max_bad_rows=1.0)  # all of them are a result
    rollouts = read_rollouts(arguments.rollouts, bad)
    present = dict.fromkeys(rollout.benchmark for rollout in rollouts)
    unknown = [name for name in present if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"{arguments.rollouts}: unknown benchmarks {unknown}; known are {', '.join(BENCHMARKS)}")
    wanted = arguments.names or present
    present_rows: list[Rollout] = []
    encoder = reading_facts(arguments.model).encoder if arguments.model else None
    has_problems = bool(bad.problems)
    for name in (name for name in BENCHMARKS if name in wanted):
        benchmark = _benchmark(name, arguments)
        questions = benchmark.read(arguments.benchmarks, images="optional")
        found = check_rollouts(benchmark, questions, rollouts, arguments.candidates, arguments.rules)
        present_rows += [rollout for group in found.graded.values() for rollout in group]
        print(f"{name}: {_summary(found)}")
        problems = found.problems
        if encoder is not None:
            problems += _unreadable(questions, found, encoder)
        for line in problems:
            print(f"  {line}")
        has_problems = has_problems or bool(problems)
    if arguments.write:
        left_out = len(rollouts) - len(present_rows)
        write_rollouts(arguments.write, present_rows)
        print(f"{arguments.write}: {len(present_rows)} rollouts with the present verdicts; {left_out} are left out")
    return int(has_problems)


def export(arguments: argparse.Namespace) -> int:
    """The command ``export``; 0 if it went well."""
    benchmark = _benchmark(arguments.benchmark, arguments)
    questions = benchmark.read(arguments.benchmarks, images="optional")
    rollouts = read_rollouts(arguments.rollouts, BadRows(arguments.on_bad_row, arguments.max_bad_rows))
    found = check_rollouts(benchmark, questions, rollouts, arguments.candidates)
    if not found.groups:
        raise ValueError(f"{arguments.rollouts}: holds no rollouts of {benchmark.name}")
    if found.in_doubt or (found.unknown and arguments.on_bad_row == "error"):
        raise ValueError("; ".join(found.broken))
    if arguments.candidate_scores is None:
        chosen = sample_of_each(found.groups, arguments.sample_index)
    else:
        if found.incomplete:
            raise ValueError("; ".join(found.broken))
        chosen = _best_candidates(benchmark, found, arguments.candidate_scores)
    rows = prediction_rows(benchmark, arguments.benchmarks, chosen)
    write_predictions(arguments.output, rows)
    print(f"{arguments.output}: {len(rows)} predictions on {benchmark.name}")
    for line in (found.foreign, found.absent):
        if line:
            print(f"  {line}")
    return 0


def _unreadable(questions: Sequence[BenchmarkQuestion], found: RolloutCheck, encoder: ConversationEncoder) -> list[str]:
    """A line about the questions that a test of a model would leave out for their texts, if there are any."""
    unreadable = BadRows()
    for question in questions:
        try:
            check_readable(question, found.groups.get(question.question_id, []), encoder)
        except ValueError as error:
            unreadable.add(error)
    lines = unreadable.problems
    return [f"{len(lines)} questions cannot be read by this model: {first_of(lines, '; ')}"] if lines else []


def _benchmark(name: str, arguments: argparse.Namespace) -> Benchmark:
    options = BenchmarkOptions(
        split=arguments.split, allow_incomplete=arguments.allow_incomplete, on_bad_row=arguments.on_bad_row
    )
    return make_benchmark(name, arguments.rules or "ours", {name: options})


def _best_candidates(benchmark: Benchmark, found: RolloutCheck, path: Path) -> dict[str, Rollout]:
    """The candidate with the highest score of each question, in a tie the first, as Best-of-N picks it."""
    scores = OutcomeScores(path)
    chosen = {}
    for name, group in found.groups.items():
        candidates = group[: found.num_candidates]
        of_candidates = scores.of(benchmark.name, name, [response_digest(rollout.response) for rollout in candidates])
        chosen[name] = candidates[of_candidates.index(max(of_candidates))]
    return chosen


def _summary(found: RolloutCheck) -> str:
    sizes = [len(group) for group in found.groups.values()]
    span = f"{min(sizes)} to {max(sizes)}" if sizes and min(sizes) != max(sizes) else str(max(sizes, default=0))
    right = sum(rollout.is_correct for group in found.graded.values() for rollout in group)
    total = max(1, sum(sizes))
    return (
        f"{len(sizes)} of {found.num_questions} questions, {found.num_rollouts} rollouts, {span} a question; "
        f"{100 * right / total:.1f} % right by the present rules ({found.num_graded} graded anew)"
    )


def scores(arguments: argparse.Namespace) -> int:
    """The command ``scores``; 0 if it went well."""
    judged = judged_steps(arguments.judged, arguments.score)
    try:
        rows = judge_scores(judged, read_rollouts(arguments.rollouts))
    except ValueError as error:
        raise ValueError(f"{arguments.rollouts} and {arguments.judged}: {error}") from error
    write_candidate_scores(arguments.output, rows)
    unjudged = sum(steps.unjudged for steps in judged.values())
    total = unjudged + sum(len(steps.scores) for steps in judged.values())
    has_steps = unjudged or total > len(judged)
    steps = f"; {unjudged} of {total} steps have no verdict" if has_steps else ""
    print(f"{arguments.output}: scores of {len(rows)} rollouts{steps}")
    return 0


def combine(arguments: argparse.Namespace) -> int:
    """The command ``combine``; 0 if it went well."""
    model, other = (read_candidate_scores(path) for path in (arguments.scores, arguments.other))
    rows = combined_scores(model, other, arguments.weight)
    write_candidate_scores(arguments.output, rows)
    print(f"{arguments.output}: combined scores of {len(rows)} candidates")
    return 0


@tool("visualprm-rollouts")
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the tool; returns its exit status."""
    parser = ToolParser(
        prog="visualprm-rollouts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    adder = commands.add_parser("import", help="make a rollout file of files of another tool")
    adder.add_argument(
        "files", type=nonempty_path, nargs="+", help="prediction files (.tsv, .xlsx), a sample each, or .jsonl, .json"
    )
    adder.add_argument("--benchmark", choices=BENCHMARKS, required=True)
    adder.add_argument("--policy", type=nonempty_text, required=True, help="name of the model that wrote the responses")
    adder.add_argument("--temperature", type=number(0), help="of sampling, if it is known, as the next three")
    adder.add_argument("--top-p", type=number(0, 1))
    adder.add_argument("--max-new-tokens", type=whole_number(1))
    adder.add_argument("--seed", type=whole_number(-1, 2**63 - 1))
    adder.add_argument(
        "--prompts-as",
        choices=["ours", "vlmevalkit"],
        help="who asked the policy, for reward models that read questions as they were asked",
    )
    adder.add_argument(
        "--first-sample-index", type=whole_number(0, MAX_SAMPLES - 1), default=0, help="of the first file"
    )
    adder.add_argument("--output", type=nonempty_path, required=True, help="rollout file to write")
    adder.set_defaults(run=import_rollouts)

    checker = commands.add_parser("check", help="compare rollouts with the benchmarks; status 1 if something is wrong")
    checker.add_argument("rollouts", type=nonempty_path, help="rollout file, or folder of them")
    checker.add_argument("--names", choices=BENCHMARKS, nargs="+", help="of benchmarks; those in the file by default")
    checker.add_argument(
        "--candidates",
        type=whole_number(1, MAX_SAMPLES),
        help="N that every question must have; the most found by default",
    )
    checker.add_argument(
        "--model", type=nonempty_text, help="also find what the tokenizer of this reward model cannot read"
    )
    checker.add_argument(
        "--write", type=nonempty_path, help="rollout file to write, with the verdicts of the present rules"
    )
    checker.set_defaults(run=check)

    exporter = commands.add_parser("export", help="write a prediction file of VLMEvalKit")
    exporter.add_argument("rollouts", type=nonempty_path, help="rollout file, or folder of them")
    exporter.add_argument("--benchmark", choices=BENCHMARKS, required=True)
    choice = exporter.add_mutually_exclusive_group(required=True)
    choice.add_argument(
        "--sample-index", type=whole_number(0, MAX_SAMPLES - 1), help="the sample of each question to export"
    )
    choice.add_argument(
        "--candidate-scores", type=nonempty_path, help="export the best candidate by these scores of a test"
    )
    exporter.add_argument(
        "--candidates", type=whole_number(1, MAX_SAMPLES), help="only the first so many; the most found by default"
    )
    exporter.add_argument(
        "--output", type=nonempty_path, required=True, help="prediction file to write (.tsv or .xlsx)"
    )
    exporter.set_defaults(run=export)

    scorer = commands.add_parser("scores", help="what a judge or another critic says as scores for Best-of-N")
    scorer.add_argument("judged", type=nonempty_path, help="rows that it wrote with solutions_from=ROLLOUTS")
    scorer.add_argument(
        "--score", type=nonempty_text, help="which score, where rows have several; the first by default"
    )
    scorer.add_argument("--rollouts", type=nonempty_path, required=True, help="the rollouts that were judged")
    scorer.add_argument("--output", type=nonempty_path, required=True, help="file of candidate scores to write")
    scorer.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    scorer.set_defaults(run=scores)

    combiner = commands.add_parser("combine", help="scores of a reward model and of another critic as one critic")
    combiner.add_argument("scores", type=nonempty_path, help="candidate scores of the reward model, in [0, 1]")
    combiner.add_argument("--with", dest="other", type=nonempty_path, required=True, help="those of the other critic")
    combiner.add_argument("--weight", type=number(0), default=1.0, help="of the other critic; the model has 1")
    combiner.add_argument("--output", type=nonempty_path, required=True, help="file of candidate scores to write")
    combiner.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    combiner.set_defaults(run=combine)

    for command in (adder, exporter):
        command.add_argument(
            "--max-bad-rows",
            type=number(0, 1),
            default=MAX_BAD_ROWS,
            help="largest share of rows to leave out; more are an error (%(default)g by default)",
        )
    for command in (adder, checker, exporter):
        command.add_argument(
            "--on-bad-row",
            choices=get_args(OnBadRow),
            default="skip",
            help="leave out rows that cannot be used and name them (the default), or stop at the first one",
        )
        command.add_argument(
            "--benchmarks", type=nonempty_path, required=True, help="folder of the benchmark tables or datasets"
        )
        command.add_argument("--overwrite", action="store_true", help="replace a file that is there")
        command.add_argument("--split", type=nonempty_text, help="of the benchmark; the one of the paper by default")
        command.add_argument("--allow-incomplete", action="store_true", help="of seeds and groups of questions")
        command.add_argument(
            "--rules", choices=get_args(Rules), help="of verdicts; those of the file by default, or ours"
        )
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for name in ("output", "write"):
        if (file := getattr(parsed, name, None)) is not None:
            require_writable_file(file)
            if file.exists() and not parsed.overwrite:
                raise FileExistsError(f"{file} is there already; give another file or --overwrite")
    return int(parsed.run(parsed))


if __name__ == "__main__":
    raise SystemExit(main())
