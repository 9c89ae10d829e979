"""Tiny random checkpoints of many model families, in the format in which the large ones are released.

Each has the tokenizer kind, special tokens, chat template layout, processor and configuration of its family; only the
sizes and the vocabulary are small. ``write_family("qwen2_5_vl", folder)`` writes one.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

TEXTS = [
    "### Question:\nHow many digits are larger than 4?\n\n### Solution Process:\n",
    "The digits are 3, 7 and 9.\n\nSo the answer is \\boxed{2}.\n",
    "So 3 + 4 = 7 and 7 - 4 = 3. + - = + - = + - =",
    "system user assistant model\n You check every step. User: Assistant: think",
] * 8
ROLES = ["<|im_start|>", "<|im_end|>"]
IMAGE_SIZE, PATCH_SIZE = 32, 8

# --------------------------------------------------------------- tokenizers

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level_tokenizer(special: Sequence[str], split: str | None = QWEN_SPLIT, **names: str) -> Any:
    """Byte-level BPE: of Qwen with its splitting of words, otherwise of GPT-2, where ``" +"`` is a token."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    parts = [pre_tokenizers.Split(Regex(split), behavior="isolated"), byte_level] if split else [byte_level]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(special) + 120,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return fast(tokenizer, special, names)


def sentencepiece_tokenizer(special: Sequence[str], dummy_prefix: bool = True, **names: str) -> Any:
    """BPE of SentencePiece (Llama, InternLM2, Gemma): ``▁`` for a space, bytes for what is unknown."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[^▁\n]+|\n+|▁+"), behavior="isolated")
    learner.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    )
    learned = json.loads(learner.to_str())["model"]
    pieces = [piece for piece in sorted(learned["vocab"], key=learned["vocab"].get) if piece != "<unk>"]
    first = ["<unk>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    vocabulary = {piece: index for index, piece in enumerate([*first, *pieces])}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    prefix = [normalizers.Prepend("▁")] if dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if dummy_prefix else [])
    )
    tokenizer.add_special_tokens(list(special))
    return fast(tokenizer, special, {"unk_token": "<unk>", **names})


def fast(tokenizer: Tokenizer, special: Sequence[str], names: dict[str, str]) -> PreTrainedTokenizerFast:
    """A `transformers` tokenizer; names that it does not know become attributes, as the released files have them."""
    known = {name: names[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token") if name in names}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="right",
        extra_special_tokens={name: token for name, token in names.items() if name not in known},
        **known,
    )


# ----------------------------------------------------------- chat templates

CONTENT = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
)


def chatml(image: str, default_system: str = "", start: str = "") -> str:
    """<|im_start|>role, the content, <|im_end|>."""
    default = (
        "{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nDEFAULT<|im_end|>\n{% endif %}".replace(
            "DEFAULT", default_system
        )
        if default_system
        else ""
    )
    return (
        f"{start}{{% for m in messages %}}{default}{{{{ '<|im_start|>' + m['role'] + '\n' }}}}"
        + CONTENT.replace("IMAGE", image)
        + "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


QWEN3_THINKING = (
    "{% set ns = namespace(query=0) %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set text = m['content'] %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% set text = text.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.index0 > ns.query %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
    "{{ text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAVA_ONEVISION = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% set prefix = '' %}{% set turns = messages %}"
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set first = messages[0]['content'] %}"
    "{% set prefix = (first if first is string else first[0]['text']) + '\n\n' %}{% endif %}"
    "{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{% if loop.first %}{{ prefix }}{% endif %}"
    "{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<start_of_image>' }}{% else %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
IDEFICS3 = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

# ------------------------------------------------------------ configurations

VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}


def text_config(model_type: str, tokenizer: Any, **more: Any) -> dict[str, Any]:
    """A language model of two layers."""
    return {
        "model_type": model_type,
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def internvl(tokenizer: Any, template: str, text: dict[str, Any]) -> tuple[Any, Any]:
    """InternVL2.5, 3 and 3.5 in the native layout."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    tokens = (IMAGE_SIZE // PATCH_SIZE) ** 2 // 4
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=tokens,
        chat_template=template,
    )
    vision = VISION | {"image_size": [IMAGE_SIZE] * 2, "patch_size": [PATCH_SIZE] * 2, "attention_bias": True}
    config = AutoConfig.for_model(
        "internvl",
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        tie_word_embeddings=False,
    )
    return processor, config


INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
QWEN_NAMES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def internvl_qwen(version: int) -> tuple[Any, Any]:
    special = ["<|endoftext|>", *ROLES, *INTERNVL_TOKENS.values()]
    tokenizer = byte_level_tokenizer(special, **QWEN_NAMES, **INTERNVL_TOKENS)
    return internvl(tokenizer, chatml("<IMG_CONTEXT>\n"), text_config(f"qwen{version}", tokenizer))


