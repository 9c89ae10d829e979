from hypothesis import given
from hypothesis import strategies as st

from datamodules.batching.shards import Shard


@given(st.integers(0, 50), st.integers(1, 12))
def test_shares_hold_every_item_once_and_are_nearly_equal(items, count):
    shares = [Shard(index, count).of(range(items)) for index in range(count)]
    assert sorted(item for share in shares for item in share) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_labels_of_different_numbers_of_shards_differ():
    assert Shard().label == ""
    assert len({Shard(index, count).label for count in (2, 3) for index in range(count)}) == 5
