"""What the original layout of InternVL computes, restated from its definition on the original tensors, in float64.

Nothing here uses the converted checkpoint or a model class: attention heads are cut out row by row, rotary positions
turn complex numbers, pixels are gathered patch by patch.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import normalize, to_tensor

Tensors = dict[str, Tensor]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + epsilon).sqrt() * weight + bias


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * weight


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def linear(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    y = x @ tensors[f"{name}.weight"].T
    return y + tensors[f"{name}.bias"] if f"{name}.bias" in tensors else y


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool) -> Tensor:
    """One head: (L, D) each."""
    scores = queries @ keys.T / math.sqrt(queries.shape[-1])
    if causal:
        ahead = torch.ones_like(scores, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(ahead, -math.inf)
    return scores.softmax(-1) @ values


# -------------------------------------------------------------------- vision


def image_features(tensors: Tensors, config: dict, tile: Tensor, ps_version: str = "v2") -> Tensor:
    """Image tokens (T, H) of one tile (3, S, S)."""
    vision = config["vision_config"]
    patch, heads, epsilon = vision["patch_size"], vision["num_attention_heads"], vision["layer_norm_eps"]
    side = vision["image_size"] // patch
    kernel = tensors["vision_model.embeddings.patch_embedding.weight"]
    rows = [tensors["vision_model.embeddings.class_embedding"].flatten()]
    for row in range(side):
        for column in range(side):
            cut = tile[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            rows.append((kernel * cut).sum((1, 2, 3)) + tensors["vision_model.embeddings.patch_embedding.bias"])
    x = torch.stack(rows) + tensors["vision_model.embeddings.position_embedding"][0]
    width = x.shape[-1]

    def norm(y: Tensor, name: str) -> Tensor:
        if vision["norm_type"] == "rms_norm":
            return rms_norm(y, tensors[f"{name}.weight"], epsilon)
        return layer_norm(y, tensors[f"{name}.weight"], tensors[f"{name}.bias"], epsilon)

    for number in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{number}"
        fused = linear(norm(x, f"{layer}.norm1"), tensors, f"{layer}.attn.qkv")
        q, k, v = fused[:, :width], fused[:, width : 2 * width], fused[:, 2 * width :]
        if vision["qk_normalization"]:
            q = rms_norm(q, tensors[f"{layer}.attn.q_norm.weight"], epsilon)
            k = rms_norm(k, tensors[f"{layer}.attn.k_norm.weight"], epsilon)
        size = width // heads
        cuts = [slice(head * size, (head + 1) * size) for head in range(heads)]
        attended = torch.cat([attend(q[:, cut], k[:, cut], v[:, cut], causal=False) for cut in cuts], -1)
        x = x + linear(attended, tensors, f"{layer}.attn.proj") * tensors[f"{layer}.ls1"]
        inner = gelu(linear(norm(x, f"{layer}.norm2"), tensors, f"{layer}.mlp.fc1"))
        x = x + linear(inner, tensors, f"{layer}.mlp.fc2") * tensors[f"{layer}.ls2"]
    grid = x[1:].reshape(side, side, width)
    merged = {
        (row, column): torch.cat([grid[2 * row + down, 2 * column + right] for down in (0, 1) for right in (0, 1)])
        for row in range(side // 2)
        for column in range(side // 2)
    }
    half = range(side // 2)
    order = [(r, c) for r in half for c in half] if ps_version == "v2" else [(r, c) for c in half for r in half]
    y = torch.stack([merged[place] for place in order])
    y = layer_norm(y, tensors["mlp1.0.weight"], tensors["mlp1.0.bias"], 1e-5)
    return linear(gelu(linear(y, tensors, "mlp1.1")), tensors, "mlp1.3")


# ------------------------------------------------------------------ language


def rotate(x: Tensor, base: float) -> Tensor:
    """Rotary positions 0.. of one head (L, D): dimension i turns with dimension i + D/2."""
    length, size = x.shape
    half = size // 2
    speed = base ** (-torch.arange(half, dtype=torch.float64) * 2 / size)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * speed
    turned = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def split_wqkv(fused: Tensor, heads: int, kv_heads: int, wqkv_layout: str = "grouped") -> tuple[list, list, list]:
    """Heads of queries, keys and values out of InternLM2's fused projection (L, rows)."""
    group = heads // kv_heads
    size = fused.shape[-1] // (heads + 2 * kv_heads)
    cut = list(fused.split(size, -1))
    if wqkv_layout == "blocks":  # all queries, then all keys, then all values: not what InternLM2 does
        return cut[:heads], cut[heads : heads + kv_heads], cut[heads + kv_heads :]
    queries, keys, values = [], [], []
    for kv_head in range(kv_heads):
        begin = kv_head * (group + 2)
        queries += cut[begin : begin + group]
        keys.append(cut[begin + group])
        values.append(cut[begin + group + 1])
    return queries, keys, values