def internvl_llama() -> tuple[Any, Any]:
    special = ["<s>", "</s>", *ROLES, *INTERNVL_TOKENS.values()]
    names = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "</s>"}
    tokenizer = sentencepiece_tokenizer(special, **names, **INTERNVL_TOKENS)
    return internvl(tokenizer, chatml("<IMG_CONTEXT>\n", start="{{ bos_token }}"), text_config("llama", tokenizer))


def qwen_vl(version: str) -> tuple[Any, Any]:
    special = ["<|endoftext|>", *ROLES, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = byte_level_tokenizer(special, **QWEN_NAMES)
    pixels = {"shortest_edge": 256, "longest_edge": 4096}
    options = {"patch_size": 4, "merge_size": 2, "size": pixels}
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    if version == "qwen2_5_vl":
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
        processor_class, video = Qwen2_5_VLProcessor, Qwen2VLVideoProcessor(**options)
        template = chatml(image, default_system="You are a helpful assistant.")
    else:
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        rope["mrope_interleaved"] = True
        processor_class, video = Qwen3VLProcessor, Qwen3VLVideoProcessor(**options)
        template = chatml(image)
    processor = processor_class(
        image_processor=Qwen2VLImageProcessor(**options),
        tokenizer=tokenizer,
        video_processor=video,
        chat_template=template,
    )
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", "<|image_pad|>"),
            ("video_token_id", "<|video_pad|>"),
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
        )
    }
    text = text_config(f"{version}_text", tokenizer, rope_parameters=rope)
    return processor, AutoConfig.for_model(
        version, vision_config=vision, text_config=text, tie_word_embeddings=False, **ids
    )


def llava_onevision() -> tuple[Any, Any]:
    special = ["<|endoftext|>", *ROLES, "<image>", "<video>"]
    tokenizer = byte_level_tokenizer(special, **QWEN_NAMES)
    grid = [[IMAGE_SIZE * height, IMAGE_SIZE * width] for height in (1, 2) for width in (1, 2)]
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_ONEVISION,
    )
    config = AutoConfig.for_model(
        "llava_onevision",
        vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=text_config("qwen2", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    return processor, config


GEMMA_TOKENS = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
GEMMA_NAMES = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}


def gemma3() -> tuple[Any, Any]:
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = sentencepiece_tokenizer([*GEMMA_TOKENS, *names.values()], False, **GEMMA_NAMES, **names)
    tokens = 4
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer=tokenizer,
        chat_template=GEMMA3,
        image_seq_length=tokens,
    )
    config = AutoConfig.for_model(
        "gemma3",
        vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=text_config("gemma3_text", tokenizer, query_pre_attn_scalar=16, sliding_window=64),
        mm_tokens_per_image=tokens,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        tie_word_embeddings=False,
    )
    return processor, config


