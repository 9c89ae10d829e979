from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples

from datamodules.batching.packed_order import PackedSampler
from datamodules.batching.position import EpochStart
from datamodules.supervision.split import Stratum


def batches(lengths, max_tokens, epoch=0, **options):
    sampler = PackedSampler(np.array(lengths), max_tokens, **options)
    sampler.set_epoch(epoch)
    found = list(sampler)
    if "start" not in options:
        assert len(found) == len(sampler)
    return found


def strata_of(sizes):
    starts = np.cumsum([0, *(size for size, _ in sizes)])
    return [Stratum(np.arange(a, a + n), w) for a, (n, w) in zip(starts, sizes, strict=False)]


def test_by_hand():
    """Of 7, 6, 5, 4, 3 and 2 in batches of 10, the longest go first: 7 + 2, 6 + 3, 5 + 4, all but one token full."""
    found = batches([7, 6, 5, 4, 3, 2], 10)
    assert sorted(map(sorted, found)) == [[0, 5], [1, 4], [2, 3]]


def test_every_epoch_and_seed_has_batches_of_its_own():
    lengths = np.random.default_rng(0).integers(50, 900, 400).tolist()
    first = batches(lengths, 2000)
    assert first == batches(lengths, 2000)
    assert sorted(row for batch in first for row in batch) == list(range(400))
    for other in (batches(lengths, 2000, epoch=1), batches(lengths, 2000, seed=1)):
        assert len(other) == len(first)
        assert sorted(row for batch in other for row in batch) == list(range(400))
        assert len(set(map(frozenset, other)) & set(map(frozenset, first))) < len(first) / 10


def test_few_batches_of_similar_size():
    """Mixed lengths as of real conversations: within 3 % of the fewest batches there could be."""
    lengths = np.random.default_rng(0).lognormal(6.8, 0.6, 3000).astype(int).clip(150, 8192)
    found = batches(lengths, 8192)
    assert len(found) <= 1.03 * np.ceil(lengths.sum() / 8192)
    tokens = np.array([lengths[batch].sum() for batch in found])
    assert tokens.max() <= 8192
    assert tokens.min() >= 0.9 * tokens.max()


@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.3, 0.5, 1.0, 1.25, 2.0, 3.7])), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([40, 300, 1000]),
    st.integers(0, 3),
    st.integers(0, 2**31),
)
def test_properties(sizes, ranks, max_tokens, done, seed):
    """No batch is too long, rows are seen as often as they should, ranks have equally many batches in all epochs."""
    strata = strata_of(sizes)
    total = sum(stratum.samples for stratum in strata)
    random = np.random.default_rng(seed)
    lengths = random.integers(1, max_tokens + 1, int(sum(n for n, _ in sizes)))
    options = {"strata": strata, "seed": 7}
    if total < ranks:
        with pytest.raises(ValueError, match=f"{total} training samples are too few for {ranks} ranks"):
            batches(lengths, max_tokens, num_replicas=ranks, **options)
        return
    numbers = set()
    for epoch in range(3):
        of_ranks = [
            batches(lengths, max_tokens, epoch, num_replicas=ranks, rank=rank, **options) for rank in range(ranks)
        ]
        numbers |= {len(found) for found in of_ranks}
        everything = [batch for found in of_ranks for batch in found]
        assert all(batch and lengths[batch].sum() <= max_tokens for batch in everything)
        seen = Counter(row for batch in everything for row in batch)
        missing = total - sum(seen.values())
        # Rows are left out only where a batch holds one row each and ranks could not have equally many.
        assert missing == 0 or (missing < ranks and set(map(len, everything)) == {1})
        for stratum in strata:
            assert sum(seen[row] for row in stratum.rows.tolist()) <= stratum.samples
            assert all(abs(seen[row] - stratum.weight) <= 1 + missing for row in stratum.rows.tolist())
        for rank, found in enumerate(of_ranks):
            resumed = batches(
                lengths,
                max_tokens,
                epoch,
                num_replicas=ranks,
                rank=rank,
                start=lambda _: EpochStart(done * ranks),
                **options,
            )
            assert resumed == found[done:]
    assert len(numbers) == 1


def test_rows_left_out_change_from_epoch_to_epoch():
    """Three rows that fill a batch each, on two ranks."""
    seen = [{row for rank in range(2) for batch in batches([9, 9, 9], 10, epoch, num_replicas=2, rank=rank) for row in
            batch} for epoch in range(12)]  # fmt: skip
    assert {len(rows) for rows in seen} == {2}
    assert set.union(*seen) == {0, 1, 2}


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(4, 60), st.integers(1, 4), st.integers(1, 4), st.integers(1, 8), st.integers(0, 2))
def test_an_epoch_goes_on_with_other_ranks(length, before, now, done, epoch):
    """Each row is seen once; only where batches hold one row, fewer rows than there are ranks may be left out."""
    lengths = np.random.default_rng(length).integers(1, 400, length)

    def of_all_ranks(ranks, start):
        parts = []
        for rank in range(ranks):
            sampler = PackedSampler(lengths, 500, num_replicas=ranks, rank=rank, start=lambda _: start)
            sampler.set_epoch(epoch)
            parts.append(list(sampler))
            assert len(parts[-1]) == sampler.batches_left(start)
        return [batch for step in zip(*parts, strict=True) for batch in step]

    whole = of_all_ranks(before, EpochStart())
    done = min(done, len(whole) // before) * before
    rest = of_all_ranks(now, EpochStart(done, before))
    assert all(lengths[batch].sum() <= 500 for batch in rest)
    seen = Counter(row for batch in whole[:done] + rest for row in batch)
    assert max(seen.values()) == 1
    missing = sum(map(len, whole)) - len(seen)
    assert missing == 0 or (missing < now and set(map(len, rest)) <= {1})
    if before % now == 0:
        # Nothing is split: the very batches of before, in their order.
        assert rest == whole[done:]
