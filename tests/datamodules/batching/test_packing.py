import pytest
import torch
from PIL import Image

from datamodules.batching.collate import StepBatch, StepCollator
from datamodules.batching.packing import PackingCollator, pack
from datamodules.conversation.encoder import ConversationEncoder


@pytest.fixture(scope="module")
def encoder(tiny_processor):
    return ConversationEncoder(tiny_processor, "Judge.", ("+", "-"))


@pytest.fixture
def rows(tmp_path):
    """Two pictures, none, and one."""
    for number in range(3):
        Image.effect_noise((32, 32), 10 + 40 * number).convert("RGB").save(tmp_path / f"{number}.png")
    made = []
    for number, (pictures, steps) in enumerate([([0, 1], ["a", "b c d", "e"]), ([], ["f g"]), ([2], ["h", "i"])]):
        made.append(
            {
                "sample_id": f"f:{number}",
                "source": "geometry",
                "images": [str(tmp_path / f"{picture}.png") for picture in pictures],
                "question": "How many?",
                "steps": steps,
                "mc": [0.5] * len(steps),
                "num_mc_correct": [2] * len(steps),
                "num_mc_total": [4] * len(steps),
            }
        )
    return made


def test_a_packed_row_is_the_conversations_one_after_another(encoder, rows):
    collator = StepCollator(encoder, mark_step_tokens=True)
    alone = [collator([row]) for row in rows]
    batch = pack(collator(rows))
    assert set(batch.inputs) == {"input_ids", "position_ids", "pixel_values"}
    assert torch.equal(batch.inputs["input_ids"], torch.cat([b.inputs["input_ids"] for b in alone], 1))
    lengths = [b.inputs["input_ids"].shape[1] for b in alone]
    assert batch.inputs["position_ids"].tolist() == [[at for length in lengths for at in range(length)]]
    assert batch.boundaries == [0, lengths[0], sum(lengths[:2]), sum(lengths)]
    assert batch.lengths.tolist() == lengths
    assert torch.equal(
        batch.inputs["pixel_values"], torch.cat([b.inputs["pixel_values"] for b in alone if "pixel_values" in b.inputs])
    )
    assert len(batch.inputs["pixel_values"]) == 3
    assert batch.sample_ids == ["f:0", "f:1", "f:2"]
    assert batch.mc.shape == (3, 3)


def test_steps_are_found_in_the_row(encoder, rows):
    padded = StepCollator(encoder, mark_step_tokens=True)(rows)
    batch = pack(padded)
    row, ids = batch.inputs["input_ids"][0], padded.inputs["input_ids"]
    is_step = padded.step_positions >= 0
    assert torch.equal(batch.step_positions >= 0, is_step)
    for number in range(3):
        for step in torch.nonzero(is_step[number])[:, 0]:
            assert row[batch.step_positions[number, step] + 1] == encoder.processor.tokenizer.vocab["+"]
            marked = row[batch.step_tokens[number, step]]
            assert torch.equal(marked, ids[number][padded.step_tokens[number, step]])
            assert encoder.processor.tokenizer.decode(marked) == rows[number]["steps"][step]
    assert batch.step_tokens.sum() == padded.step_tokens.sum()


def test_a_batch_that_is_longer_than_it_may_be(encoder, rows):
    collator = StepCollator(encoder)
    tokens = pack(collator(rows)).inputs["input_ids"].shape[1]
    assert PackingCollator(collator, tokens)(rows).boundaries[-1] == tokens
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert PackingCollator(collator, tokens)(columns).sample_ids == [row["sample_id"] for row in rows]
    with pytest.raises(ValueError, match=rf"has {tokens} tokens, more than packed_tokens={tokens - 1}: .'f:0': \d+"):
        PackingCollator(collator, tokens - 1)(rows)


def test_shapes_of_a_packed_batch_are_checked():
    positions = torch.zeros(2, 2, dtype=torch.long)
    good = {
        "inputs": {"input_ids": torch.zeros(1, 9)},
        "step_positions": positions,
        "mc": torch.zeros(2, 2),
        "num_mc_correct": positions,
        "num_mc_total": positions,
        "sample_ids": ["a", "b"],
        "sources": ["s", "s"],
    }
    StepBatch(**good, boundaries=[0, 4, 9])
    with pytest.raises(ValueError, match="expected 2 conversations"):
        StepBatch(**good, boundaries=[0, 9])
    with pytest.raises(ValueError, match="expected 2 conversations"):
        StepBatch(**good)
