import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tools.benchmarks.models import make_model
from tools.benchmarks.operations import VISUALPRM_8B, ModelShape, Workload, usual_workload
from tools.benchmarks.scoring_variants import SIZES, make_candidates

SHAPE = ModelShape(
    vision_width=8,
    vision_layers=1,
    vision_intermediate=16,
    patches=4,
    patch_values=12,
    image_tokens=1,
    hidden=16,
    layers=2,
    intermediate=24,
    query_size=16,
    key_size=8,
    vocabulary=100,
)


def test_by_hand():
    # A text layer: queries and outputs 16 x 16, keys and values 16 x 8, three 16 x 24.
    weights = 2 * (2 * 256 + 2 * 128 + 3 * 384)
    assert SHAPE.text_weights == weights
    # Three tokens see 1, 2 and 3; after five others 6, 7 and 8. Two products of 16 numbers, in two layers.
    assert SHAPE.text(3) == 2 * 3 * weights + 2 * 2 * 16 * 6 * 2
    assert SHAPE.text(3, after=5) == 2 * 3 * weights + 2 * 2 * 16 * 21 * 2
    assert SHAPE.text(8) == SHAPE.text(5) + SHAPE.text(3, after=5)
    assert SHAPE.head(3) == 2 * 3 * 16 * 100
    assert SHAPE.head(3, 2) == 2 * 3 * 16 * 2
    # Four patches of 12 values; five tokens in one layer of 4 x 64 + 2 x 128 weights; one token of 4 x 8 values.
    assert SHAPE.image(1) == 2 * 4 * 12 * 8 + 2 * 5 * 512 + 4 * 25 * 8 + 2 * (32 * 16 + 16 * 16)
    assert SHAPE.image(3) == 3 * SHAPE.image(1)


def test_ways_of_scoring_by_hand():
    work = Workload(tiles=2, text_tokens=3, step_ends=[[2, 4], [5]])
    whole = {end: SHAPE.image(2) + SHAPE.text(5 + end) + SHAPE.head(5 + end) for end in (2, 4, 5)}
    assert work.one_forward_a_step(SHAPE) == whole[2] + whole[4] + whole[5]
    assert work.one_forward_a_response(SHAPE) == whole[4] + whole[5]
    candidates = SHAPE.text(4, after=5) + SHAPE.text(5, after=5)
    assert work.floor(SHAPE) == SHAPE.image(2) + SHAPE.text(5) + candidates + SHAPE.head(3, 2)


def test_against_the_counter_of_torch():
    """On a whole forward; written out, attention multiplies what a token may not see, too."""
    model = make_model(SIZES["tiny"], "cpu", torch.float32)
    model.set_attn_implementation("eager")
    work = usual_workload(2, 1, text_tokens=7, step_tokens=3)
    group = make_candidates(model, work)
    ids = torch.cat([group.prefix["input_ids"][0], group.suffixes[0]])[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, pixel_values=group.prefix["pixel_values"], use_cache=False)
    shape = ModelShape.of(model.config)
    tokens = ids.shape[1]
    unseen = tokens * (tokens - 1) // 2
    expected = work.one_forward_a_response(shape) + 4 * unseen * shape.query_size * shape.layers
    assert counter.get_total_flops() == expected


def test_parameters_of_the_8b():
    """InternLM2-7B has 7.7 billion parameters with 0.76 in its embedding and head, InternViT-300M 0.3."""
    assert VISUALPRM_8B.text_weights == pytest.approx(6.98e9, rel=0.001)
    width = VISUALPRM_8B.vision_width
    assert VISUALPRM_8B.vision_layers * (4 * width**2 + 2 * width * 4 * width) == pytest.approx(0.302e9, rel=0.001)


@pytest.mark.parametrize(("tiles", "candidates", "ratio"), [(1, 8, 2.4), (4, 8, 4.0), (4, 32, 5.8), (7, 32, 8.2)])
def test_ratio_over_one_forward_a_response_at_the_8b(tiles, candidates, ratio):
    work = usual_workload(tiles, candidates)
    assert round(work.one_forward_a_response(VISUALPRM_8B) / work.floor(VISUALPRM_8B), 1) == ratio


@pytest.mark.parametrize("candidates", [8, 32, 128])
def test_the_usual_candidates_have_240_tokens_and_6_steps_in_the_mean(candidates):
    ends = usual_workload(1, candidates).step_ends
    assert sum(found[-1] for found in ends) == 240 * candidates
    assert sum(map(len, ends)) == 6 * candidates


@pytest.mark.parametrize("name", ["small", "medium", "large", "8b"])
def test_models_keep_the_proportions_of_the_8b(name):
    shape = ModelShape.of(SIZES[name].config())
    for part in (lambda s: s.head(1) / s.text(1), lambda s: s.image(1) / s.text(s.image_tokens)):
        assert part(shape) == pytest.approx(part(VISUALPRM_8B), rel=0.2)
