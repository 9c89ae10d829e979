from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples

from datamodules.batching.order import LazyLoader, TrainingSampler
from datamodules.batching.position import EpochStart
from datamodules.supervision.split import Stratum


def order(length, batch_size, epoch=0, **options):
    sampler = TrainingSampler(range(length), batch_size, **options)
    sampler.set_epoch(epoch)
    indices = list(sampler)
    return indices


def test_every_epoch_has_an_order_of_its_own():
    first, second = order(12, 4), order(12, 4, epoch=1)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert first == order(12, 4)
    assert first != order(12, 4, seed=1)
    assert order(12, 4, epoch=1) != order(12, 4, seed=1)


def test_only_whole_batches():
    assert len(order(11, 4)) == 8
    assert len(TrainingSampler(range(11), 4)) == 8
    assert sorted(order(3, 4)) == [0, 1, 2]
    seen = Counter(index for epoch in range(20) for index in order(11, 4, epoch=epoch))
    assert set(seen) == set(range(11))


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_it_goes_on_after_the_batches_that_are_done(done):
    assert order(12, 4, start=lambda epoch: EpochStart(done * 4)) == order(12, 4)[done * 4 :]


def test_ranks_share_each_batch():
    whole = order(24, 8)
    parts = [order(24, 4, num_replicas=2, rank=rank) for rank in range(2)]
    for batch in range(3):
        together = {index for part in parts for index in part[batch * 4 : batch * 4 + 4]}
        assert together == set(whole[batch * 8 : batch * 8 + 8])
    resumed = [order(24, 4, num_replicas=2, rank=rank, start=lambda epoch: EpochStart(16)) for rank in range(2)]
    assert resumed == [part[8:] for part in parts]


def test_too_few_samples():
    with pytest.raises(ValueError, match="1 training samples are too few for 2 ranks"):
        TrainingSampler(range(1), 4, num_replicas=2)


def test_the_loader_asks_for_nothing_before_its_first_batch():
    asked = []

    def start(epoch):
        asked.append(epoch)
        return EpochStart(4)

    sampler = TrainingSampler(range(12), 4, start=start)
    iterator = iter(LazyLoader(range(12), 4, sampler=sampler, num_workers=1))
    assert not asked
    sampler.set_epoch(3)
    batches = [batch.tolist() for batch in iterator]
    assert [index for batch in batches for index in batch] == order(12, 4, epoch=3)[4:]
    assert asked == [3]


def halves(first_weight, second_weight):
    """Twelve rows in two strata of eight and four."""
    return [Stratum(np.arange(8), first_weight), Stratum(np.arange(8, 12), second_weight)]


def test_weights_say_how_often_rows_are_seen():
    seen = Counter(order(12, 2, strata=halves(2.0, 0.5)))
    assert len(TrainingSampler(range(12), 2, strata=halves(2.0, 0.5))) == 18
    assert [seen[row] for row in range(8)] == [2] * 8
    assert sum(seen[row] for row in range(8, 12)) == 2
    assert max(seen[row] for row in range(8, 12)) == 1


def test_weights_of_one_are_no_weights():
    assert order(12, 4, strata=halves(1.0, 1.0)) == order(12, 4)


def test_half_of_the_rows_take_turns():
    """Two epochs at weight 1/2 see every row once; so do four epochs at 1/4."""
    for weight, epochs in ((0.5, 2), (0.25, 4)):
        seen = Counter(
            row for epoch in range(epochs) for row in order(12, 1, epoch=epoch, strata=halves(weight, weight))
        )
        assert [seen[row] for row in range(12)] == [1] * 12


def test_the_order_of_weighted_rows_depends_on_seed_and_epoch():
    orders = {
        (seed, epoch): tuple(order(12, 2, epoch=epoch, seed=seed, strata=halves(2.5, 1.0)))
        for seed in range(2)
        for epoch in range(2)
    }
    assert len(set(orders.values())) == 4
    assert orders[0, 0] == tuple(order(12, 2, strata=halves(2.5, 1.0)))


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.3, 0.5, 1.0, 1.25, 2.0, 3.7])), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 4),
)
def test_ranks_and_resuming_with_weights(sizes, batch_size, ranks, epoch, done):
    """All ranks together serve the blocks of the single-process order, from the batch where they resume."""
    starts = np.cumsum([0, *(size for size, _ in sizes)])
    strata = [Stratum(np.arange(a, a + n), w) for a, (n, w) in zip(starts, sizes, strict=False)]
    total = sum(max(1, round(w * n)) for n, w in sizes)
    if total < batch_size * ranks:
        return
    options = {"epoch": epoch, "seed": 3, "strata": strata}
    whole = order(int(starts[-1]), batch_size * ranks, **options)
    seen = Counter(order(int(starts[-1]), 1, **options))
    for rows, weight in strata:
        assert sum(seen[row] for row in rows.tolist()) == max(1, round(weight * len(rows)))
        assert all(int(weight) <= seen[row] + 1 and seen[row] <= int(weight) + 1 for row in rows.tolist())
    parts = [
        order(
            int(starts[-1]),
            batch_size,
            num_replicas=ranks,
            rank=rank,
            start=lambda _: EpochStart(done * batch_size * ranks),
            **options,
        )
        for rank in range(ranks)
    ]
    block = batch_size * ranks
    for number, batch in enumerate(range(done, len(whole) // block)):
        together = Counter(row for part in parts for row in part[number * batch_size : (number + 1) * batch_size])
        assert together == Counter(whole[batch * block : (batch + 1) * block])


@settings(max_examples=examples(150), deadline=None)
@given(
    st.integers(1, 60),
    st.tuples(st.integers(1, 4), st.integers(1, 3)),
    st.tuples(st.integers(1, 4), st.integers(1, 3)),
    st.integers(0, 8),
    st.booleans(),
    st.integers(0, 3),
)
def test_an_epoch_goes_on_with_other_ranks_and_batches(length, before, now, batches, grouped, epoch):
    """Each row is seen once, but for less than one of each rank; and in the order that the epoch was begun in."""
    if length < before[0] * before[1] or length < now[0] * now[1]:
        return
    lengths = np.random.default_rng(length).integers(1, 500, length) if grouped else None

    def of_all_ranks(batch_size, ranks, start):
        """Rows in the order in which all ranks together take them."""
        parts = []
        for rank in range(ranks):
            sampler = TrainingSampler(
                range(length), batch_size, num_replicas=ranks, rank=rank, lengths=lengths, start=lambda _: start
            )
            sampler.set_epoch(epoch)
            parts.append(list(sampler))
            assert -(-len(parts[-1]) // batch_size) == sampler.batches_left(start)
        return [row for rows in zip(*parts, strict=True) for row in rows]

    block = before[0] * before[1]
    whole = of_all_ranks(*before, EpochStart())
    first = whole[: batches * block]
    rest = of_all_ranks(*now, EpochStart(len(first), block))
    assert max(Counter(first + rest).values()) == 1
    # Whole batches where there are some left, else one of what there is.
    left = length - len(first)
    assert len(rest) == (left // (now[0] * now[1]) * now[0] * now[1] or left // now[1] * now[1])
    if first:
        sampler = TrainingSampler(range(length), before[0], num_replicas=before[1], lengths=lengths)
        sampler.set_epoch(epoch)
        assert [*first, *rest] == sampler.order()[: len(first) + len(rest)].tolist()
