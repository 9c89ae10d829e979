"""A tree made by hand: two finished solutions, of which one is a row, and a beginning that was dropped."""

import json

import pytest

from datamodules.rollouts.records import Rollout, rollout_row
from tools.view.inputs import find_inputs
from tools.view.search_trees import searched_questions

NODES = [
    {"parent": None, "step": "", "ended": None, "score": None, "is_kept": False},
    {"parent": 0, "step": "one", "ended": None, "score": 0.75, "is_kept": True},
    {"parent": 0, "step": "two", "ended": None, "score": 0.25, "is_kept": False},
    {"parent": 1, "step": "three", "ended": "stop", "score": 0.5, "is_kept": True},
    {"parent": 1, "step": "", "ended": "stop", "score": 0.75, "is_kept": True},
]


def rows(nodes):
    row = rollout_row(Rollout("MMMU", "q", 0, "one\n\nthree", "3", True, "p", 1.0, 1.0, 64, 0, prompt="How many?"))
    return [row | {"search": {"response_score": 0.625, "sampled_tokens": 9, "tree": {"nodes": nodes}}}]


def test_ways_through_a_tree(tmp_path, write_lines):
    path = write_lines(tmp_path / "rows.jsonl", rows(NODES))
    assert find_inputs([path]).searches == path
    (question,) = searched_questions(path)
    assert (question.benchmark, question.question_id, question.text) == ("MMMU", "q", "How many?")
    shown = [(each.name, each.steps, each.scores, each.score, each.is_right) for each in question.solutions]
    assert shown == [
        ("dropped 2", ["two"], [0.25], None, None),
        ("finished 3", ["one", "three"], [0.75, 0.5], 0.625, True),
        ("finished 4", ["one"], [0.75], None, None),
    ]
    # What the search has given is the model's choice, though other ways have no response score.
    assert question.picks() == {"model": 1}


def test_a_tree_that_is_none(tmp_path, write_lines):
    nodes = json.loads(json.dumps(NODES))
    nodes[3]["parent"] = 7
    path = write_lines(tmp_path / "rows.jsonl", rows(nodes))
    with pytest.raises(ValueError, match=r"rows.jsonl:1: .* has a parent 7 that is none"):
        searched_questions(path)
