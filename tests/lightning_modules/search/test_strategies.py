"""Searches worked by hand on trees whose values are given."""

import pytest

from lightning_modules.search.options import SearchOptions
from lightning_modules.search.strategies import BeamSearch, BestFirstSearch
from lightning_modules.search.tree import SearchTree


class Trees:
    """Adds nodes with values."""

    def __init__(self):
        self.tree = SearchTree()

    def add(self, parent, *values, ended=None, groups=None):
        found = []
        for number, value in enumerate(values):
            step = f"{parent.number}.{number}"
            found.append(self.tree.add(parent, step, ended, 3, (groups or [parent.group] * len(values))[number]))
            found[-1].value = value
        return found


@pytest.fixture
def trees():
    return Trees()


def asked(expansions):
    return [(expansion.node.step, expansion.samples, expansion.to_end) for expansion in expansions]


def test_beams_of_equal_length_compete(trees):
    search = BeamSearch(SearchOptions(width=2, expansion=3))
    assert asked(search.next([trees.tree.root])) == [("", 6, False)]
    first = trees.add(trees.tree.root, 0.3, 0.9, 0.5, 0.1)
    assert asked(search.next(first)) == [("0.1", 3, False), ("0.2", 3, False)]
    # Of the children of both, the two best are from the second beam; one of them has ended and keeps its place.
    of_best, of_second = trees.add(first[1], 0.2, 0.1), trees.add(first[2], 0.8, 0.4)
    (ended,) = trees.add(first[2], 0.6, ended="stop")
    assert [expansion.node for expansion in search.next([*of_best, *of_second, ended])] == [of_second[0]]
    # The finished solution (0.6) loses its place to two better beginnings.
    third = trees.add(of_second[0], 0.7, 0.65)
    assert [expansion.node for expansion in search.next(third)] == third
    finished = trees.add(third[0], 0.9, ended="stop") + trees.add(third[1], 0.8, ended="length")
    assert search.next(finished) == []
    assert [node.is_kept for node in (*finished, ended, *of_best)] == [True, True, True, False, False]


def test_equal_values_keep_the_earlier_one(trees):
    search = BeamSearch(SearchOptions(width=1, expansion=2))
    first = trees.add(trees.tree.root, 0.5, 0.5)
    search.next([trees.tree.root])
    assert [expansion.node for expansion in search.next(first)] == [first[0]]


def test_groups_do_not_compete(trees):
    search = BeamSearch(SearchOptions(width=2, expansion=2, groups=2))
    search.next([trees.tree.root])
    first = trees.add(trees.tree.root, 0.9, 0.1, 0.8, 0.2, groups=[0, 1, 0, 1])
    # Of one group the best two are first and third; of two groups the first and the fourth.
    assert asked(search.next(first)) == [("0.0", 2, False), ("0.3", 2, False)]


def test_best_first_goes_on_from_any_length(trees):
    search = BestFirstSearch(SearchOptions(method="best_first", expansion=2, solutions=2, max_expansions=9))
    assert asked(search.next([trees.tree.root])) == [("", 2, False)]
    first = trees.add(trees.tree.root, 0.6, 0.7)
    assert asked(search.next(first)) == [("0.1", 2, False)]
    second = trees.add(first[1], 0.5, 0.4)
    # The children are worse than the first step that was left before.
    assert asked(search.next(second)) == [("0.0", 2, False)]
    third = trees.add(first[0], 0.55) + trees.add(first[0], 0.9, ended="stop")
    assert [expansion.node for expansion in search.next(third)] == [third[0]]
    # A second solution, and it is over.
    assert search.next(trees.add(third[0], 0.1, ended="stop")) == []


def test_best_first_that_has_spent_its_expansions_writes_one_solution(trees):
    search = BestFirstSearch(SearchOptions(method="best_first", expansion=2, max_expansions=1))
    search.next([trees.tree.root])
    first = trees.add(trees.tree.root, 0.6, 0.7)
    assert asked(search.next(first)) == [("0.1", 1, True)]
    assert search.next(trees.add(first[1], 0.1, ended="length")) == []


def test_texts_and_tokens_of_a_path(trees):
    (first,) = trees.add(trees.tree.root, 0.5)
    (second,) = trees.add(first, 0.5)
    end = trees.tree.add(second, "", "stop", 1, 0)
    assert end.text == "0.0\n\n1.0"
    assert (end.depth, end.path_tokens) == (3, 7)
    assert trees.tree.add(first, "1.0", None, 3, 0) is second
    assert second.samples == 2
    assert trees.tree.finished == [end]
    assert [node["parent"] for node in trees.tree.record()["nodes"]] == [None, 0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "search.width must be at least 1"),
        ({"width": 4, "groups": 3}, r"search.groups \(3\) must divide search.width \(4\)"),
        ({"lookahead": -1}, "search.lookahead"),
        ({"method": "depth_first"}, "beam or best_first"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SearchOptions(**options)
