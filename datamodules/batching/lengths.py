"""Token counts of conversations, computed before any batch is built and stored beside the tables.

Packing and grouping by length need the counts of all rows, the same ones on all ranks and in a resumed run. They are
computed once, from the texts and from the image sizes in the headers, without decoding an image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple, cast

import numpy as np
import transformers
from datasets import Dataset, Features, Value
from datasets.fingerprint import Hasher
from filelock import FileLock
from PIL import Image

from datamodules.batching.collate import rows_of
from datamodules.conversation.encoder import Conversation, ConversationEncoder
from datamodules.conversation.refused_pictures import PictureRefusedError
from datamodules.conversation.steps import merge_steps, steps_to_read
from datamodules.storage.images import ImageError, check_image

_COLUMNS = ["sample_id", "images", "image_bytes", "question", "question_bare", "steps", "max_tiles"]
_ROWS_AT_ONCE = 64
_PROBED_SIZES = ((64, 64), (701, 333), (90, 1400))
Size = tuple[int, int]
Counted = tuple[list[int], list[str]]


class TokenCounter:
    """Counts the tokens that the encoder would make of rows of process supervision.

    The text is rendered and tokenized. The number of tokens of an image follows from its size. The processor's own
    count is used if it is right for blank images of some sizes. Otherwise every size is encoded once, as a blank image.

    Args:
        encoder: Renders and tokenizes.
        max_steps: In rows with more steps, consecutive steps are merged.
        look_at_images: Read the headers of pictures. If False, only texts are counted; for slow file systems.
    """

    def __init__(self, encoder: ConversationEncoder, max_steps: int, look_at_images: bool = True) -> None:
        self.encoder = encoder
        self.max_steps = max_steps
        self.look_at_images = look_at_images
        self._added: dict[tuple[tuple[Size, ...], int | None], int] = {}
        self._offset = self._find_offset()

    @property
    def identity(self) -> str:
        """A digest of what the counts depend on besides the rows."""
        processor = self.encoder.processor
        tokenizer = processor.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        image_processor = getattr(processor, "image_processor", None)
        parts = {
            "tokenizer": backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
            "chat_template": getattr(processor, "chat_template", None) or tokenizer.chat_template,
            "image_processor": json.loads(image_processor.to_json_string()) if image_processor is not None else None,
            "processor": {k: v for k, v in vars(processor).items() if isinstance(v, int | float | str | bool)},
            "system_prompt": self.encoder.system_prompt,
            "class_tokens": self.encoder.class_tokens,
            "image_layout": self.encoder.image_layout,
            "max_steps": self.max_steps,
            "rules": asdict(self.encoder.rules),
            "transformers": transformers.__version__,
        }
        if not self.look_at_images:
            parts["pictures"] = "not counted"
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Counted:
        """Tokens of each row, and the error of each row; an empty text for a row without one."""
        counts, problems = [], []
        for row in rows:
            try:
                counts.append(self.count(row))
                problems.append("")
            except (ImageError, ValueError) as error:
                counts.append(0)
                problems.append(str(error))
        return counts, problems

    def count(self, row: Mapping[str, Any]) -> int:
        """Tokens of one row.

        Raises:
            ImageError: If the header of a picture cannot be read.
            ValueError: If the row cannot be rendered, or the processor refuses a picture.
        """
        name, paths, rules = row["sample_id"], row["images"], self.encoder.rules
        embedded = row.get("image_bytes") or [None] * len(paths)
        kept = steps_to_read(row["steps"], rules.white_space)
        steps = merge_steps([row["steps"][index] for index in kept], self.max_steps)
        question = rules.question(row["question"], row.get("question_bare"))
        tokens = self._tokens(self.encoder.render(question, len(paths), steps, name))
        if not paths or not self.look_at_images:
            return tokens
        place = f"{name}: field 'image'"
        pairs = [(path if data is None else data, path) for path, data in zip(paths, embedded, strict=True)]
        sizes = [check_image(source, place, upright=rules.pictures == "ours") for source, _ in pairs]
        return tokens + self.added(sizes, row.get("max_tiles") or None, [f"{place}: {path!r}" for _, path in pairs])

    def added(self, sizes: Sequence[Size], max_tiles: int | None, places: Sequence[str] = ()) -> int:
        """Tokens that pictures of one conversation add to its text.

        Args:
            sizes: Width and height of each.
            max_tiles: See :class:`datamodules.conversation.encoder.Conversation`.
            places: Where each comes from, for the error message.

        Raises:
            ValueError: If the processor refuses a picture; names its place.
        """
        try:
            if self._offset is None:
                key = (tuple(sizes), max_tiles)
                if key not in self._added:
                    self._added[key] = self._added_by_dummy_images(*key)
                return self._added[key]
            return sum(self._counted_by_processor(sizes, max_tiles)) + self._offset * len(sizes)
        except PictureRefusedError as error:
            if not places:
                raise
            raise error.at(places[error.picture]) from error

    def _tokens(self, text: str) -> int:
        return len(self.encoder.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _added_by_dummy_images(self, sizes: tuple[Size, ...], max_tiles: int | None) -> int:
        pictures = [Image.new("RGB", size) for size in sizes]
        inputs, _ = self.encoder.encode([Conversation(pictures, "1", ["2"], "dummy images", max_tiles)])
        return int(inputs["input_ids"].shape[1]) - self._tokens(self.encoder.render("1", len(sizes), ["2"]))

    def _counted_by_processor(self, sizes: Sequence[Size], max_tiles: int | None) -> list[int]:
        options, processor = self.encoder.tiling(max_tiles), cast(Any, self.encoder.processor)
        try:
            found = processor._get_num_multimodal_tokens(
                image_sizes=[(height, width) for width, height in sizes], **options
            )
        except (ValueError, ArithmeticError):
            # It has counted what it would refuse: let it say which picture that is.
            self._added_by_dummy_images(tuple(sizes), max_tiles)
            raise
        return list(found["num_image_tokens"])

    def _find_offset(self) -> int | None:
        """What to add to the processor's own count of a picture's tokens; None if it has none that can be trusted."""
        processor = self.encoder.processor
        if getattr(processor, "image_processor", None) is None or not hasattr(processor, "_get_num_multimodal_tokens"):
            return None
        cuts: list[int | None] = [None]
        try:
            self.encoder.tiling(3)
            cuts += [1, 3]
        except ValueError:
            pass  # this processor does not cut pictures, so no row has a number of tiles
        offsets = set()
        for sizes in [*((size,) for size in _PROBED_SIZES), _PROBED_SIZES[:2]]:
            for max_tiles in cuts:
                try:
                    counted = sum(self._counted_by_processor(sizes, max_tiles))
                except NotImplementedError:
                    return None
                offsets.add((self._added_by_dummy_images(tuple(sizes), max_tiles) - counted) / len(sizes))
        offset = offsets.pop()
        return int(offset) if not offsets and offset.is_integer() else None


def token_lengths(table: Dataset, counter: TokenCounter, num_workers: int = 0) -> tuple[np.ndarray, dict[int, str]]:
    """Token counts of all rows of a table; an earlier start that counted the same rows has stored them beside it.

    Args:
        table: Rows from :func:`datamodules.supervision.rows.read_rows`.
        counter: Counts the tokens of a row.
        num_workers: Processes that count.

    Returns:
        (n,) int64 token counts, 0 for rows that cannot be counted; and the error of each of those, by row index.
    """
    if not len(table):
        return np.zeros(0, np.int64), {}
    files = sorted(file["filename"] for file in table.cache_files)
    columns = table.select_columns([name for name in _COLUMNS if name in table.column_names])
    identity = [columns[name][:] for name in ("sample_id", "max_tiles") if name in columns.column_names]
    processes = min(num_workers, len(table) // (4 * _ROWS_AT_ONCE))
    # The ranks of a machine share the files: one of them counts.
    with FileLock(f"{files[0]}.lengths.lock") if files else nullcontext():
        counted = columns.map(
            _token_column,
            fn_kwargs={"counter": counter},
            batched=True,
            batch_size=_ROWS_AT_ONCE,
            remove_columns=columns.column_names,
            features=Features({"tokens": Value("int64")}),
            num_proc=processes if processes > 1 else None,
            new_fingerprint=Hasher.hash([counter.identity, files, identity]),
            desc="counting tokens",
        )
    lengths = np.array(counted.with_format("numpy")["tokens"][:], np.int64)
    # Rows that could not be counted may have been repaired since then.
    failed = np.flatnonzero(lengths == 0)
    lengths[failed], problems = counter([columns[row] for row in failed.tolist()])
    return lengths, {int(row): text for row, text in zip(failed, problems, strict=True) if text}


def _token_column(columns: Mapping[str, Sequence[Any]], counter: TokenCounter) -> dict[str, list[int]]:
    return {"tokens": counter(rows_of(columns))[0]}


class TokenLimit(NamedTuple):
    """How long a conversation may be.

    Attributes:
        tokens: At most so many.
        name: The setting that says so.
        remedy: What to do to go beyond it.
    """

    tokens: int
    name: str
    remedy: str


def too_long(table: Dataset, lengths: np.ndarray, limit: TokenLimit) -> dict[int, str]:
    """Rows of more tokens than the limit, and what is wrong with them."""
    rows = np.flatnonzero(lengths > limit.tokens)
    names = table.select(rows)["sample_id"][:] if len(rows) else []
    return {
        int(row): f"{name}: the conversation has {lengths[row]} tokens, more than {limit.name}={limit.tokens}"
        for row, name in zip(rows, names, strict=True)
    }
