import math

import pytest
import torch
from PIL import Image

from datamodules.batching.collate import StepBatch, StepCollator, merge_scored_steps
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.reading_rules import ReadingRules
from datamodules.storage.images import ImageError

NAN = float("nan")


def row(sample_id, steps, mc, images=(), total=4):
    return {
        "sample_id": sample_id,
        "source": "geometry",
        "images": list(images),
        "question": "How many?",
        "steps": steps,
        "mc": mc,
        "num_mc_correct": [-1 if math.isnan(score) else round(score * total) for score in mc],
        "num_mc_total": [0 if math.isnan(score) else total for score in mc],
    }


@pytest.fixture(scope="module")
def encoder(tiny_processor):
    return ConversationEncoder(tiny_processor, "Judge.", ("+", "-"))


def test_a_batch(encoder, tmp_path):
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    rows = [
        row("f:1", ["a", "b", "c"], [1.0, 0.5, NAN], [str(tmp_path / "a.png")]),
        row("f:2", ["a"], [0.25]),
    ]
    batch = StepCollator(encoder)(rows)
    assert batch.inputs["pixel_values"].shape == (1, 3, 32, 32)
    assert (batch.step_positions >= 0).tolist() == [[True, True, True], [True, False, False]]
    assert batch.mc.dtype == torch.float32
    assert batch.mc[0, :2].tolist() == [1.0, 0.5]
    assert batch.mc.isnan().tolist() == [[False, False, True], [False, True, True]]
    assert batch.num_mc_correct.tolist() == [[4, 2, -1], [1, -1, -1]]
    assert batch.num_mc_total.tolist() == [[4, 4, 0], [4, -1, -1]]
    assert batch.sample_ids == ["f:1", "f:2"]
    assert batch.sources == ["geometry", "geometry"]
    assert batch.question_accuracy.isnan().all()
    known = StepCollator(encoder)([rows[0] | {"question_accuracy": 0.25}, rows[1] | {"question_accuracy": None}])
    assert known.question_accuracy.dtype == torch.float32
    assert known.question_accuracy[0] == 0.25
    assert known.question_accuracy[1].isnan()


def test_a_merged_step_has_the_score_of_its_last_step():
    merged = merge_scored_steps(row("f:1", list("abcde"), [1.0, 0.75, 0.5, 0.25, 0.0]), 2)
    assert merged == {
        "steps": ["a\n\nb\n\nc", "d\n\ne"],
        "mc": [0.5, 0.0],
        "num_mc_correct": [2, 0],
        "num_mc_total": [4, 4],
    }


def test_the_response_as_one_step(encoder):
    rows = [row("f:1", list("abc"), [1.0, 1.0, 0.0]), row("f:2", list("ab"), [0.0, 1.0])]
    batch = StepCollator(encoder, max_steps=2, response_as_one_step=True)(rows)
    assert batch.mc.tolist() == [[0.0], [1.0]]
    text = encoder.processor.tokenizer.decode(batch.inputs["input_ids"][0])
    assert "### Solution Process:\na\n\nb\n\nc<|end|><|assistant|>+<|end|>" in text


def test_a_picture_that_broke_after_reading_is_named(encoder, tmp_path):
    Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    for name in ("a.png", "missing.png"):
        with pytest.raises(ImageError, match=r"^rows.jsonl:3: field 'image': .*" + name):
            StepCollator(encoder)([row("rows.jsonl:3", ["a"], [1.0], [str(tmp_path / name)])])


def test_shapes_are_checked():
    positions = torch.zeros(1, 2, dtype=torch.long)
    good = {
        "inputs": {"input_ids": torch.zeros(1, 5)},
        "step_positions": positions,
        "mc": torch.zeros(1, 2),
        "num_mc_correct": positions,
        "num_mc_total": positions,
        "sample_ids": ["a"],
        "sources": ["s"],
    }
    StepBatch(**good)
    with pytest.raises(ValueError, match=r"mc: expected shape \(1, 2\), got \(1, 3\)"):
        StepBatch(**good | {"mc": torch.zeros(1, 3)})
    with pytest.raises(ValueError, match="expected 1 conversations, ids and sources, got 2 ids"):
        StepBatch(**good | {"sample_ids": ["a", "b"]})


def test_rows_are_read_by_the_rules_of_the_model(tiny_processor, tmp_path):
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "a.png")
    sample = row("f:1", ["a", " ", "b "], [1.0, 0.5, 0.25], [str(tmp_path / "a.png")])
    sample |= {"question": "Think first. How many?", "question_bare": "How many?"}

    def read(**rules):
        encoder = ConversationEncoder(tiny_processor, "", ("+", "-"), rules=ReadingRules(**rules))
        batch = StepCollator(encoder)([sample])
        return batch, encoder.processor.tokenizer.decode(batch.inputs["input_ids"][0])

    batch, text = read()
    assert "### Question:\nHow many?" in text
    assert batch.mc.tolist() == [[1.0, 0.25]]
    assert batch.inputs["pixel_values"].unique().numel() <= 3  # white
    batch, text = read(question_text="as_asked", pictures="released", white_space="released")
    assert "### Question:\nThink first. How many?" in text
    assert "<|user|> <|end|>" in text
    assert batch.mc.tolist() == [[1.0, 0.5, 0.25]]
    plain = tiny_processor(text="<IMG_CONTEXT>", images=Image.new("RGB", (32, 32), (255, 0, 0)), return_tensors="pt")
    assert torch.equal(batch.inputs["pixel_values"], plain["pixel_values"])


def test_verdicts_of_training(encoder):
    """The verdict of a merged step is made of its own score."""
    seen = []

    def verdicts(mc, accuracy):
        seen.append((mc, accuracy))
        return ["-"] * len(mc)

    batch = StepCollator(encoder, max_steps=2, verdicts=verdicts)([row("f:1", list("abc"), [1.0, 0.5, 0.25])])
    assert [mc for mc, _ in seen] == [[0.5, 0.25]]
    assert math.isnan(seen[0][1])
    at = batch.step_positions[0] + 1
    assert batch.inputs["input_ids"][0, at].tolist() == [encoder.class_token_ids[1]] * 2
