from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples
from small_models import make_model
from transformers import DynamicCache

from lightning_modules.scoring import shared_prefix
from lightning_modules.scoring.shared_prefix import (
    PackedCandidates,
    attending_to_prefix,
    plain_attention,
    shared_prefix_attention,
    shared_prefix_obstacle,
)


def random_states(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=examples(25))
@given(
    lengths=st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(1, 5), max_size=4)), min_size=1, max_size=3)
    .filter(lambda found: any(candidates for _, candidates in found)),
    key_heads=st.integers(1, 2),
    groups=st.integers(1, 3),
    size=st.sampled_from([8, 6]),  # a size for the kernel, and one for the plain computation
)  # fmt: skip
def test_equals_attention_token_by_token(lengths, key_heads, groups, size):
    """Each token against the keys it may see, written out: its question's prefix, and its candidate up to itself."""
    heads, scale = key_heads * groups, 0.7
    prefix_lengths = [length for length, _ in lengths]
    total = sum(sum(candidates) for _, candidates in lengths)
    cache = DynamicCache()
    shape = (len(lengths), key_heads, max(prefix_lengths), size)
    for layer in range(2):
        cache.update(random_states(*shape, seed=layer), random_states(*shape, seed=2 + layer), layer)
    query = random_states(1, heads, total, size, seed=4)
    key, value = (random_states(1, key_heads, total, size, seed=seed) for seed in (5, 6))
    packed = PackedCandidates.of(cache, prefix_lengths, [candidates for _, candidates in lengths], query.device)
    token = shared_prefix._PACKED.set(packed)
    try:
        found, _ = shared_prefix_attention(SimpleNamespace(layer_idx=1), query, key, value, None, scaling=scale)
    finally:
        shared_prefix._PACKED.reset(token)
    assert found.shape == (1, total, heads, size)
    one_by_one, padded = (
        attend(query, key, value, packed, scale)
        for attend in (shared_prefix._attend_one_by_one, shared_prefix._attend_padded)
    )
    torch.testing.assert_close(padded, one_by_one, atol=1e-5, rtol=1e-5)
    place = 0
    for question, (length, candidates) in enumerate(lengths):
        for candidate in candidates:
            for own in range(1, candidate + 1):
                for head in range(heads):
                    shared = [
                        s[question, head // groups, :length] for s in (cache.layers[1].keys, cache.layers[1].values)
                    ]
                    begin = place + 1 - own
                    keys, values = (
                        torch.cat([s, new[0, head // groups, begin : place + 1]])
                        for s, new in zip(shared, (key, value), strict=True)
                    )
                    expected = (scale * keys @ query[0, head, place]).softmax(0) @ values
                    torch.testing.assert_close(found[0, place, head], expected, atol=1e-5, rtol=1e-5)
                place += 1


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("queries", [1, 130, 300])
def test_the_plain_computation_equals_the_kernel(is_causal, queries):
    """More queries than are computed at once, too."""
    keys = queries if is_causal else 37
    query = random_states(2, 3, queries, 8, seed=0)
    key, value = (random_states(2, 3, keys, 8, seed=seed) for seed in (1, 2))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=0.5)
    logits = 0.5 * query @ key.mT
    if is_causal:
        logits = logits.masked_fill(torch.ones(queries, keys).tril() == 0, float("-inf"))
    for attend in (plain_attention, shared_prefix._attend):
        found, log_sum = attend(query, key, value, 0.5, is_causal=is_causal)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(log_sum, logits.logsumexp(-1), atol=1e-5, rtol=1e-5)


def test_large_logits_do_not_overflow():
    cache = DynamicCache()
    cache.update(torch.full((1, 1, 2, 8), 8.0), torch.ones(1, 1, 2, 8), 0)
    packed = PackedCandidates.of(cache, [2], [[2, 1]], torch.device("cpu"))
    token = shared_prefix._PACKED.set(packed)
    states = torch.full((1, 1, 3, 8), 8.0)
    found, _ = shared_prefix_attention(SimpleNamespace(layer_idx=0), states, states, 4 * torch.ones(1, 1, 3, 8), None)
    shared_prefix._PACKED.reset(token)
    # All logits are 181, whose exponential no float32 holds: the mean over two values of 1 and one or two of 4.
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([2.0, 2.5, 2.0]), atol=1e-4, rtol=0)


def test_the_model_is_as_before_afterwards():
    model = make_model("qwen2")
    packed = PackedCandidates.of(DynamicCache(), [1], [[1]], torch.device("cpu"))

    def fail_inside():
        with attending_to_prefix(model, packed):
            assert model.config._attn_implementation == "shared_prefix"
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail_inside()
    assert model.config._attn_implementation == "sdpa"
    assert shared_prefix._PACKED.get(None) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"is_encoder_decoder": True}, "cross-attention"),
        ({"cross_attention_layers": [1]}, "cross-attention"),
        ({"is_causal": False}, "both directions"),
        ({"use_bidirectional_attention": "all"}, "both directions"),
        ({"_attn_implementation_internal": "paged|eager"}, "implementation is 'paged"),
    ],
)
def test_models_in_which_candidates_cannot_share_a_prefix(changes, reason):
    model = make_model("qwen2")
    assert shared_prefix_obstacle(model) is None
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert reason in shared_prefix_obstacle(model)


def test_layers_that_are_not_recognised():
    model = make_model("qwen2")
    model.model.layers[1].self_attn = torch.nn.Identity()
    assert shared_prefix_obstacle(model) == "2 of its 3 layers have attention that was recognised"
    model = make_model("qwen2")
    model.model.layers[1].self_attn.sinks = torch.nn.Parameter(torch.zeros(4))
    assert shared_prefix_obstacle(model) == "its attention has sinks"
