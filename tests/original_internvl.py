"""Small random checkpoints in the original layout of InternVL, file by file as released."""

import json
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor

TEXTS = [
    "### Question:\nHow many digits are larger than 4 ?\n\n### Solution Process:\nThe digits are 3 , 7 and 9 .",
    "So the answer is \\boxed{2} .\nImage-1: Image-2: system user assistant",
    "You check solutions step by step. 12 + 34 - 5 = 41 , Äöü 漢字 √2 ≤ 3",
]
SYSTEM_PROMPT = '你检查 solutions, and {braces} stay "as" they are.'
IMAGE_TOKENS = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]

CONVERSATION = '''
"""Conversation prompt templates."""
import dataclasses
raise RuntimeError("this file must be read, not run")
register_conv_template(
    Conversation(
        name="internlm2-chat",
        system_template="<|im_start|>system\\n{system_message}",
        system_message="another one",
        roles=("<|im_start|>user\\n", "<|im_start|>assistant\\n"),
        sep_style=SeparatorStyle.MPT,
        sep="<|im_end|>",
    )
)

register_conv_template(
    Conversation(
        name='internvl2_5',
        system_template='<|im_start|>system\\n{system_message}',
        # note: a comment as in the release
        system_message=%s,
        roles=('<|im_start|>user\\n', '<|im_start|>assistant\\n'),
        sep_style=SeparatorStyle.MPT,
        sep='<|im_end|>\\n',
    )
)
'''

SIZES = {"hidden": 48, "intermediate": 80, "layers": 2, "heads": 4, "kv_heads": 2}
VISION = {"hidden": 32, "intermediate": 56, "layers": 2, "heads": 4, "image": 56, "patch": 14}
CODE_FILES = ["modeling_internvl_chat.py", "configuration_internvl_chat.py", "tokenization_internlm2.py"]


def configuration(language_model: str, vocabulary_size: int, **changes) -> dict:
    """``config.json`` as released, but small; ``changes`` replace keys, ``llm`` and ``vision`` those of its parts."""
    architecture = changes.pop("architecture", "InternVLChatModel")
    llm = {
        "architectures": [language_model],
        "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
        "attn_implementation": "eager",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": SIZES["hidden"],
        "initializer_range": 0.02,
        "intermediate_size": SIZES["intermediate"],
        "max_position_embeddings": 32768,
        "model_type": "internlm2" if language_model == "InternLM2ForCausalLM" else "qwen2",
        "num_attention_heads": SIZES["heads"],
        "num_hidden_layers": SIZES["layers"],
        "num_key_value_heads": SIZES["kv_heads"],
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": vocabulary_size,
    }
    if language_model == "InternLM2ForCausalLM":
        llm["bias"] = False
    vision = {
        "architectures": ["InternVisionModel"],
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": VISION["hidden"],
        "image_size": VISION["image"],
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": VISION["intermediate"],
        "layer_norm_eps": 1e-06,
        "model_type": "intern_vit_6b",
        "norm_type": "layer_norm",
        "num_attention_heads": VISION["heads"],
        "num_channels": 3,
        "num_hidden_layers": VISION["layers"],
        "patch_size": VISION["patch"],
        "qk_normalization": False,
        "qkv_bias": True,
        "use_flash_attn": True,
    }
    llm |= changes.pop("llm", {})
    vision |= changes.pop("vision", {})
    config = {
        "_commit_hash": None,
        "architectures": [architecture],
        "auto_map": {
            "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": f"modeling_internvl_chat.{architecture}",
        },
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": VISION["image"],
        "llm_config": llm,
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "torch_dtype": "float32",
        "transformers_version": None,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": vision,
    }
    config |= changes
    return {name: value for name, value in config.items() if value != "absent"}