def idefics3() -> tuple[Any, Any]:
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    images = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", *tiles]
    special = ["<|endoftext|>", *ROLES, *images]
    names = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>"}
    tokenizer = byte_level_tokenizer(special, None, **names)
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": 2 * IMAGE_SIZE}, max_image_size={"longest_edge": IMAGE_SIZE}
        ),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=IDEFICS3,
    )
    config = AutoConfig.for_model(
        "idefics3",
        vision_config=VISION,
        text_config=text_config("llama", tokenizer),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return processor, config


def qwen3_text() -> tuple[Any, Any]:
    tokenizer = byte_level_tokenizer(["<|endoftext|>", *ROLES], **QWEN_NAMES)
    tokenizer.chat_template = QWEN3_THINKING
    return tokenizer, AutoConfig.for_model(**text_config("qwen3", tokenizer))


def gemma2_text() -> tuple[Any, Any]:
    tokenizer = sentencepiece_tokenizer(GEMMA_TOKENS, False, **GEMMA_NAMES)
    tokenizer.chat_template = GEMMA2
    return tokenizer, AutoConfig.for_model(**text_config("gemma2", tokenizer, query_pre_attn_scalar=16))


# ------------------------------------------------------------------ families


@dataclass(frozen=True)
class Family:
    """A family and the layout of its conversations, written out by hand.

    Attributes:
        make: Builds processor (or tokenizer) and configuration.
        user: A user turn: ``{system}`` where the system prompt is put into the first one, ``{images}`` and ``{text}``.
        header: Before an answer.
        closing: After it.
        system: The system turn; None where there is none.
        folded: What the system prompt becomes inside of the first user turn.
        default_system: What the template writes where there is no system turn.
        start: Before everything.
        image: Of each image, not yet expanded; empty for a text-only family.
        user_with_images: Where it differs.
        space: Between header and answer.
        answer: The class token ``+`` as a piece of the vocabulary, where the template puts it.
        plain_positions: Whether one number a token is all that the language model needs as position.
    """

    make: Callable[[], tuple[Any, Any]]
    user: str
    header: str
    closing: str
    system: str | None = None
    folded: str = ""
    default_system: str = ""
    start: str = ""
    image: str = ""
    user_with_images: str | None = None
    space: str = ""
    answer: str = "+"
    plain_positions: bool = True

    @property
    def is_multimodal(self) -> bool:
        return bool(self.image)

    def turns(self, question: str, num_images: int, steps: Sequence[str], system_prompt: str) -> list[str]:
        """User turns (the first with all before it) and assistant turns, alternating; images come first."""
        begin, folded = self.start, ""
        if system_prompt and self.system:
            begin += self.system.format(system_prompt)
        elif system_prompt:
            folded = self.folded.format(system_prompt)
        else:
            begin += self.default_system
        text = f"### Question:\n{question}\n\n### Solution Process:\n{steps[0]}"
        user = self.user_with_images if num_images and self.user_with_images else self.user
        turns = [begin + user.format(system=folded, images=self.image * num_images, text=text)]
        for step in steps[1:]:
            turns += [self.assistant, self.user.format(system="", images="", text=step)]
        return [*turns, self.assistant]

    @property
    def assistant(self) -> str:
        return f"{self.header}{self.space}+{self.closing}"


_CHATML: dict[str, Any] = {
    "user": "<|im_start|>user\n{images}{text}<|im_end|>\n",
    "header": "<|im_start|>assistant\n",
    "closing": "<|im_end|>\n",
    "system": "<|im_start|>system\n{}<|im_end|>\n",
}
_GEMMA: dict[str, Any] = {
    "user": "<start_of_turn>user\n{system}{images}{text}<end_of_turn>\n",
    "header": "<start_of_turn>model\n",
    "closing": "<end_of_turn>\n",
    "folded": "{}\n\n",
    "start": "<bos>",
}
_QWEN_VL: dict[str, Any] = _CHATML | {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "plain_positions": False,
}
FAMILIES: dict[str, Family] = {
    "internvl_qwen2": Family(lambda: internvl_qwen(2), **_CHATML, image="<IMG_CONTEXT>\n"),
    "internvl_llama": Family(internvl_llama, **_CHATML, image="<IMG_CONTEXT>\n", start="<s>"),
    "internvl_qwen3": Family(lambda: internvl_qwen(3), **_CHATML, image="<IMG_CONTEXT>\n"),
    "qwen2_5_vl": Family(
        lambda: qwen_vl("qwen2_5_vl"),
        **_QWEN_VL,
        default_system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    ),
    "qwen3_vl": Family(lambda: qwen_vl("qwen3_vl"), **_QWEN_VL),
    "llava_onevision": Family(
        llava_onevision,
        user="<|im_start|>user {images}\n{text}<|im_end|>",
        header="<|im_start|>assistant \n",
        closing="<|im_end|>",
        system="<|im_start|>system \n{}<|im_end|>",
        image="<image>",
    ),
    "gemma3": Family(gemma3, **_GEMMA, image="<start_of_image>"),
    "idefics3": Family(
        idefics3,
        user="User: {text}<end_of_utterance>\n",
        user_with_images="User:{images}{text}<end_of_utterance>\n",
        header="Assistant:",
        closing="<end_of_utterance>\n",
        system="System: {}<end_of_utterance>\n",
        start="<|im_start|>",
        image="<image>",
        space=" ",
        answer="Ġ+",
    ),
    "qwen3_text": Family(qwen3_text, **_CHATML),
    "gemma2_text": Family(gemma2_text, **_GEMMA),
}
USUAL = ("gemma3", "idefics3", "internvl_qwen2", "qwen3_text", "qwen3_vl")
"""One of each way to name the parts of a model, to place pictures and to count positions."""
EVERY_FAMILY = [pytest.param(name, marks=[] if name in USUAL else [pytest.mark.thorough]) for name in FAMILIES]
"""Cases of a test of what does not depend on the family by itself; `make test` takes the usual ones."""
MULTIMODAL = [name for name, family in FAMILIES.items() if family.is_multimodal]


def sharpen(model: PreTrainedModel) -> None:
    """Make outputs depend strongly on what is read: fresh weights hardly look at their context."""
    decoder = model.get_decoder()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                weight.normal_(0.0, 1.5 / weight[0].numel() ** 0.5)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(1.5)
        decoder.get_input_embeddings().weight.normal_(0.0, 1.0)


def widen(config: Any, head_size: int) -> None:
    """Give the attention of InternVL and Qwen-VL heads of a size, two to a layer; some servers know only large ones."""
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.head_dim = 2 * head_size, head_size
    vision.hidden_size = 2 * head_size
    if hasattr(vision, "out_hidden_size"):
        vision.out_hidden_size = text.hidden_size
        # Of half a head: a quarter for time, the rest for height and width.
        text.rope_parameters["mrope_section"] = [head_size // 8, 3 * head_size // 16, 3 * head_size // 16]


def write_family(name: str, folder: Path, head_size: int | None = None) -> None:
    """Write the checkpoint folder of a family, or of one with larger heads (see :func:`widen`)."""
    processor, config = FAMILIES[name].make()
    if head_size is not None:
        widen(config, head_size)
    torch.manual_seed(0)
    model_class = AutoModelForImageTextToText if FAMILIES[name].is_multimodal else AutoModelForCausalLM
    model = model_class.from_config(config)
    sharpen(model)
    model.generation_config.eos_token_id = config.get_text_config().eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
