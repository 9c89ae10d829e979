"""Trees of a step search: each way from the root to a leaf is shown as a solution of its question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.conversation.steps import STEP_SEPARATOR
from datamodules.storage import fields
from datamodules.storage.files import read_jsonl
from tools.view.best_of_n import Benchmarks, candidate_questions
from tools.view.contents import Question, Solution


def searched_questions(path: Path, benchmarks: Benchmarks | None = None) -> list[Question]:
    """Questions with what a search has written: finished solutions with response scores, and beginnings it has dropped.

    Args:
        path: Rollout file of a search.
        benchmarks: See :func:`tools.view.best_of_n.candidate_questions`.

    Raises:
        ValueError: If a tree is malformed; names file and line. See also :func:`candidate_questions`.
    """
    trees: dict[tuple[str, str], list[Solution]] = {}
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        key = fields.text(row, "benchmark", where), fields.text(row, "question_id", where)
        search = fields.required(row, "search", where)
        response = fields.text(row, "response", where, blank=True)
        scores.setdefault(key, {})[response] = fields.number(search, "response_score", where)
        if "tree" in search:
            nodes = fields.items(search["tree"], "nodes", where, "search.tree.")
            trees[key] = [_way(nodes, leaf, where) for leaf in _leaves(nodes)]
    found = []
    for question in candidate_questions(path, None, benchmarks):
        key = question.benchmark, question.question_id
        chosen = {STEP_SEPARATOR.join(solution.steps): solution for solution in question.solutions}
        ways = []
        for way in trees.get(key, []):
            text = STEP_SEPARATOR.join(way.steps)
            written = chosen.get(text)
            if written is not None:  # as a row, which has a verdict
                way = replace(
                    way,
                    score=scores[key].get(text),
                    answer=written.answer,
                    is_right=written.is_right,
                    answer_class=written.answer_class,
                )
            ways.append(way)
        written_ways = [number for number, way in enumerate(ways) if way.score is not None]
        best = max(written_ways, key=lambda number: ways[number].score or 0.0, default=None)
        found.append(replace(question, solutions=ways or question.solutions, chosen=best))
    return found


def _leaves(nodes: Sequence[Mapping[str, Any]]) -> list[int]:
    inner = {node["parent"] for node in nodes}
    return [number for number, node in enumerate(nodes) if number not in inner and node["parent"] is not None]


def _way(nodes: Sequence[Mapping[str, Any]], leaf: int, where: str) -> Solution:
    """The steps from the root to a leaf."""
    path: list[Mapping[str, Any]] = []
    number: int | None = leaf
    while number is not None:
        if not (isinstance(number, int) and 0 <= number < len(nodes)) or len(path) > len(nodes):
            raise ValueError(f"{where}: field 'search.tree.nodes' has a parent {number!r} that is none")
        path.append(nodes[number])
        number = nodes[number]["parent"]
    steps = [node for node in path[-2::-1] if node["step"]]
    last = nodes[leaf]
    kind = "finished" if last["ended"] else "dropped" if not last["is_kept"] else "left"
    return Solution(
        name=f"{kind} {leaf}",
        steps=[node["step"] for node in steps],
        scores=[node["score"] for node in steps],
    )
