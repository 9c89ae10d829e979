r"""Scoring candidates through servers beside the model in this process, in the same run.

The servers hold the exported model that ``--model`` names; a run of the quickstart has all that is needed::

    RUN=runs/quickstart/seed0
    OMP_NUM_THREADS=1 python -m tools.benchmarks.server_scoring --model $RUN/process_reward_model \
        --base_urls http://localhost:8000/v1 --benchmarks $RUN/world/benchmarks --rollouts $RUN/rollouts.jsonl

Every round scores other questions, which no prefix cache knows, by each of the two ways in turn. Medians over the
rounds are printed: steps/s and responses/s. Questions of a round are scored together, as a batch of `visualprm test`.
The status is 1 if a score differs by more than 1e-4, which in float32 none does.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from datamodules.best_of_n import read_best_of_n_datasets
from datamodules.rollouts.question_as_read import question_as_read
from datamodules.storage.files import atomic_write_text
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.process_reward import (
    ProcessRewardModel,
    QuestionWithResponses,
    RewardModelServer,
    ScoredResponses,
)

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Way:
    """One way to score, measured.

    Attributes:
        name: ``in process`` or ``servers``.
        steps_per_second: Median over the rounds.
        responses_per_second: Median over the rounds.
        processor_seconds: Of this process, for all rounds.
        requests: That servers have answered.
        largest_difference: Of a step score, from the model in this process.
    """

    name: str
    steps_per_second: float
    responses_per_second: float
    processor_seconds: float
    requests: int
    largest_difference: float


def read_questions(
    model: ProcessRewardModel, benchmarks: Path, rollouts: Path, candidates: int
) -> list[QuestionWithResponses]:
    """The questions of all benchmarks in turn, each with its candidates."""
    rules = model.protocol.reading_rules
    datasets = read_best_of_n_datasets(benchmarks, rollouts, num_candidates=candidates, rules="file")
    questions = []
    for index in range(max(map(len, datasets.values()))):
        for name, dataset in datasets.items():
            if index < len(dataset):
                item = dataset[index]
                read = question_as_read(item.question, item.rollouts, rules)
                responses = [rollout.response for rollout in item.rollouts]
                questions.append(
                    QuestionWithResponses(read.opened(rules.pictures), read.texts[0], responses, f"{name}/{index}")
                )
    return questions


def _differences(one: Sequence[ScoredResponses], other: Sequence[ScoredResponses]) -> list[float]:
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a.step_scores, b.step_scores, strict=True)]
    return [abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True)]


def measure(models: dict[str, ProcessRewardModel], rounds: Sequence[Sequence[QuestionWithResponses]]) -> list[Way]:
    """Score every round by every model, the first of which is that in this process."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    processor = dict.fromkeys(models, 0.0)
    largest = dict.fromkeys(models, 0.0)
    steps, responses = [], []
    for questions in rounds:
        scored: dict[str, list[ScoredResponses]] = {}
        for name, model in models.items():
            began, of_processor = time.perf_counter(), time.process_time()
            scored[name] = model.score_questions(questions)
            seconds[name].append(time.perf_counter() - began)
            processor[name] += time.process_time() - of_processor
        reference = next(iter(scored.values()))
        for name, found in scored.items():
            largest[name] = max([largest[name], *_differences(reference, found)])
        steps.append(sum(len(each) for of_question in reference for each in of_question.step_scores))
        responses.append(sum(len(of_question.step_scores) for of_question in reference))
    return [
        Way(
            name,
            statistics.median(count / spent for count, spent in zip(steps, seconds[name], strict=True)),
            statistics.median(count / spent for count, spent in zip(responses, seconds[name], strict=True)),
            processor[name],
            model.served.client.usage.requests if model.served else 0,
            largest[name],
        )
        for name, model in models.items()
    ]


@tool("server_scoring")
def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = ToolParser(prog="server_scoring", description="Scoring through servers beside scoring in this process.")
    parser.add_argument("--model", required=True, help="exported reward model, which the servers hold, too")
    parser.add_argument("--base_urls", nargs="+", required=True, help="addresses such as http://localhost:8000/v1")
    parser.add_argument("--benchmarks", type=Path, required=True, help="folder of benchmark tables")
    parser.add_argument("--rollouts", type=Path, required=True, help="file of rollouts")
    parser.add_argument("--candidates", type=int, default=8, help="N of each question")
    parser.add_argument("--questions", type=int, default=8, help="questions of a round, which are scored together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64, help="requests that a server answers at once")
    parser.add_argument("--json", type=Path, help="file for the same as JSON")
    options = parser.parse_args(arguments)

    server = RewardModelServer(options.base_urls, concurrency=options.concurrency)
    models = {
        "in process": ProcessRewardModel.from_pretrained(options.model),
        "servers": ProcessRewardModel.from_pretrained(options.model, server=server),
    }
    questions = read_questions(models["in process"], options.benchmarks, options.rollouts, options.candidates)
    needed = options.questions * (options.rounds + 1)
    if len(questions) < needed:
        raise ValueError(
            f"{options.rounds} rounds and one to warm up need {needed} questions; there are {len(questions)}"
        )
    parts = [questions[start : start + options.questions] for start in range(0, needed, options.questions)]
    measure(models, parts[:1])
    ways = measure(models, parts[1:])
    threads = torch.get_num_threads()
    print(f"{options.rounds} rounds of {options.questions} questions x {options.candidates}; {threads} threads here")
    print(f"{'way':12} {'steps/s':>9} {'responses/s':>12} {'CPU s here':>11} {'requests':>9} {'difference':>11}")
    for way in ways:
        print(
            f"{way.name:12} {way.steps_per_second:9.1f} {way.responses_per_second:12.1f} "
            f"{way.processor_seconds:11.1f} {way.requests:9d} {way.largest_difference:11.1e}"
        )
    if options.json:
        atomic_write_text(options.json, json.dumps([asdict(way) for way in ways], indent=2) + "\n")
    return int(max(way.largest_difference for way in ways) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
