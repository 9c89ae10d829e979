import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from internvl_reference import ReferenceModel
from original_internvl import TEXTS, write_byte_level, write_sentencepiece
from transformers import AutoTokenizer, Qwen2Tokenizer

from tools.internvl_conversion.tokenizer import begin_of_text, convert_tokenizer

TEXT = st.lists(
    st.sampled_from(
        ["The digits", " are 3", "\n", " ", "  ", "+", "-", "漢字", "é", "e\u0301", "😀", "[UNUSED_TOKEN_6]"]
    )
    | st.sampled_from(["[UNUSED_TOKEN_7]", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "▁", "12"])
    | st.sampled_from(["<0x0A>", "<0x", "<video>", "\n<0xE6>"])
    | st.text(max_size=6),
    max_size=10,
).map("".join)


def references(folder, vocabulary_size):
    (folder / "config.json").write_text("{}")
    reference = ReferenceModel(folder, {})
    return reference, convert_tokenizer(folder, is_internlm2=True, vocabulary_size=vocabulary_size)


@pytest.fixture(scope="module", params=[False, True], ids=["no dummy prefix", "dummy prefix"])
def internlm2(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("internlm2")
    return (*references(folder, write_sentencepiece(folder, dummy_prefix=request.param)), folder)


@given(text=TEXT)
@example(text="<|im_start|>assistant\n+<|im_end|>\n")
@example(text=TEXTS[0])
@example(text="<0x0A>")
@example(text="<|im_start|>user\n<0x0A><|im_end|>\n")
@example(text="is <video> a tag?")
def test_ids_are_those_of_sentencepiece(internlm2, text):
    reference, tokenizer, _ = internlm2
    expected = reference.sentencepiece_ids(text)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected
    assert tokenizer(text)["input_ids"] == [1, *expected]


def test_added_tokens_keep_their_ids(internlm2, tmp_path):
    reference, tokenizer, _ = internlm2
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for token, index in reference.added.items():
        assert loaded(token, add_special_tokens=False)["input_ids"] == [index]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id, loaded.unk_token_id) == (1, 2, 2, 0)
    assert loaded.context_image_token_id == reference.added["<IMG_CONTEXT>"]
    assert (loaded.start_image_token, loaded.end_image_token) == ("<img>", "</img>")
    assert loaded(TEXTS[1])["input_ids"] == [1, *reference.sentencepiece_ids(TEXTS[1])]
    assert loaded.decode(loaded(TEXTS[2], add_special_tokens=False)["input_ids"]) == TEXTS[2]
    assert begin_of_text(loaded) == "<s>"


def test_the_name_of_a_replaced_piece_is_text(internlm2):
    """SentencePiece reads it as the chat token that took its id; a response must not be able to write one."""
    reference, tokenizer, _ = internlm2
    (index,) = reference.sentencepiece_ids("[UNUSED_TOKEN_1]")[-1:]
    assert index == reference.added["<|interpreter|>"]
    ids = tokenizer("[UNUSED_TOKEN_1]", add_special_tokens=False)["input_ids"]
    assert index not in ids
    assert tokenizer.decode(ids) == "[UNUSED_TOKEN_1]"


def test_class_tokens_are_pieces_of_their_own(tmp_path):
    """As the released scorer looks them up: the piece "+" itself, not one with a space before it."""
    reference, tokenizer = references(tmp_path, write_sentencepiece(tmp_path))
    for token in "+-":
        assert tokenizer(token, add_special_tokens=False)["input_ids"] == [tokenizer.convert_tokens_to_ids(token)]
    answer = "<|im_start|>assistant\n+<|im_end|>"
    assert tokenizer.convert_tokens_to_ids("+") in reference.sentencepiece_ids(answer)


def test_qwen2(tmp_path):
    size = write_byte_level(tmp_path)
    tokenizer = convert_tokenizer(tmp_path, is_internlm2=False, vocabulary_size=size)
    original = Qwen2Tokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "<|im_start|>user\n<img><IMG_CONTEXT></img> e\u0301<|im_end|>\n", "  a\n\n b123"]:
        assert tokenizer(text)["input_ids"] == original(text)["input_ids"], text
    listed = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    for index, entry in listed.items():
        assert tokenizer.convert_tokens_to_ids(entry["content"]) == int(index)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert begin_of_text(tokenizer) == ""


def test_a_whole_tokenizer_file(tmp_path):
    size = write_byte_level(tmp_path)
    expected = convert_tokenizer(tmp_path, is_internlm2=False, vocabulary_size=size)
    expected.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocab.json").unlink()
    tokenizer = convert_tokenizer(tmp_path, is_internlm2=False, vocabulary_size=size + 1)
    assert tokenizer(TEXTS[0])["input_ids"] == expected(TEXTS[0])["input_ids"]


def test_older_folders_list_added_tokens_apart(tmp_path):
    size = write_byte_level(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    listed = config.pop("added_tokens_decoder")
    path.write_text(json.dumps(config))
    added = {entry["content"]: int(index) for index, entry in listed.items()}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    tokenizer = convert_tokenizer(tmp_path, is_internlm2=False, vocabulary_size=size)
    assert tokenizer("<IMG_CONTEXT>")["input_ids"] == [added["<IMG_CONTEXT>"]]


def change_config(folder, change):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_what_is_refused(tmp_path):
    size = write_sentencepiece(tmp_path)

    def refused(message, **options):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            convert_tokenizer(tmp_path, **{"is_internlm2": True, "vocabulary_size": size, **options})

    refused(f"{size} tokens, but only {size - 1} embeddings", vocabulary_size=size - 1)
    refused("no tokenizer; expected vocab.json", is_internlm2=False)
    entries = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    last = str(size - 1)
    change_config(
        tmp_path, lambda c: c["added_tokens_decoder"].update({str(size + 3): entries[last] | {"content": "<x>"}})
    )
    refused(f"'<x>' must have id {size + 3}")
    change_config(tmp_path, lambda c: c.update(added_tokens_decoder={k: entries[k] for k in ("0", "1", "2")}))
    refused("no tokens <img>, </img>, <IMG_CONTEXT>")
    change_config(tmp_path, lambda c: c.update(added_tokens_decoder=[1]))
    refused("must be an object of tokens by id")
    (tmp_path / "tokenizer.model").write_bytes(b"\xff\xff\xff")
    change_config(tmp_path, lambda c: c.update(added_tokens_decoder=entries))
    refused("not a SentencePiece model")
    (tmp_path / "tokenizer.model").unlink()
    refused("tokenizer.model")
