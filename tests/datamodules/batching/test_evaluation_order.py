"""Evaluation batches are those of a single process, distributed whole, equally many to each rank."""

from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from datamodules.batching.evaluation_order import EvaluationSampler, evaluation_loader


def batches_of(length, batch_size, ranks, rank):
    rows = list(range(length))
    sampler = EvaluationSampler(rows, batch_size, ranks, rank)
    loader = DataLoader(rows, batch_size, sampler=sampler, collate_fn=list)
    batches = list(loader)
    assert len(loader) == len(batches)
    return batches


@given(length=st.integers(0, 40), batch_size=st.integers(1, 7), ranks=st.integers(1, 9))
def test_batches_of_all_ranks(length, batch_size, ranks):
    alone = [list(range(length))[begin : begin + batch_size] for begin in range(0, length, batch_size)]
    of_ranks = [batches_of(length, batch_size, ranks, rank) for rank in range(ranks)]
    assert {len(batches) for batches in of_ranks} == {-(-len(alone) // ranks)}
    every = [batch for batches in of_ranks for batch in batches]
    assert all(batch in alone for batch in every)
    assert all(batch in every for batch in alone)
    # No more copies than are needed for that.
    assert len(every) - len(alone) < ranks


def test_seven_questions_for_two_ranks():
    assert batches_of(7, 2, 2, 0) == [[0, 1], [4, 5]]
    assert batches_of(7, 2, 2, 1) == [[2, 3], [6]]
    assert batches_of(5, 2, 2, 1) == [[2, 3], [0, 1]]
    assert batches_of(1, 2, 3, 2) == [[0]]


def test_without_a_trainer_rows_stay_in_order():
    loader = evaluation_loader(range(5), 2, list, 0, None)
    assert list(loader) == [[0, 1], [2, 3], [4]]
