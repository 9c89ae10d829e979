"""What has been read of questions: each picture and question once, and what partial solutions add to them.

Prompts are tokenised as a whole, since a prompt and a partial solution tokenised apart may give other tokens. What two
prompts of a question have in common is the longest common prefix of their tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, DynamicCache, PreTrainedModel, ProcessorMixin

from datamodules.conversation.tiles import model_inputs
from datamodules.policy.chat import render_prompt
from lightning_modules.distributed.sharding import computing_device
from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.model.positions import has_multimodal_positions, prompt_positions
from lightning_modules.model.prompt_batch import join_prompts

_QUESTIONS_AT_ONCE = 8


@dataclass(eq=False)
class Prefix:
    """Tokens that were read, or will be in the next forwards, with all that continuing them needs.

    Attributes:
        question: Key of the question.
        ids: (P,) token ids.
        layers: Keys and values (1, key heads, P, head size) of each layer; empty until the tokens are read.
        hidden_states: (P, hidden), last ones; None until then.
        shift: Position of a token behind the images minus its index.
        base: A prefix that begins with the same tokens, and how many of them it is read behind.
        users: Number of requests that are being answered from it; it is kept as long as there are some.
    """

    question: str
    ids: np.ndarray
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    hidden_states: Tensor | None = None
    shift: int = 0
    base: tuple[Prefix, int] | None = None
    users: int = 0


@dataclass(eq=False)
class _Question:
    """A question: its rendered chat, the tokens of it without and with expanded images, and its prefixes."""

    text: str
    plain_ids: np.ndarray
    ids: np.ndarray
    inputs: dict[str, Tensor]
    prefixes: list[Prefix] = field(default_factory=list)
    tokenised: dict[str, np.ndarray] = field(default_factory=dict)


class QuestionPrefixes:
    """Prefixes of the latest questions, read by a model.

    Args:
        model: Reads them.
        processor: Its processor.
        max_tokens: Bound on the tokens of prefixes that are kept for requests to come; those in use do not count as
            kept, but are counted.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, max_tokens: int) -> None:
        self.model = model
        self.processor = processor
        self.max_tokens = max_tokens
        self.device = computing_device(model)
        self.pad_id = processor.tokenizer.pad_token_id or 0
        self.tokens_read = 0
        self._questions: dict[str, _Question] = {}
        self._used: dict[Prefix, None] = {}  # the last one was used last
        self._layers_of_a_token: list[tuple[Tensor, Tensor]] = []

    def place(self, requests: Sequence[GenerationRequest]) -> list[tuple[Prefix, int]]:
        """For each request, a prefix that begins with its prompt, and the prompt's number of tokens.

        New prefixes are not read yet, see :meth:`unread`.

        Raises:
            PictureRefusedError: If the processor refuses a picture.
        """
        encoded = [self._encode(request) for request in requests]
        found: dict[int, Prefix] = {}
        # The longest prompt comes first: prompts that it begins with need nothing of their own.
        for number in sorted(range(len(requests)), key=lambda number: -len(encoded[number][1])):
            key, ids = encoded[number]
            found[number] = self._prefix_of(key, ids)
            found[number].users += 1
        places = []
        for number, (_, ids) in enumerate(encoded):
            self._used.pop(found[number], None)
            self._used[found[number]] = None
            places.append((found[number], len(ids)))
        return places

    def _prefix_of(self, key: str, ids: np.ndarray) -> Prefix:
        question = self._questions[key]
        if not question.prefixes:
            self._add(Prefix(key, question.ids))
        common = [(common_length(prefix.ids, ids), prefix) for prefix in question.prefixes]
        for length, prefix in common:
            if length == len(ids):
                return prefix
        # What is itself read behind another prefix in the same round cannot be a base.
        length, base = max(
            (pair for pair in common if pair[1].layers or pair[1].base is None), key=lambda pair: pair[0]
        )
        return self._add(Prefix(key, ids, base=(base, length)))

    def _add(self, prefix: Prefix) -> Prefix:
        self._questions[prefix.question].prefixes.append(prefix)
        self._used[prefix] = None
        return prefix

    def release(self, prefix: Prefix) -> None:
        """One request that was answered from this prefix needs it no longer; forgets what exceeds the bound."""
        prefix.users -= 1
        tokens = sum(len(used.ids) for used in self._used)
        for used in list(self._used):
            if tokens <= self.max_tokens:
                break
            if not used.users:
                tokens -= len(used.ids)
                self._forget(used)

    def _forget(self, prefix: Prefix) -> None:
        del self._used[prefix]
        question = self._questions[prefix.question]
        question.prefixes.remove(prefix)
        if not question.prefixes:
            del self._questions[prefix.question]

    def unread(self) -> tuple[list[list[Prefix]], list[list[Prefix]]]:
        """Prefixes to be read, in batches, one forward each: whole questions, then what is read behind others."""
        new = [prefix for prefix in self._used if not prefix.layers]
        questions = [prefix for prefix in new if prefix.base is None]
        behind: dict[int, list[Prefix]] = {}
        for prefix in new:
            if prefix.base is not None:
                behind.setdefault(prefix.base[1], []).append(prefix)
        batches = [questions[n : n + _QUESTIONS_AT_ONCE] for n in range(0, len(questions), _QUESTIONS_AT_ONCE)]
        # As many at once as questions, to bound memory.
        pieces = [
            each[start : start + _QUESTIONS_AT_ONCE]
            for each in behind.values()
            for start in range(0, len(each), _QUESTIONS_AT_ONCE)
        ]
        return batches, pieces

    # ------------------------------------------------------------ encoding

    def _encode(self, request: GenerationRequest) -> tuple[str, np.ndarray]:
        """Key of the request's question, and the tokens of its prompt."""
        key = _key(request)
        if key not in self._questions:
            text = render_prompt(self.processor, request.messages)
            self._questions[key] = self._question(text, request)
        question, partial = self._questions[key], request.partial_response
        if not partial:
            return key, question.ids
        if partial not in question.tokenised:
            joint = self._tokenise(question.text + partial)
            common = common_length(question.plain_ids, joint)
            rest = len(question.plain_ids) - common
            whole = np.concatenate([question.ids[: len(question.ids) - rest], joint[common:]])
            # Images lie before what differs, so that the ends of both are the same.
            if not np.array_equal(question.ids[len(question.ids) - rest :], question.plain_ids[common:]):
                key = f"{key} {partial}"
                if key not in self._questions:
                    self._questions[key] = self._question(question.text + partial, request)
                return key, self._questions[key].ids
            question.tokenised[partial] = whole
        return key, question.tokenised[partial]

    def _question(self, text: str, request: GenerationRequest) -> _Question:
        inputs = model_inputs(self.processor, [text], [request.images], [request.max_tiles], padding_side="right")
        return _Question(text, self._tokenise(text), inputs["input_ids"][0].numpy(), inputs)

    def _tokenise(self, text: str) -> np.ndarray:
        return np.array(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    # ------------------------------------------------------------- reading

    def read_questions(self, prefixes: Sequence[Prefix]) -> None:
        """Read whole questions in one forward; of none, a token of padding (for the other ranks)."""
        inputs = [self._questions[prefix.question].inputs for prefix in prefixes]
        joined = join_prompts(inputs or [self._padding()], self.pad_id)
        joined = dict(BatchFeature(joined).to(self.device, self.model.dtype))
        positions, next_position = prompt_positions(self.model, joined)
        output = self.model.base_model(**joined, position_ids=positions, cache=DynamicCache(), use_cache=True)
        shifts = (next_position - joined["attention_mask"].sum(-1)).tolist()
        self._keep(prefixes, output, shifts[: len(prefixes)])
        for prefix in prefixes:
            self._questions[prefix.question].inputs = {}

    def _padding(self) -> dict[str, Tensor]:
        ids = torch.full((1, 1), self.pad_id)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def read_behind(self, prefixes: Sequence[Prefix]) -> None:
        """Read what prefixes add to equally long parts of others, in one forward; of none, a token of padding."""
        bases = [prefix.base for prefix in prefixes if prefix.base is not None]
        suffixes = [prefix.ids[length:] for prefix, (_, length) in zip(prefixes, bases, strict=True)]
        shifts = [base.shift for base, _ in bases]
        cache = DynamicCache()
        of_bases = [[(k[:, :, :n], v[:, :, :n]) for k, v in base.layers] for base, n in bases]
        for number, states in enumerate(zip(*(of_bases or [self._layers_of_a_token]), strict=True)):
            cache.update(torch.cat([k for k, _ in states]), torch.cat([v for _, v in states]), number)
        longest = max((len(suffix) for suffix in suffixes), default=1)
        ids = np.full((max(1, len(suffixes)), longest), self.pad_id)
        for row, suffix in zip(ids, suffixes, strict=False):
            row[: len(suffix)] = suffix
        # Padding stands to the right, where no token sees it: no mask is needed.
        starts = torch.tensor(shifts or [0]) + (bases[0][1] if bases else 1)
        positions = (starts[:, None] + torch.arange(longest)).to(self.device)
        output = self.model.base_model(
            input_ids=torch.from_numpy(ids).to(self.device),
            position_ids=position_ids(self.model, positions),
            cache=cache,
            use_cache=True,
        )
        for prefix, (base, length) in zip(prefixes, bases, strict=True):
            prefix.hidden_states = base.hidden_states[:length] if base.hidden_states is not None else None
        self._keep(prefixes, output, shifts)
        for prefix in prefixes:
            prefix.base = None

    def _keep(self, prefixes: Sequence[Prefix], output: Any, shifts: Sequence[int]) -> None:
        """Take the prefixes out of the padded batch of a forward."""
        layers = [(layer.keys, layer.values) for layer in output.cache.layers]
        if not self._layers_of_a_token:
            self._layers_of_a_token = [(k[:1, :, :1].clone(), v[:1, :, :1].clone()) for k, v in layers]
        for row, (prefix, shift) in enumerate(zip(prefixes, shifts, strict=True)):
            length = len(prefix.ids)
            before = prefix.hidden_states
            done = 0 if before is None else len(before)
            new = output.last_hidden_state[row, : length - done]
            self.tokens_read += length - done
            prefix.layers = [
                (k[row : row + 1, :, :length].clone(), v[row : row + 1, :, :length].clone()) for k, v in layers
            ]
            prefix.hidden_states = new.clone() if before is None else torch.cat([before, new])
            prefix.shift = shift


def position_ids(model: PreTrainedModel, positions: Tensor) -> Tensor:
    """Position ids of text tokens (B, L): three equal numbers each in a model with multimodal positions."""
    return positions.expand(3, -1, -1) if has_multimodal_positions(model) else positions


def common_length(first: np.ndarray, second: np.ndarray) -> int:
    """Length of the longest common prefix of two rows of token ids."""
    shorter = min(len(first), len(second))
    is_other = first[:shorter] != second[:shorter]
    return int(is_other.argmax()) if is_other.any() else shorter


def _key(request: GenerationRequest) -> str:
    """The same for requests with equal messages, tiles and pictures."""
    digest = hashlib.blake2b(repr(list(request.messages)).encode("utf-8", "surrogatepass"), digest_size=16)
    for image in request.images:
        plain = image if image.mode in ("RGB", "L") else image.convert("RGBA")
        digest.update(f"{image.mode} {image.size}".encode())
        digest.update(plain.tobytes())
    return f"{digest.hexdigest()} {request.max_tiles}"
