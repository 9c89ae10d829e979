"""Step search beside Best-of-N that samples as many tokens, on all benchmarks.

    python -m tools.search_report beam_search.jsonl --benchmarks DATA/benchmarks --rollouts rollouts.jsonl \
        --scores test/candidate_scores.jsonl --policy checkpoints/policy --output search_report

writes ``equal_tokens.json`` and ``.md``. Tokens of the rollouts are counted with the policy's tokenizer, with one for
the end of each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datamodules.benchmarks import VISUAL_BENCHMARKS
from datamodules.best_of_n import BestOfNDataset, read_best_of_n_datasets
from datamodules.storage import fields
from datamodules.storage.files import atomic_write_text, read_jsonl, require_writable_folder
from lightning_modules.callbacks.candidate_scores import OutcomeScores, response_digest
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import nonempty_path, nonempty_text, whole_number
from lightning_modules.metrics.equal_tokens import SearchedBenchmark, equal_tokens_report
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.selection.pool import candidate_pool
from lightning_modules.metrics.table import print_tables


def sampled_tokens(path: Path) -> dict[tuple[str, str], int]:
    """Tokens that a search has sampled, by benchmark and question.

    Raises:
        ValueError: If a row is not of a search; names file and line.
    """
    found = {}
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        search = row.get("search")
        if not isinstance(search, dict):
            raise ValueError(
                f"{where}: field 'search' is missing: these are no rollouts of lightning_modules.step_search"
            )
        key = fields.text(row, "benchmark", where), fields.text(row, "question_id", where)
        found[key] = fields.integer(search, "sampled_tokens", where, minimum=0)
    return found


def searched_benchmark(
    dataset: BestOfNDataset,
    searches: Sequence[BestOfNDataset],
    tokens: Sequence[dict[tuple[str, str], int]],
    scores: OutcomeScores,
    tokenizer: PreTrainedTokenizerBase,
) -> SearchedBenchmark:
    """Searches and candidates of a benchmark, question by question.

    Raises:
        ValueError: If a search has other questions than the rollouts, or a candidate has no score.
    """
    name = dataset.benchmark.name
    names = [question.question_id for question in dataset.questions]
    correct = np.zeros((len(names), len(searches)))
    for place, search in enumerate(searches):
        chosen = {q.question_id: group[0] for q, group in zip(search.questions, search.rollouts, strict=True)}
        if set(chosen) != set(names):
            raise ValueError(f"{name}: search {place + 1} has other questions than the rollouts; take the same ones")
        correct[:, place] = [chosen[question_id].is_correct for question_id in names]
    candidates, lengths = [], []
    for index, question in enumerate(dataset.questions):
        item = dataset[index]
        texts = [rollout.response for rollout in item.rollouts]
        of_candidates = scores.of(name, question.question_id, [response_digest(text) for text in texts])
        is_correct = [rollout.is_correct for rollout in item.rollouts]
        one_step = [[score] for score in of_candidates]
        candidates.append(
            QuestionCandidates(name, question.question_id, one_step, is_correct, list(item.answer_classes))
        )
        lengths.append([len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]])
    spent = [[of_search[name, question_id] for of_search in tokens] for question_id in names]
    return SearchedBenchmark(
        correct,
        np.array(spent, dtype=float),
        candidate_pool(candidates, len(lengths[0]), ["mean"]),
        np.array(lengths, dtype=float),
        lambda right: dataset.benchmark.unit_scores(dataset.questions, right),
    )


@tool("search_report")
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the tool; returns its exit status."""
    parser = ToolParser(prog="search_report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("searches", type=nonempty_path, nargs="+", help="rollout files of searches, named by the files")
    parser.add_argument("--benchmarks", type=nonempty_path, required=True, help="folder of the benchmarks")
    parser.add_argument("--rollouts", type=nonempty_path, required=True, help="candidates of the same policy")
    parser.add_argument("--scores", type=nonempty_path, required=True, help="their candidate_scores.jsonl of a test")
    parser.add_argument("--policy", type=nonempty_text, required=True, help="folder with the policy's tokenizer")
    parser.add_argument("--candidates", type=whole_number(1), default=8, help="N: candidates of a question")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the bootstrap")
    parser.add_argument("--output", type=nonempty_path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    parsed = parser.parse_args(arguments)
    output: Path = parsed.output
    require_writable_folder(output)
    if (output / "equal_tokens.json").exists() and not parsed.overwrite:
        raise FileExistsError(f"{output} holds a report already; give another folder or --overwrite")
    names = [path.stem for path in parsed.searches]
    if len(set(names)) < len(names):
        raise ValueError(f"two searches are called {max(names, key=names.count)}; rename one of the files")
    tokens = [sampled_tokens(path) for path in parsed.searches]
    present = list(dict.fromkeys(key[0] for each in tokens for key in each))
    datasets = read_best_of_n_datasets(parsed.benchmarks, parsed.rollouts, present, parsed.candidates)
    found = [read_best_of_n_datasets(parsed.benchmarks, path, present, 1) for path in parsed.searches]
    tokenizer = AutoTokenizer.from_pretrained(parsed.policy, trust_remote_code=False)
    scores = OutcomeScores(parsed.scores)
    searched = {
        name: searched_benchmark(dataset, [each[name] for each in found], tokens, scores, tokenizer)
        for name, dataset in datasets.items()
    }
    pictured = [name for name in searched if name in VISUAL_BENCHMARKS]
    report = equal_tokens_report(searched, names, pictured or None, seed=parsed.seed)
    output.mkdir(parents=True, exist_ok=True)
    atomic_write_text(output / "equal_tokens.json", f"{json.dumps(report.to_dict(), indent=2)}\n")
    atomic_write_text(output / "equal_tokens.md", report.to_table().to_markdown())
    print_tables([report.to_table()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
