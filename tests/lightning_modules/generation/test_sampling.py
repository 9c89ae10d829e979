import math
from collections import Counter

import numpy as np
import pytest
import torch

from lightning_modules.generation.sampling import SamplingParameters, pick_tokens, sampling_settings, uniform_draws

# Token 3 is the most likely one, 0 comes second, 4 third, 1 fourth; 2 is impossible.
PROBABILITIES = [0.25, 0.05, 0.0, 0.5, 0.2]
LOGITS = torch.tensor([[math.log(p) if p else float("-inf") for p in PROBABILITIES]])


def walk(logits, uniform, temperature, top_p):
    """Invert the cumulative distribution by walking over the tokens, in float64 numbers of Python."""
    weights = [math.exp(logit / temperature) if logit > -math.inf else 0.0 for logit in logits]
    total = sum(weights)
    probabilities = [weight / total for weight in weights]
    kept, mass = set(), 0.0
    for token in sorted(range(len(logits)), key=lambda token: -probabilities[token]):
        if mass < top_p:
            kept.add(token)
        mass += probabilities[token]
    probabilities = [p if token in kept else 0.0 for token, p in enumerate(probabilities)]
    rest = uniform * sum(probabilities)
    for token, p in enumerate(probabilities):
        rest -= p
        if rest < 0:
            return token
    raise AssertionError("the draw lies behind the last token")


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.4, 0.01])
def test_equals_a_walk_over_the_tokens(temperature, top_p):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(400, 30, generator=generator)
    logits[:, ::7] = float("-inf")
    uniform = torch.rand(400, dtype=torch.float64, generator=generator)
    picked = pick_tokens(logits, uniform, temperature, top_p)
    rows = zip(logits.double().tolist(), uniform.tolist(), strict=True)
    assert picked.tolist() == [walk(row, u, temperature, top_p) for row, u in rows]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        # Cumulative, by token id, of what is kept: 0.25, 0.30, 0.30, 0.80, 1.00
        (1.0, {0.0: 0, 0.24: 0, 0.26: 1, 0.29: 1, 0.31: 3, 0.79: 3, 0.81: 4, 0.999: 4}),
        # Kept are 3, 0 and 4, because 3 and 0 hold only 0.75: of 0.95, 0.25, then 0.75, then 0.95
        (0.76, {0.0: 0, 0.25: 0, 0.27: 3, 0.78: 3, 0.80: 4, 0.999: 4}),
        # Kept are 3 and 0: of 0.75, 0.25, then 0.75
        (0.74, {0.0: 0, 0.33: 0, 0.34: 3, 0.999: 3}),
        # The most likely token alone
        (0.49, {0.0: 3, 0.5: 3, 0.999: 3}),
        (0.001, {0.0: 3, 0.999: 3}),
    ],
)
def test_nucleus_by_hand(top_p, expected):
    uniform = torch.tensor(list(expected), dtype=torch.float64)
    assert pick_tokens(LOGITS.expand(len(expected), -1), uniform, 1.0, top_p).tolist() == list(expected.values())


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, PROBABILITIES),
        (1.0, 0.74, [1 / 3, 0, 0, 2 / 3, 0]),
        # Weights are squared: 0.0625, 0.0025, 0, 0.25, 0.04 of 0.355
        (0.5, 1.0, [0.0625 / 0.355, 0.0025 / 0.355, 0, 0.25 / 0.355, 0.04 / 0.355]),
    ],
)
def test_frequencies(temperature, top_p, expected):
    count = 100_000
    uniform = uniform_draws(1, ["frequencies"], count)[0]
    counts = Counter(pick_tokens(LOGITS.expand(count, -1), uniform, temperature, top_p).tolist())
    for token, p in enumerate(expected):
        assert abs(counts[token] / count - p) <= 5 * math.sqrt(p * (1 - p) / count)


@pytest.mark.parametrize("top_p", [1.0, 0.74])
def test_the_largest_draw_picks_no_impossible_token(top_p):
    """In float32 the largest number below 1 is 1, the end of the distribution: behind the last possible token."""
    logits = torch.cat([LOGITS, torch.full((1, 3), float("-inf"))], -1)
    largest = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    assert pick_tokens(logits, largest, 1.0, top_p).item() == (4 if top_p == 1 else 3)
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(500, 8, generator=generator)
    many[:, 5:] = float("-inf")
    assert pick_tokens(many, largest.expand(500), 1.0, top_p).max() <= 4


