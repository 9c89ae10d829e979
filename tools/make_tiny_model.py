"""Write a small, randomly initialised InternVL checkpoint that any `transformers` program loads.

The folder has the contents of an 8B checkpoint's folder: configuration, safetensors weights, a tokenizer (byte-level
BPE,
trained on the given texts), an image processor, and a chat template. Example::

    python -m tools.make_tiny_model --output data/base --texts data/world --text-hidden-size 128
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

from datamodules.conversation.messages import QUESTION_HEADER, SOLUTION_HEADER
from datamodules.storage.files import atomic_folder, read_jsonl, require_writable_folder
from lightning_modules.configuration.mistakes import ToolParser, tool
from lightning_modules.configuration.tool_arguments import nonempty_path, whole_number
from lightning_modules.export.pretrained_folder import require_replaceable

SPECIAL_TOKENS = {
    "pad_token": "<|pad|>",
    "eos_token": "<|end|>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
ROLE_TOKENS = ["<|system|>", "<|user|>", "<|assistant|>"]
CLASS_TOKENS = ["+", "-", "="]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Every digit is a token of its own, as in Qwen2, so that a digit is the same token where it is read and where it is
# used. Words keep a leading space; a run of punctuation stays together and also keeps the line breaks behind it, as in
# Qwen2, or else one space: a fifth of a solution's tokens would be spaces and line breaks alone.
PRE_TOKENIZATION = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+(?:\n+| )?|\n+|\s+"


def texts_of(paths: list[Path]) -> Iterator[str]:
    """Every string in the given JSONL files and folders of them."""
    for path in paths:
        for file in sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]:
            for _, row in read_jsonl(file):
                yield from (value for value in row.values() if isinstance(value, str))
                yield QUESTION_HEADER + SOLUTION_HEADER


def train_tokenizer(texts: Iterator[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the special tokens of the InternVL processor."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZATION), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[*SPECIAL_TOKENS.values(), *ROLE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS["pad_token"],
        eos_token=SPECIAL_TOKENS["eos_token"],
        extra_special_tokens={
            name: token for name, token in SPECIAL_TOKENS.items() if name not in ("pad_token", "eos_token")
        },
        padding_side="right",
    )
    for token in CLASS_TOKENS:
        if len(fast(token, add_special_tokens=False)["input_ids"]) != 1:
            raise ValueError(f"the trained tokenizer splits the class token {token!r}; raise the vocabulary size")
    return fast


def make_tiny_model(
    output: Path,
    texts: Iterator[str],
    *,
    vocabulary_size: int = 512,
    image_size: int = 32,
    patch_size: int = 8,
    vision_hidden_size: int = 64,
    vision_layers: int = 2,
    text_hidden_size: int = 128,
    text_layers: int = 4,
    heads: int = 4,
    max_patches: int = 1,
    seed: int = 0,
) -> None:
    """Write the checkpoint folder.

    Args:
        output: Folder to write.
        texts: Texts to train the tokenizer on.
        vocabulary_size: At least 280: 256 bytes and the special tokens.
        image_size: Side of a tile in pixels.
        patch_size: Side of a vision patch in pixels; four patches make one image token.
        vision_hidden_size: Width of the vision tower.
        vision_layers: Depth of the vision tower.
        text_hidden_size: Width of the language model.
        text_layers: Depth of the language model.
        heads: Attention heads of both.
        max_patches: Most tiles of an image in dynamic tiling; 1 switches tiling off.
        seed: Seed of the random weights.
    """
    tokenizer = train_tokenizer(texts, vocabulary_size)
    image_tokens = (image_size // patch_size) ** 2 // 4
    image_token_id = tokenizer.vocab[SPECIAL_TOKENS["context_image_token"]]
    size = {"height": image_size, "width": image_size}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size=size, crop_to_patches=max_patches > 1, min_patches=1, max_patches=max_patches
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=image_tokens,
        chat_template=CHAT_TEMPLATE,
    )
    config = InternVLConfig(
        vision_config={
            "hidden_size": vision_hidden_size,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": heads,
            "intermediate_size": 2 * vision_hidden_size,
            "image_size": [image_size, image_size],
            "patch_size": [patch_size, patch_size],
            "layer_scale_init_value": 1.0,
            "attention_bias": True,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": text_hidden_size,
            "intermediate_size": 3 * text_hidden_size,
            "num_hidden_layers": text_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": False,
            "initializer_range": text_hidden_size**-0.5 / 2,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=image_token_id,
        image_seq_length=image_tokens,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with atomic_folder(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"output": str(output), "parameters": parameters, "vocabulary": len(tokenizer)}))


@tool("make_tiny_model")
def main() -> int:
    """Command line of the tool; returns the exit status."""
    parser = ToolParser(prog="make_tiny_model", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=nonempty_path, required=True, help="folder to write")
    parser.add_argument("--texts", type=nonempty_path, nargs="+", required=True, help="JSONL files or folders of them")
    parser.add_argument("--vision-hidden-size", type=whole_number(1, 2**16), default=64)
    parser.add_argument("--vision-layers", type=whole_number(1, 2**16), default=2)
    parser.add_argument("--text-hidden-size", type=whole_number(1, 2**16), default=128)
    parser.add_argument("--text-layers", type=whole_number(1, 2**16), default=4)
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    arguments = parser.parse_args()
    if require_replaceable(arguments.output) and not arguments.overwrite:
        raise FileExistsError(f"{arguments.output} is there already; give another folder or --overwrite")
    require_writable_folder(arguments.output)
    make_tiny_model(
        arguments.output,
        texts_of(arguments.texts),
        vision_hidden_size=arguments.vision_hidden_size,
        vision_layers=arguments.vision_layers,
        text_hidden_size=arguments.text_hidden_size,
        text_layers=arguments.text_layers,
        seed=arguments.seed,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
