"""Convert the tokenizer of a source folder to a fast tokenizer with the same ids, without remote code.

InternLM2 folders carry a SentencePiece model and a tokenizer class in Python (``tokenization_internlm2.py``): text
between added tokens goes to SentencePiece, ``<s>`` stands in front. Qwen2 and Qwen3 folders carry ``vocab.json`` and
``merges.txt``, others a ``tokenizer.json``. Added tokens and their ids are those of ``tokenizer_config.json``. In
InternLM2 some have the ids of unused pieces such as ``[UNUSED_TOKEN_145]``; the names of those are ordinary text here,
while the original tokenizer reads them as the chat token that took their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import SpmConverter, import_protobuf

from datamodules.storage import fields
from tools.internvl_conversion.source import read_json

IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
}
VIDEO_TOKEN = "<|no video|>"  # noqa: S105 (no password)
"""Asked for by the processor of `transformers`, unknown to the original tokenizer: it gets an id behind all others.

No text is likely to hold it; ``<video>`` is ordinary text, as it is to the original tokenizer.
"""

_SENTENCEPIECE_BPE = 2
_INTERNLM2_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


def convert_tokenizer(folder: Path, *, is_internlm2: bool, vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Build the fast tokenizer.

    Args:
        folder: Source folder.
        is_internlm2: Whether it is InternLM2's tokenizer.
        vocabulary_size: Rows of the embeddings.

    Raises:
        FileNotFoundError: If a file of the tokenizer is missing.
        ValueError: If a token would get another id than in the source, or an id without an embedding.
    """
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path)
    added = _added_tokens(config, folder)
    named = dict(_INTERNLM2_TOKENS) if is_internlm2 else {}
    for name in _INTERNLM2_TOKENS:
        value = config.get(name)
        if value is not None:
            named[name] = value["content"] if isinstance(value, dict) else value
    backend = _sentencepiece(folder / "tokenizer.model", added) if is_internlm2 else _byte_level(folder)
    for index, token in sorted(added.items()):
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != index:
            raise ValueError(
                f"{config_path}: added token {token.content!r} must have id {index}, but the vocabulary before it ends "
                f"so that it gets {backend.token_to_id(token.content)}; the tokenizer files are not of one release"
            )
    missing = [token for token in IMAGE_TOKENS.values() if backend.token_to_id(token) is None]
    if missing:
        raise ValueError(f"{config_path}: the tokenizer has no tokens {', '.join(missing)} for images")
    if backend.get_vocab_size() > vocabulary_size:
        raise ValueError(
            f"{config_path}: {backend.get_vocab_size()} tokens, but only {vocabulary_size} embeddings "
            f"(llm_config.vocab_size)"
        )
    if is_internlm2 and config.get("add_bos_token", True):
        begin = named["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, backend.token_to_id(begin))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        extra_special_tokens={**IMAGE_TOKENS, "video_token": VIDEO_TOKEN},
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **named,
    )


def begin_of_text(tokenizer: PreTrainedTokenizerFast) -> str:
    """Special tokens that the tokenizer writes before a text; empty if there are none.

    Raises:
        ValueError: If it writes something after a text, which no chat template could undo.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    begin = whole[: len(whole) - len(bare)]
    if whole != begin + bare:
        raise ValueError(f"the tokenizer makes {whole} of a text whose tokens are {bare}; only a beginning is known")
    return "".join(tokenizer.convert_ids_to_tokens(begin))


def _added_tokens(config: Mapping[str, Any], folder: Path) -> dict[int, AddedToken]:
    where = str(folder / "tokenizer_config.json")
    listed = config.get("added_tokens_decoder")
    if listed is None:
        path = folder / "added_tokens.json"
        listed = {str(index): {"content": token, "special": True} for token, index in read_json(path).items()}
        where = str(path)
    if not isinstance(listed, dict) or not all(
        index.isdecimal() and isinstance(entry, dict) for index, entry in listed.items()
    ):
        raise fields.wrong_field(where, "added_tokens_decoder", "an object of tokens by id", listed)
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {
        int(index): AddedToken(
            fields.text(entry, "content", where, f"added_tokens_decoder[{index}].", blank=True),
            **{flag: bool(entry.get(flag, False)) for flag in flags},
        )
        for index, entry in listed.items()
    }


def _sentencepiece(path: Path, added: Mapping[int, AddedToken]) -> Tokenizer:
    proto = import_protobuf().ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path}: not a SentencePiece model: {error}") from error
    if proto.trainer_spec.model_type != _SENTENCEPIECE_BPE:
        raise ValueError(f"{path}: not a SentencePiece model of type BPE")
    # Added tokens take the place of pieces with their ids, as in the original tokenizer.
    pieces = [added[i].content if i in added else piece.piece for i, piece in enumerate(proto.pieces)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces):
        twice = sorted({piece for piece in pieces if pieces.count(piece) > 1})
        raise ValueError(f"{path}: tokens that stand at several ids: {fields.first_of(twice)}")
    tokenizer: Tokenizer = SpmConverter.build_tokenizer_from_spm_proto(proto, vocabulary)
    # A text that names a byte piece is no byte; a piece that stands alone would be taken for it.
    names = pre_tokenizers.Split(Regex(r"<(?=0x[0-9A-F]{2}>)"), behavior="isolated")
    before = [tokenizer.pre_tokenizer] if tokenizer.pre_tokenizer is not None else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, names])
    return tokenizer


def _byte_level(folder: Path) -> Tokenizer:
    vocabulary, merges, whole = (folder / name for name in ("vocab.json", "merges.txt", "tokenizer.json"))
    if vocabulary.is_file() and merges.is_file():
        pieces, pairs = BPE.read_file(str(vocabulary), str(merges))
        no_tokens: dict[str, Any] = dict.fromkeys(("unk_token", "eos_token", "pad_token"))
        bare = Qwen2Tokenizer(vocab=pieces, merges=pairs, **no_tokens)  # type: ignore[arg-type]
        tokenizer: Tokenizer = bare.backend_tokenizer
        return tokenizer
    if whole.is_file():
        return Tokenizer.from_file(str(whole))
    raise FileNotFoundError(f"{folder}: no tokenizer; expected vocab.json with merges.txt, or tokenizer.json")
