"""Batches of gold responses: what is the target, with padding and in one row."""

import numpy as np
import pytest
import torch
from literal_scoring import IMAGE_TOKENS
from PIL import Image

from datamodules.conversation.labels import IGNORE_INDEX
from datamodules.policy.chat import ChatRenderer
from datamodules.policy.demonstrations import SupervisedCollator
from datamodules.policy.prompt_rows import read_prompts
from datamodules.storage.images import ImageError

ROWS = [
    {"question": "Why?", "answer": "2", "response": "3 + 4\n\nAnswer: \\boxed{2}"},
    {"id": "x", "image": "b.png", "question": "How many?", "answer": "7", "response": "So 7"},
    {
        "id": 5,
        "image": ["b.png", "c.png"],
        "question": "Is <image> larger than <image> ?",
        "answer": "A",
        "response": "The digits are 3",
    },
]
ASKED = [
    "<|user|>Why?<|end|><|assistant|>",
    f"<|user|>{IMAGE_TOKENS}How many?<|end|><|assistant|>",
    f"<|user|>Is {IMAGE_TOKENS} larger than {IMAGE_TOKENS} ?<|end|><|assistant|>",
]


@pytest.fixture
def prompts_of(tmp_path, write_lines):
    """Reads rows from a file beside which the pictures b.png and c.png are."""
    for number, name in enumerate("bc"):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return lambda rows: read_prompts(write_lines(tmp_path / "annotations.jsonl", rows), instruction="")


@pytest.fixture
def turns(tiny_processor):
    """Tokens of question and of answer, of each of the rows."""

    def ids_of(text):
        return tiny_processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    return [(ids_of(text), ids_of(row["response"] + "<|end|>")) for text, row in zip(ASKED, ROWS, strict=True)]


def test_a_padded_batch_equals_turns_written_out(prompts_of, turns, tiny_processor):
    """Response and end token are the target, of every row, wherever padding and images put it."""
    batch = SupervisedCollator(ChatRenderer(tiny_processor))(prompts_of(ROWS))
    lengths = [len(question) + len(answer) for question, answer in turns]
    for index, (question, answer) in enumerate(turns):
        padding = max(lengths) - lengths[index]
        found = batch.inputs["input_ids"][index].tolist()
        assert found == [*question, *answer, *[tiny_processor.tokenizer.pad_token_id] * padding]
        expected = [*[IGNORE_INDEX] * len(question), *answer, *[IGNORE_INDEX] * padding]
        assert batch.labels[index].tolist() == expected
        assert batch.inputs["attention_mask"][index].tolist() == [1] * lengths[index] + [0] * padding
    assert batch.inputs["pixel_values"].shape == (3, 3, 32, 32)
    assert batch.sample_ids[1:] == ["x", "5"]
    assert batch.lengths.tolist() == lengths
    assert batch.samples_of(batch.labels >= 0).tolist() == [i for i, (_, answer) in enumerate(turns) for _ in answer]


def test_a_padding_free_batch_is_the_turns_one_after_another(prompts_of, turns, tiny_processor):
    batch = SupervisedCollator(ChatRenderer(tiny_processor), padding_free=True)(prompts_of(ROWS))
    assert batch.inputs["input_ids"].tolist() == [[token for pair in turns for ids in pair for token in ids]]
    targets = [[*[IGNORE_INDEX] * len(question), *answer] for question, answer in turns]
    assert batch.labels.tolist() == [[token for row in targets for token in row]]
    assert batch.inputs["position_ids"].tolist() == [[place for row in targets for place in range(len(row))]]
    assert "attention_mask" not in batch.inputs
    lengths = [len(row) for row in targets]
    assert batch.lengths.tolist() == lengths
    assert batch.boundaries == [0, lengths[0], lengths[0] + lengths[1], sum(lengths)]
    assert batch.inputs["pixel_values"].shape == (3, 3, 32, 32)
    assert batch.sample_ids[1:] == ["x", "5"]
    every_token = torch.ones_like(batch.labels, dtype=torch.bool)
    assert batch.samples_of(every_token).tolist() == [i for i, length in enumerate(lengths) for _ in range(length)]


def test_a_demonstration_needs_a_response(prompts_of, tiny_processor):
    prompts = prompts_of([{"question": "q", "answer": "1", "id": "q 7"}])
    with pytest.raises(ValueError, match=r"^q 7: field 'response' is missing"):
        SupervisedCollator(ChatRenderer(tiny_processor))(prompts)


def test_a_template_that_renders_answered_chats_differently(prompts_of, tiny_checkpoint, tiny_processor):
    processor = type(tiny_processor).from_pretrained(tiny_checkpoint)
    processor.chat_template = "{{ messages | length }}{% if add_generation_prompt %}A:{% endif %}"
    with pytest.raises(ValueError, match="the chat template renders an answered chat differently from its prompt"):
        SupervisedCollator(ChatRenderer(processor))(prompts_of(ROWS[:1]))


@pytest.mark.parametrize("padding_free", [False, True])
def test_a_picture_that_is_cut_short(prompts_of, tmp_path, tiny_processor, padding_free):
    """Its demonstration stays in the batch, with a blank picture and no target; the others are as they would be."""
    pixels = np.random.default_rng(7).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    renderer = ChatRenderer(tiny_processor)
    prompts = prompts_of([ROWS[0], ROWS[1] | {"image": "cut.png"}, ROWS[2]])
    whole = SupervisedCollator(renderer, padding_free)(prompts)
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    batch = SupervisedCollator(renderer, padding_free, "skip")(prompts)
    assert list(batch.left_out) == ["x"]
    assert "annotations.jsonl:2: field 'image'" in batch.left_out["x"]
    assert torch.equal(batch.inputs["input_ids"], whole.inputs["input_ids"])
    row = whole.samples_of(whole.labels != IGNORE_INDEX)
    expected = whole.labels.clone()
    expected[whole.labels != IGNORE_INDEX] = torch.where(
        row == 1, IGNORE_INDEX, whole.labels[whole.labels != IGNORE_INDEX]
    )
    assert torch.equal(batch.labels, expected)
    with pytest.raises(ImageError, match=r"annotations\.jsonl:2: field 'image'"):
        SupervisedCollator(renderer, padding_free)(prompts)
