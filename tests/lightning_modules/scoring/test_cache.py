import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from lightning_modules.scoring.cache import RoomyLayer, continue_from


def states(rows, length, seed):
    return torch.randn(rows, 2, length, 3, generator=torch.Generator().manual_seed(seed))


def filled_cache(rows=2, length=4):
    cache = DynamicCache()
    for layer in range(2):
        cache.update(states(rows, length, layer), states(rows, length, 10 + layer), layer)
    return cache


def test_a_roomy_layer_equals_concatenation():
    keys, values = states(2, 4, 0), states(2, 4, 1)
    layer = RoomyLayer(keys, values, repeats=3, extra=6)
    # Row i of the prefix stands at rows 3 i, 3 i + 1, 3 i + 2.
    expected = [torch.stack([s[0], s[0], s[0], s[1], s[1], s[1]]) for s in (keys, values)]
    for number, length in enumerate((1, 2, 3)):
        new = [states(6, length, 20 + number), states(6, length, 30 + number)]
        expected = [torch.cat(pair, dim=2) for pair in zip(expected, new, strict=True)]
        shown = layer.update(*new)
        assert all(map(torch.equal, shown, expected))
        assert all(map(torch.equal, (layer.keys, layer.values), expected))
        assert layer.get_seq_length() == expected[0].shape[2]
        if number == 1:
            kept = torch.tensor([4, 1, 2, 3, 0, 5])
            layer.batch_select_indices(kept)
            expected = [s[kept] for s in expected]
    kept = torch.tensor([0, 5])
    layer.batch_select_indices(kept)
    assert all(map(torch.equal, (layer.keys, layer.values), [s[kept] for s in expected]))


def test_more_tokens_than_there_is_room_for():
    layer = RoomyLayer(states(1, 2, 0), states(1, 2, 1), repeats=1, extra=1)
    layer.update(states(1, 1, 2), states(1, 1, 3))
    with pytest.raises(ValueError, match="the cache has room for 3 tokens, got 4"):
        layer.update(states(1, 1, 2), states(1, 1, 3))


def test_continuing_leaves_the_prefix_as_it_was():
    prefix = filled_cache()
    before = [(layer.keys.clone(), layer.values.clone()) for layer in prefix.layers]
    first = continue_from(prefix, 2, 5)
    first.update(states(4, 1, 50), states(4, 1, 51), 0)
    second = continue_from(prefix, 3, 5)
    second.update(states(6, 1, 60), states(6, 1, 61), 0)
    for layer, (keys, values) in zip(prefix.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)
    assert torch.equal(first.layers[0].keys[:, :, :4], before[0][0].repeat_interleave(2, 0))
    assert torch.equal(first.layers[0].keys[:, :, 4:], states(4, 1, 50))
    assert torch.equal(second.layers[0].values[:, :, 4:], states(6, 1, 61))
    assert torch.equal(second.layers[1].values, before[1][1].repeat_interleave(3, 0))


def test_a_continuation_can_be_continued():
    prefix = continue_from(filled_cache(rows=1), 2, 3)
    prefix.update(states(2, 2, 70), states(2, 2, 71), 0)
    again = continue_from(prefix, 2, 1)
    assert torch.equal(again.layers[0].keys, prefix.layers[0].keys.repeat_interleave(2, 0))
    assert again.layers[0].keys.shape == (4, 2, 6, 3)


def test_other_caches_are_refused():
    cache = filled_cache()
    cache.layers[1] = DynamicSlidingWindowLayer(sliding_window=3)
    cache.layers[1].update(states(2, 4, 0), states(2, 4, 1))
    with pytest.raises(TypeError, match="cannot continue from a cache with layers of type DynamicSlidingWindowLayer"):
        continue_from(cache, 2, 1)


def test_an_empty_layer_is_refused():
    cache = filled_cache()
    cache.layers.append(type(cache.layers[0])())
    with pytest.raises(TypeError, match="cannot continue from a cache with layers of type DynamicLayer"):
        continue_from(cache, 2, 1)
