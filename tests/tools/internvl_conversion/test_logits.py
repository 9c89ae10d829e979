"""The converted model computes what the original layout's definition says."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, InternVLForConditionalGeneration

KINDS = [
    "internlm2",
    "reward",
    "internlm2 with biases",
    "qwen2",
    "qwen2 tied",
    "qwen2 with the large vision",
    "qwen3",
    "llama",
]


@pytest.fixture
def conversation():
    """Ids with the image tokens of two tiles in the middle, and the tiles."""

    def make(reference):
        random = torch.Generator().manual_seed(1)
        text = torch.randint(3, 250, (24,), generator=random).tolist()
        ids = text[:7] + [reference.image_token] * 8 + text[7:]
        return ids, torch.randn(2, 3, 56, 56, generator=random)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_logits(converted, conversation, kind):
    _, reference, output, _ = converted(kind)
    model, info = AutoModelForImageTextToText.from_pretrained(output, output_loading_info=True)
    assert type(model) is InternVLForConditionalGeneration
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids, tiles = conversation(reference)
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([ids]), pixel_values=tiles).logits[0].double()
        text_logits = model(input_ids=torch.tensor([ids[:7]])).logits[0].double()
    expected = reference.logits(ids, tiles)
    assert expected.std() > 0.5
    assert (logits - expected).abs().max() < 1e-4
    assert (text_logits - reference.logits(ids[:7])).abs().max() < 1e-4


def test_what_the_comparison_would_notice(converted, conversation):
    """Each wrong reading of the layout is further off than the tolerance by a thousand times."""
    _, reference, output, _ = converted("internlm2")
    ids, tiles = conversation(reference)
    model = AutoModelForImageTextToText.from_pretrained(output).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), pixel_values=tiles).logits[0].double()
    swapped = [*ids[:2], ids[3], ids[2], *ids[4:]]
    upside_down = tiles.flip(-2)
    wrong = {
        "wqkv in blocks": reference.logits(ids, tiles, wqkv_layout="blocks"),
        "transposed pixel shuffle": reference.logits(ids, tiles, ps_version="v1"),
        "two tokens swapped": reference.logits(swapped, tiles),
        "tiles swapped": reference.logits(ids, tiles.flip(0)),
        "image upside down": reference.logits(ids, upside_down),
    }
    for name, other in wrong.items():
        assert (logits[-1] - other[-1]).abs().max() > 0.1, name


def test_attention_is_not_flat(converted):
    """Otherwise a wrong head would go unnoticed: most queries put over a third of their weight on one token."""
    output = converted("internlm2")[2]
    model = AutoModelForImageTextToText.from_pretrained(output, attn_implementation="eager").eval()
    ids = torch.randint(3, 250, (1, 24), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        attentions = model(input_ids=ids, output_attentions=True).attentions
    largest = torch.stack(attentions)[..., 12:, :].max(-1).values
    assert largest.median() > 0.3
