from collections import Counter

import pytest

from datamodules.process.order import LazyLoader, TrainingSampler


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
    assert order(12, 4, batches_done=lambda: done) == order(12, 4)[done * 4 :]


def test_ranks_share_each_batch():
    whole = order(24, 8)
    parts = [order(24, 4, num_replicas=2, rank=rank) for rank in range(2)]
    for batch in range(3):
        together = {index for part in parts for index in part[batch * 4 : batch * 4 + 4]}
        assert together == set(whole[batch * 8 : batch * 8 + 8])
    resumed = [order(24, 4, num_replicas=2, rank=rank, batches_done=lambda: 2) for rank in range(2)]
    assert resumed == [part[8:] for part in parts]


def test_too_few_samples():
    with pytest.raises(ValueError, match="1 training samples are too few for 2 ranks"):
        TrainingSampler(range(1), 4, num_replicas=2)


def test_the_loader_asks_for_nothing_before_its_first_batch():
    asked = []

    def done():
        asked.append(True)
        return 1

    sampler = TrainingSampler(range(12), 4, batches_done=done)
    iterator = iter(LazyLoader(range(12), 4, sampler=sampler, num_workers=1))
    assert not asked
    sampler.set_epoch(3)
    batches = [batch.tolist() for batch in iterator]
    assert [index for batch in batches for index in batch] == order(12, 4, epoch=3)[4:]
