import numpy as np
import pytest
from datasets import Dataset

from datamodules.supervision.split import fingerprint, limit_per_source, split_by_question, strata


@pytest.fixture
def table():
    rows = [
        {"sample_id": f"f:{q}-{s}", "question_key": f"q{q}", "source": "ab"[q % 2], "n": 4 * q + s}
        for q in range(20)
        for s in range(4)
    ]
    return Dataset.from_list(rows)


def test_a_question_is_on_one_side_with_all_its_solutions(table):
    train, validation = split_by_question(table, 0.25, seed=0)
    assert len(set(validation["question_key"])) == 5
    assert not set(validation["question_key"]) & set(train["question_key"])
    assert len(train) == 60
    assert len(validation) == 20
    assert sorted([*train["n"], *validation["n"]]) == list(range(80))
    assert train["n"][:] == sorted(train["n"])


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows(table):
    first = set(split_by_question(table, 0.25, seed=0)[1]["question_key"])
    assert set(split_by_question(table.select(range(79, -1, -1)), 0.25, seed=0)[1]["question_key"]) == first
    assert set(split_by_question(table, 0.25, seed=1)[1]["question_key"]) != first


@pytest.mark.parametrize(("share", "message"), [(0.01, "puts 0 of 20"), (0.99, "puts 20 of 20")])
def test_no_side_may_be_empty(table, share, message):
    with pytest.raises(ValueError, match=message):
        split_by_question(table, share, seed=0)


def test_limit_per_source(table):
    assert limit_per_source(table, None, 0) is table
    limited = limit_per_source(table, 7, 0)
    assert limited["source"][:].count("a") == limited["source"][:].count("b") == 7
    assert limited["n"][:] == sorted(limited["n"])
    assert limited["n"][:] == limit_per_source(table, 7, 0)["n"][:]
    assert limited["n"][:] != limit_per_source(table, 7, 1)["n"][:]
    assert len(limit_per_source(table, 1000, 0)) == 80
    assert set(limit_per_source(table, 3, 0)["n"]) < set(limited["n"])
    with pytest.raises(ValueError, match="max_samples_per_source must be at least 1, got 0"):
        limit_per_source(table, 0, 0)


def with_column(table, name, values):
    return table.add_column(name, np.asarray(values))


def test_limits_of_their_own(table):
    limits = [5 if source == "a" else 0 for source in table["source"]]
    limited = limit_per_source(with_column(table, "limit", limits), None, 0)
    assert limited["source"][:].count("a") == 5
    assert limited["source"][:].count("b") == 40
    both = limit_per_source(with_column(table, "limit", limits), 3, 0)
    assert both["source"][:].count("a") == both["source"][:].count("b") == 3
    assert set(both["n"]) < set(limited["n"])
    unlimited = with_column(table, "limit", [0] * 80)
    assert limit_per_source(unlimited, None, 0) is unlimited


def test_strata(table):
    assert strata(with_column(table, "weight", [1.0] * 80)) is None
    weights = [2.0 if source == "a" else 0.5 for source in table["source"]]
    weights[0] = 1.5
    found = strata(with_column(table, "weight", weights))
    assert sorted((stratum.weight, len(stratum.rows)) for stratum in found) == [(0.5, 40), (1.5, 1), (2.0, 39)]
    assert sorted(np.concatenate([stratum.rows for stratum in found])) == list(range(80))
    for rows, weight in found:
        assert [weights[row] for row in rows] == [weight] * len(rows)
        assert len({table[int(row)]["source"] for row in rows}) == 1


def test_the_fingerprint_tells_rows_weights_and_order(table):
    weighted = with_column(table, "weight", [1.0] * 80)
    same = with_column(table.select(range(80)), "weight", [1.0] * 80)
    others = [
        weighted.select(range(79)),
        weighted.select(range(79, -1, -1)),
        with_column(table, "weight", [1.0] * 79 + [2.0]),
    ]
    assert fingerprint(same) == fingerprint(weighted)
    assert len({fingerprint(each) for each in [weighted, *others]}) == 4
    assert fingerprint(weighted.select(range(40, 80))) == fingerprint(same.select(range(40, 80)))
