import logging

import numpy as np
import pytest

from datamodules.batching.order import BLOCKS_OF_WINDOW, TrainingSampler, grouped_by_length
from datamodules.batching.position import EpochStart
from datamodules.batching.training_loader import BatchLayout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packed_tokens": 0}, "packed_tokens must be at least 1, got 0"),
        ({"packed_tokens": 10, "group_by_length": True}, "exclude each other"),
    ],
)
def test_bad_layouts(options, message):
    with pytest.raises(ValueError, match=message):
        BatchLayout(
            **{"batch_size": 4, "packed_tokens": None, "group_by_length": False, "on_long_conversation": "error"}
            | options
        )


def test_what_becomes_of_a_layout(caplog):
    padded, grouped, packed = (
        BatchLayout(4, tokens, group, "error") for tokens, group in ((None, False), (None, True), (100, False))
    )
    with caplog.at_level(logging.WARNING):
        assert [layout.chosen(None) for layout in (padded, grouped, packed)] == ["padded", "grouped", "packed"]
        assert [layout.chosen("why not") for layout in (padded, grouped)] == ["padded", "grouped"]
        assert caplog.messages == []
        assert packed.chosen("why not") == "grouped"
    assert caplog.messages == [
        "packed_tokens: why not; batches of batch_size=4 conversations of similar length are padded instead"
    ]


def padding(batches, lengths):
    """Share of a rectangle that is padding."""
    return 1 - sum(lengths[b].sum() for b in batches) / sum(lengths[b].max() * len(b) for b in batches)


def test_rows_of_similar_length_share_a_batch():
    lengths = np.random.default_rng(0).lognormal(6, 0.6, 1000).astype(int)
    kinds = {}
    for name, given in (("random", None), ("grouped", lengths)):
        sampler = TrainingSampler(range(1000), 8, lengths=given)
        rows = np.array(list(sampler))
        assert sorted(rows.tolist()) == list(range(1000))
        kinds[name] = np.split(rows, range(8, 1000, 8))
    assert padding(kinds["grouped"], lengths) < 0.1 < 0.4 < padding(kinds["random"], lengths)
    # Batches of all lengths come in any order.
    means = [lengths[batch].mean() for batch in kinds["grouped"]]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3


def test_groups_go_round_with_the_epoch_and_ranks_share_each_block():
    lengths = np.arange(96)
    parts = [TrainingSampler(range(96), 4, num_replicas=2, rank=rank, lengths=lengths) for rank in range(2)]
    orders = []
    for epoch in range(2):
        for part in parts:
            part.set_epoch(epoch)
        of_ranks = [np.array(list(part)).reshape(-1, 4) for part in parts]
        blocks = np.concatenate(of_ranks, axis=1)
        assert sorted(blocks.flatten().tolist()) == list(range(96))
        # All 96 lie in one window, so every block is eight neighbours.
        assert (blocks.max(1) - blocks.min(1)).tolist() == [7] * 12
        orders.append(blocks.min(1).tolist())
    assert orders[0] != orders[1]
    resumed = TrainingSampler(range(96), 4, num_replicas=2, rank=1, lengths=lengths, start=lambda _: EpochStart(40))
    whole = TrainingSampler(range(96), 4, num_replicas=2, rank=1, lengths=lengths)
    assert list(resumed) == list(whole)[20:]


def test_windows_are_sorted_apart():
    block = 2
    order = np.random.default_rng(0).permutation(3 * block * BLOCKS_OF_WINDOW)
    windows = np.split(order, 3)
    grouped = grouped_by_length(order, np.arange(len(order)), block, np.random.default_rng(1))
    expected = {frozenset(pair) for window in windows for pair in np.sort(window)[::-1].reshape(-1, block).tolist()}
    assert {frozenset(pair) for pair in grouped.reshape(-1, block).tolist()} == expected