def language_logits(tensors: Tensors, config: dict, x: Tensor, wqkv_layout: str = "grouped") -> Tensor:
    """Logits (L, V) of input embeddings (L, H)."""
    llm = config["llm_config"]
    heads, kv_heads = llm["num_attention_heads"], llm["num_key_value_heads"]
    epsilon, base = llm["rms_norm_eps"], float(llm["rope_theta"])
    is_internlm2 = llm["architectures"] == ["InternLM2ForCausalLM"]
    names = {
        True: ("attention_norm", "ffn_norm", "attention.wo", "feed_forward.w1", "feed_forward.w3", "feed_forward.w2"),
        False: (
            "input_layernorm",
            "post_attention_layernorm",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ),
    }[is_internlm2]
    for number in range(llm["num_hidden_layers"]):
        layer = f"language_model.model.layers.{number}."
        first_norm, second_norm, output, gate, up, down = (layer + name for name in names)
        y = rms_norm(x, tensors[f"{first_norm}.weight"], epsilon)
        if is_internlm2:
            fused = linear(y, tensors, f"{layer}attention.wqkv")
            queries, keys, values = split_wqkv(fused, heads, kv_heads, wqkv_layout)
        else:
            queries, keys, values = (
                list(linear(y, tensors, f"{layer}self_attn.{name}_proj").chunk(count, -1))
                for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
            )
            if f"{layer}self_attn.q_norm.weight" in tensors:
                queries = [rms_norm(q, tensors[f"{layer}self_attn.q_norm.weight"], epsilon) for q in queries]
                keys = [rms_norm(k, tensors[f"{layer}self_attn.k_norm.weight"], epsilon) for k in keys]
        keys = [rotate(key, base) for key in keys]
        attended = [
            attend(rotate(query, base), keys[n // (heads // kv_heads)], values[n // (heads // kv_heads)], causal=True)
            for n, query in enumerate(queries)
        ]
        x = x + linear(torch.cat(attended, -1), tensors, output)
        y = rms_norm(x, tensors[f"{second_norm}.weight"], epsilon)
        gated = linear(y, tensors, gate)
        x = x + linear(gated * torch.sigmoid(gated) * linear(y, tensors, up), tensors, down)
    x = rms_norm(x, tensors["language_model.model.norm.weight"], epsilon)
    for name in ("language_model.output.weight", "language_model.lm_head.weight"):
        if name in tensors:
            return x @ tensors[name].T
    return x @ tensors["language_model.model.embed_tokens.weight"].T


class ReferenceModel:
    """A source folder's model and tokenizer, and nothing else of it."""

    def __init__(self, folder: Path, tensors: Tensors) -> None:
        self.folder = folder
        self.tensors = {name: tensor.double() for name, tensor in tensors.items()}
        self.config = json.loads((folder / "config.json").read_text())
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        self.added = {entry["content"]: int(index) for index, entry in tokenizer["added_tokens_decoder"].items()}
        self.image_token = self.added["<IMG_CONTEXT>"]

    def logits(
        self, ids: Sequence[int], tiles: Tensor | None = None, ps_version: str = "v2", wqkv_layout: str = "grouped"
    ) -> Tensor:
        """Logits (L, V); the image tokens take the features of all tiles (N, 3, S, S) in turn."""
        name = next(n for n in self.tensors if n.endswith(("tok_embeddings.weight", "embed_tokens.weight")))
        x = self.tensors[name][list(ids)]
        if tiles is not None:
            features = [image_features(self.tensors, self.config, tile, ps_version) for tile in tiles.double()]
            x = x.clone()
            x[[index for index, token in enumerate(ids) if token == self.image_token]] = torch.cat(features)
        return language_logits(self.tensors, self.config, x, wqkv_layout)

    def sentencepiece_ids(self, text: str) -> list[int]:
        """Token ids as the original tokenizer finds them, without the token at the beginning."""
        model = sentencepiece.SentencePieceProcessor(model_file=str(self.folder / "tokenizer.model"))
        added = "|".join(re.escape(token) for token in sorted(self.added, key=len, reverse=True))
        ids: list[int] = []
        for part in re.split(f"({added})", text):
            if part in self.added:
                ids.append(self.added[part])
            elif part:
                ids += model.encode(part)
        return ids


# --------------------------------------------------------------------- images


def tile_grid(width: int, height: int, side: int, max_tiles: int = 12) -> tuple[int, int]:
    """Columns and rows of the tiles of a picture.

    InternVL: of all grids of at most ``max_tiles`` tiles the one whose aspect ratio is nearest to the picture's. Of
    equally near ones (1 x 1 and 2 x 2) the largest that is less than twice as large as the picture, else the smallest.
    """
    grids = [(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1) if c * r <= max_tiles]
    nearest = min(abs(width / height - c / r) for c, r in grids)
    tied = sorted(
        ((c, r) for c, r in grids if abs(width / height - c / r) == nearest), key=lambda grid: grid[0] * grid[1]
    )
    fitting = [(c, r) for c, r in tied if 2 * width * height > c * r * side * side]
    return fitting[-1] if fitting else tied[0]


def cut_into_tiles(image: Image.Image, side: int, max_tiles: int = 12) -> Tensor:
    """Tiles (N, 3, S, S) with the thumbnail as the last of several, resized by Pillow's bicubic filter."""
    columns, rows = tile_grid(*image.size, side, max_tiles)
    whole = image.convert("RGB").resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    tiles = [
        whole.crop((c * side, r * side, (c + 1) * side, (r + 1) * side)) for r in range(rows) for c in range(columns)
    ]
    if len(tiles) > 1:
        tiles.append(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    return torch.stack([normalize(to_tensor(t), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) for t in tiles])
