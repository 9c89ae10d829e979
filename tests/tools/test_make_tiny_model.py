import json
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tools import make_tiny_model

TEXTS = ["The digits are 3 , 17 and 123 .", "3 + 4 = 7 .\n\nSo 7 - 4", "Answer: \\boxed{12}"]
SMALL = {"vision_hidden_size": 16, "vision_layers": 1, "text_hidden_size": 32, "text_layers": 2, "heads": 2}


def test_every_text_of_the_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.jsonl").write_text('{"question": "Why?", "level": 3, "image": ["x.png"], "answer": "A"}\n')
    (tmp_path / "two.jsonl").write_text('{"response": "So."}\n')
    headers = "### Question:\n\n\n### Solution Process:\n"
    expected = ["Why?", "A", headers, "So.", headers]
    assert list(make_tiny_model.texts_of([tmp_path / "a", tmp_path / "two.jsonl"])) == expected
    assert list(make_tiny_model.texts_of([tmp_path])) == expected


def test_tokenizer():
    tokenizer = make_tiny_model.train_tokenizer(iter(TEXTS * 20), 448)
    for text in [*TEXTS, "Äöü √2 ≤ 漢字\t\n\n <image>", ""]:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    # Every digit is one token, and the space before it another, where no punctuation takes it; so is a class token.
    for text in ("3", " ", "+", "-", "="):
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1, text
    assert tokenizer.convert_ids_to_tokens(tokenizer(" 17", add_special_tokens=False)["input_ids"]) == ["Ġ", "1", "7"]
    for token in ("<|pad|>", "<|end|>", "<IMG_CONTEXT>", "<|assistant|>"):
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1, token


def test_no_token_is_spent_on_spaces_around_punctuation():
    sums = [f"Top left: {a}.\n\n{a} + {b} = {a + b} and {b} - 0 = {b}." for a in range(5) for b in range(10)]
    tokenizer = make_tiny_model.train_tokenizer(iter([*TEXTS, *sums]), 512)
    ids = tokenizer("Top left: 3.\n\n3 + 9 = 12 and 9 - 0 = 9.", add_special_tokens=False)["input_ids"]
    words = ["Top", " left", ": ", "3", ".\n\n", "3", " + ", "9", " = ", "1", "2", " and", " ", "9", " - ", "0"]
    assert [tokenizer.decode([token]) for token in ids] == [*words, " = ", "9", "."]


def test_a_checkpoint_like_a_large_one(tmp_path):
    make_tiny_model.make_tiny_model(tmp_path, iter(TEXTS), **SMALL)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(model).__name__ == "InternVLForConditionalGeneration"
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|><IMG_CONTEXT>Why?<|end|><|assistant|>"
    inputs = processor(text=[text], images=[[Image.new("RGB", (50, 40), "white")]], return_tensors="pt")
    image_id = processor.tokenizer.vocab["<IMG_CONTEXT>"]
    # 4 x 4 patches of a picture, four of which make a token.
    assert (inputs["input_ids"] == image_id).sum() == 4
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape == (1, inputs["input_ids"].shape[1], len(processor.tokenizer))
    assert logits.isfinite().all()
    end = processor.tokenizer.vocab["<|end|>"]
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id == end
    assert processor.tokenizer.pad_token_id == processor.tokenizer.vocab["<|pad|>"]


def test_the_seed_fixes_the_weights(tmp_path):
    for name, seed in (("first", 1), ("second", 1), ("other", 2)):
        make_tiny_model.make_tiny_model(tmp_path / name, iter(TEXTS), **SMALL, seed=seed)
    first, second, other = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second", "other")
    )
    assert first == second
    assert first != other


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    sizes = "--vision-hidden-size 16 --vision-layers 1 --text-hidden-size 32 --text-layers 3".split()
    paths = ["--output", str(tmp_path / "model"), "--texts", str(tmp_path / "texts.jsonl")]
    monkeypatch.setattr(sys, "argv", ["make_tiny_model", *paths, *sizes])
    make_tiny_model.main()
    printed = json.loads(capsys.readouterr().out)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert printed["parameters"] == sum(p.numel() for p in model.parameters())
    assert model.config.text_config.num_hidden_layers == 3


def test_a_class_token_that_is_split(monkeypatch):
    monkeypatch.setattr(make_tiny_model, "CLASS_TOKENS", ["+", "good!"])
    with pytest.raises(ValueError, match="the trained tokenizer splits the class token 'good!'"):
        make_tiny_model.train_tokenizer(iter(TEXTS), 448)