def test_temperature_zero_takes_the_most_likely():
    logits = torch.tensor([[0.0, 3.0, 2.9], [1.0, -1.0, float("-inf")]])
    assert pick_tokens(logits, torch.tensor([0.99, 0.99]), 0.0, 0.5).tolist() == [1, 0]


def test_draws_depend_on_seed_and_key_alone():
    keys = [f"MathVista/{number}/0" for number in range(50)]
    together = uniform_draws(3, keys, 20)
    assert together.shape == (50, 20)
    assert together.dtype == torch.float64
    order = np.random.default_rng(0).permutation(50)
    assert torch.equal(uniform_draws(3, [keys[i] for i in order], 20), together[torch.from_numpy(order)])
    for number in (0, 17, 49):
        alone = uniform_draws(3, [keys[number]], 20)[0]
        assert torch.equal(alone, together[number])
        # A longer limit appends draws and changes none.
        assert torch.equal(uniform_draws(3, [keys[number]], 35)[0, :20], alone)
    assert len(set(together.flatten().tolist())) == 1000
    assert not torch.equal(uniform_draws(4, keys, 20), together)


def test_seed_and_key_do_not_run_into_each_other():
    assert not torch.equal(uniform_draws(1, ["1"], 4), uniform_draws(11, [""], 4))


def test_draws_are_uniform():
    draws = uniform_draws(0, [str(number) for number in range(2000)], 10)
    assert (draws >= 0).all()
    assert (draws < 1).all()
    counts = torch.histc(draws.float(), bins=10, min=0, max=1)
    # 20,000 draws over 10 bins: each holds 2000 with a standard deviation of 42.
    assert (counts - 2000).abs().max() < 5 * 42.5
    # First and second draw of a key, and first draws of neighbouring keys, are unrelated: deviation 1 / sqrt(2000).
    first, second = draws[:, 0], draws[:, 1]
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / 2000**0.5
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 5 / 2000**0.5


def test_no_keys():
    assert uniform_draws(0, [], 7).shape == (0, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more, got -0.1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"top_k": 0}, "top_k must be at least 1, or absent to keep all tokens, got 0"),
    ],
)
def test_parameters_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingParameters(**options)


def walk_over_the_most_likely(logits, uniform, temperature, top_p, top_k):
    """As :func:`walk`, after all but the k most likely tokens are made impossible, one by one."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    kept = {token: logits[token] for token in order[:top_k]}
    return walk([kept.get(token, -math.inf) for token in range(len(logits))], uniform, temperature, top_p)


@pytest.mark.parametrize("top_k", [1, 2, 7, 29, 30, 50])
@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_top_k_equals_a_walk_over_the_most_likely_tokens(top_k, top_p):
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(300, 30, generator=generator)
    logits[:, ::7] = float("-inf")
    uniform = torch.rand(300, dtype=torch.float64, generator=generator)
    picked = pick_tokens(logits, uniform, 0.8, top_p, top_k)
    rows = zip(logits.double().tolist(), uniform.tolist(), strict=True)
    assert picked.tolist() == [walk_over_the_most_likely(row, u, 0.8, top_p, top_k) for row, u in rows]


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        # Kept are 3 and 0, of 0.75 together: 0 up to a third
        (2, 1.0, {0.0: 0, 0.33: 0, 0.34: 3, 0.999: 3}),
        # Among these two token 3 holds two thirds, so that top_p counts of what is left: it is enough for 0.6 ...
        (2, 0.6, {0.0: 3, 0.999: 3}),
        # ... while among all tokens it holds a half, and token 0 is needed, too.
        (None, 0.6, {0.0: 0, 0.33: 0, 0.34: 3, 0.999: 3}),
    ],
)
def test_top_k_by_hand(top_k, top_p, expected):
    uniform = torch.tensor(list(expected), dtype=torch.float64)
    picked = pick_tokens(LOGITS.expand(len(expected), -1), uniform, 1.0, top_p, top_k)
    assert picked.tolist() == list(expected.values())


def test_settings_of_runs_from_before_there_was_a_top_k_are_the_same():
    before = {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 1024, "seed": 0}
    assert sampling_settings(SamplingParameters()) == before
    assert sampling_settings(SamplingParameters(top_k=50)) == before | {"top_k": 50}
