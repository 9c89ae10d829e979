import math

import pytest
from datasets import Dataset

from datamodules.supervision.selection import RowSelection, balanced_information, select_rows

NAN = math.nan
ROWS = [
    # source, Monte Carlo scores, continuations
    ("a", [1.0, 0.5, 0.0, 0.0], [16, 16, 16, 1]),  # half of the steps are right
    ("a", [1.0, 1.0, 1.0, 1.0], [16, 16, 16, 1]),  # all are
    ("a", [0.0, 0.0], [16, 1]),  # none is
    ("a", [0.25, NAN, 0.0], [16, 0, 16]),  # one of two
    ("b", [0.25, 1.0, 0.0], [16, 1, 16]),
    ("b", [0.25, 0.25, 0.25], [-1, -1, -1]),
]


@pytest.fixture
def table():
    columns = {name: [row[number] for row in ROWS] for number, name in enumerate(("source", "mc", "num_mc_total"))}
    return Dataset.from_dict(columns | {"sample_id": [f"f:{number}" for number in range(len(ROWS))]})


def by_hand(mc, counts, alpha, threshold=0.0):
    scored = [value for value in mc if not math.isnan(value)]
    right = [(value, count) for value, count in zip(mc, counts, strict=True) if value > threshold]
    share = len(right) / len(scored)
    mean = sum(value * count for value, count in right) / sum(count for _, count in right) if right else 0.0
    return (share * (1 - share) + alpha) * mean


def test_the_score_by_hand(table):
    assert balanced_information(table, 0.05)[0] == pytest.approx((0.5 * 0.5 + 0.05) * 0.75)
    assert balanced_information(table, 0.05)[1] == pytest.approx(0.05)
    assert balanced_information(table, 0.05)[2] == 0
    assert balanced_information(table, 0.05)[3] == pytest.approx((0.5 * 0.5 + 0.05) * 0.25)
    for alpha, threshold in ((0.05, 0.0), (0.0, 0.0), (1.0, 0.3)):
        expected = [by_hand(mc, [1] * len(mc), alpha, threshold) for _, mc, _ in ROWS]
        assert balanced_information(table, alpha, threshold).tolist() == pytest.approx(expected)


def test_scores_that_count_as_often_as_they_were_continued(table):
    expected = [by_hand(mc, [max(count, 1) for count in counts], 0.05) for _, mc, counts in ROWS]
    found = balanced_information(table, 0.05, weigh_by_counts=True).tolist()
    assert found == pytest.approx(expected)
    # 17 continuations, 5 of them right, instead of the mean of 1/4 and 1.
    assert found[4] == pytest.approx((2 / 9 + 0.05) * 5 / 17)


def test_selected_rows(table):
    def chosen(share, **options):
        return [int(name[2:]) for name in select_rows(table, RowSelection(share, **options), seed=0)["sample_id"]]

    assert chosen(0.5) == [0, 3, 4]  # of each source the better half
    assert chosen(0.5, within_sources=False) == [0, 3, 4]
    assert chosen(1 / 6, within_sources=False) == [0]
    assert chosen(0.01) == [0, 4]  # at least one of each
    assert chosen(1.0) == list(range(6))


def test_random_rows_depend_on_the_seed_alone(table):
    def chosen(seed, rows=table):
        return set(select_rows(rows, RowSelection(0.5, "random", within_sources=False), seed)["sample_id"])

    assert all(len(chosen(seed)) == 3 for seed in range(5))
    assert len({frozenset(chosen(seed)) for seed in range(20)}) > 5
    assert chosen(0, table.select(range(5, -1, -1))) == chosen(0)


@pytest.mark.parametrize(
    "options", [{"share": 0}, {"share": 1.5}, {"by": "bis"}, {"alpha": -1}, {"threshold": 1.0}], ids=str
)
def test_what_is_no_selection(options):
    with pytest.raises(ValueError, match=f"selection.{next(iter(options))} must be"):
        RowSelection(**{"share": 0.5} | options)