class RandomWeights(dict):
    """Random tensors by name, scaled so that attention is not flat and positions matter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = torch.Generator().manual_seed(seed)

    def add(self, name: str, *shape: int, scale: float = 1.0, mean: float = 0.0) -> None:
        self[name] = mean + scale * torch.randn(*shape, generator=self._random)

    def linear(self, name: str, outputs: int, inputs: int, *, gain: float = 1.0, bias: bool = True) -> None:
        self.add(f"{name}.weight", outputs, inputs, scale=gain * inputs**-0.5)
        if bias:
            self.add(f"{name}.bias", outputs, scale=0.3)

    def norm(self, name: str, size: int, *, bias: bool) -> None:
        self.add(f"{name}.weight", size, scale=0.2, mean=1.0)
        if bias:
            self.add(f"{name}.bias", size, scale=0.2)


def weights(config: dict, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of the original layout that fit a configuration."""
    made = RandomWeights(seed)
    vision, llm = config["vision_config"], config["llm_config"]
    width, patch = vision["hidden_size"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    made.add("vision_model.embeddings.class_embedding", 1, 1, width)
    made.add("vision_model.embeddings.position_embedding", 1, patches + 1, width, scale=0.7)
    made.add("vision_model.embeddings.patch_embedding.weight", width, 3, patch, patch, scale=2 / patch)
    made.add("vision_model.embeddings.patch_embedding.bias", width, scale=0.3)
    has_bias = vision["norm_type"] == "layer_norm"
    for number in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{number}"
        made.linear(f"{layer}.attn.qkv", 3 * width, width, gain=1.5, bias=vision["qkv_bias"])
        made.linear(f"{layer}.attn.proj", width, width)
        if vision["qk_normalization"]:
            made.norm(f"{layer}.attn.q_norm", width, bias=False)
            made.norm(f"{layer}.attn.k_norm", width, bias=False)
        made.linear(f"{layer}.mlp.fc1", vision["intermediate_size"], width)
        made.linear(f"{layer}.mlp.fc2", width, vision["intermediate_size"])
        for part in ("1", "2"):
            made.norm(f"{layer}.norm{part}", width, bias=has_bias)
            made.add(f"{layer}.ls{part}", width, scale=0.3, mean=0.8)
    hidden = llm["hidden_size"]
    made.norm("mlp1.0", 4 * width, bias=True)
    made.linear("mlp1.1", hidden, 4 * width, gain=2)
    made.linear("mlp1.3", hidden, hidden, gain=2)
    if llm["architectures"] == ["InternLM2ForCausalLM"]:
        _internlm2(made, llm)
    else:
        _qwen2(made, llm)
    return dict(made)


def _internlm2(made: RandomWeights, llm: dict) -> None:
    hidden, size = llm["hidden_size"], llm["hidden_size"] // llm["num_attention_heads"]
    rows = (llm["num_attention_heads"] + 2 * llm["num_key_value_heads"]) * size
    made.add("language_model.model.tok_embeddings.weight", llm["vocab_size"], hidden)
    for number in range(llm["num_hidden_layers"]):
        layer = f"language_model.model.layers.{number}"
        made.linear(f"{layer}.attention.wqkv", rows, hidden, gain=1.6, bias=llm["bias"])
        made.linear(f"{layer}.attention.wo", hidden, hidden, gain=1.5, bias=llm["bias"])
        for name, outputs, inputs in (("w1", 0, 1), ("w2", 1, 0), ("w3", 0, 1)):
            sizes = (llm["intermediate_size"], hidden)
            made.linear(f"{layer}.feed_forward.{name}", sizes[outputs], sizes[inputs], bias=False)
        made.norm(f"{layer}.attention_norm", hidden, bias=False)
        made.norm(f"{layer}.ffn_norm", hidden, bias=False)
    made.norm("language_model.model.norm", hidden, bias=False)
    made.linear("language_model.output", llm["vocab_size"], hidden, gain=1.5, bias=False)


def _qwen2(made: RandomWeights, llm: dict) -> None:
    hidden, size = llm["hidden_size"], llm.get("head_dim", llm["hidden_size"] // llm["num_attention_heads"])
    normalises = llm["architectures"] == ["Qwen3ForCausalLM"]
    has_bias = llm["architectures"] == ["Qwen2ForCausalLM"]
    made.add("language_model.model.embed_tokens.weight", llm["vocab_size"], hidden)
    for number in range(llm["num_hidden_layers"]):
        layer = f"language_model.model.layers.{number}"
        for name, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads"), ("v", "num_key_value_heads")):
            made.linear(f"{layer}.self_attn.{name}_proj", llm[heads] * size, hidden, gain=1.6, bias=has_bias)
        made.linear(f"{layer}.self_attn.o_proj", hidden, llm["num_attention_heads"] * size, gain=1.5, bias=False)
        if normalises:
            made.norm(f"{layer}.self_attn.q_norm", size, bias=False)
            made.norm(f"{layer}.self_attn.k_norm", size, bias=False)
        made.linear(f"{layer}.mlp.gate_proj", llm["intermediate_size"], hidden, bias=False)
        made.linear(f"{layer}.mlp.up_proj", llm["intermediate_size"], hidden, bias=False)
        made.linear(f"{layer}.mlp.down_proj", hidden, llm["intermediate_size"], bias=False)
        made.norm(f"{layer}.input_layernorm", hidden, bias=False)
        made.norm(f"{layer}.post_attention_layernorm", hidden, bias=False)
    made.norm("language_model.model.norm", hidden, bias=False)
    if not llm["tie_word_embeddings"]:
        made.linear("language_model.lm_head", llm["vocab_size"], hidden, gain=1.5, bias=False)


def write_weights(folder: Path, tensors: dict[str, Tensor], shards: int = 3, suffix: str = "safetensors") -> None:
    """Weight shards and their index, tensors dealt out as a release does: in order, a share each."""
    names = list(tensors)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for number, part in enumerate(np.array_split(np.array(names), shards), start=1):
        file = f"{stem}-{number:05}-of-{shards:05}.{suffix}"
        held = {str(name): tensors[str(name)].contiguous() for name in part}
        if suffix == "safetensors":
            save_file(held, folder / file, metadata={"format": "pt"})
        else:
            torch.save(held, folder / file)
        weight_map |= dict.fromkeys(held, file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    name = "model.safetensors.index.json" if suffix == "safetensors" else "pytorch_model.bin.index.json"
    (folder / name).write_text(json.dumps(index))


def _entry(content: str) -> dict:
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def write_sentencepiece(folder: Path, *, vocabulary_size: int = 420, dummy_prefix: bool = False) -> int:
    """InternLM2's tokenizer files; returns the number of tokens.

    As in the release, unused pieces of the SentencePiece model have the ids of chat tokens, and the image tokens come
    behind its last id.
    """
    unused = [f"[UNUSED_TOKEN_{number}]" for number in range(8)]
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 4),
            model_writer=file,
            model_type="bpe",
            vocab_size=vocabulary_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=dummy_prefix,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=unused,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    first = model.piece_to_id(unused[0])
    chat = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
    added = {0: "<unk>", 1: "<s>", 2: "</s>"}
    added |= {first + number: token for number, token in enumerate(chat)}
    added |= {model.vocab_size() + number: token for number, token in enumerate(IMAGE_TOKENS)}
    tokenizer_config = {
        "added_tokens_decoder": {str(index): _entry(token) for index, token in added.items()},
        "additional_special_tokens": [*chat, *IMAGE_TOKENS],
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "bos_token": "<s>",
        "chat_template": "{{ bos_token }} not the one that the released code writes",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": 8192,
        "pad_token": "</s>",
        "tokenizer_class": "InternLM2Tokenizer",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return model.vocab_size() + len(IMAGE_TOKENS)


def write_byte_level(folder: Path) -> int:
    """Qwen2's tokenizer files; returns the number of tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.model.save(str(folder))
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *IMAGE_TOKENS]
    added = {tokenizer.get_vocab_size() + number: token for number, token in enumerate(tokens)}
    tokenizer_config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(index): _entry(token) for index, token in added.items()},
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return tokenizer.get_vocab_size() + len(added)


def write_checkpoint(
    folder: Path,
    language_model: str = "InternLM2ForCausalLM",
    *,
    shards: int = 3,
    dtype: torch.dtype = torch.float32,
    **changes,
) -> dict[str, Tensor]:
    """A whole released folder; returns its tensors. Other keywords as of :func:`configuration`."""
    folder.mkdir(parents=True, exist_ok=True)
    is_internlm2 = language_model == "InternLM2ForCausalLM"
    vocabulary_size = (write_sentencepiece if is_internlm2 else write_byte_level)(folder)
    config = configuration(language_model, vocabulary_size, **changes)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "conversation.py").write_text(CONVERSATION % repr(SYSTEM_PROMPT))
    for name in CODE_FILES:
        (folder / name).write_text("raise RuntimeError('code of the source folder was run')\n")
    tensors = {name: tensor.to(dtype) for name, tensor in weights(config).items()}
    write_weights(folder, tensors, shards)
    return tensors
