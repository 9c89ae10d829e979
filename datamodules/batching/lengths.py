"""How many tokens each conversation has, counted before any batch is made and kept beside the tables.

Packing and grouping by length must know it for all rows, and must agree on it on all ranks and when a run resumes; so
it is counted once, from the texts and the sizes in the headers of the pictures, without decoding a picture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow.compute as pc
import transformers
from datasets import Dataset
from filelock import FileLock
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from datamodules.batching.ranks import rank_of_process
from datamodules.conversation.encoder import Conversation, ConversationEncoder
from datamodules.conversation.refused_pictures import PictureRefusedError
from datamodules.conversation.steps import merge_steps, steps_to_read
from datamodules.storage.files import atomic_file
from datamodules.storage.images import ImageError, check_image
from datamodules.supervision.table import open_table

_COLUMNS = ["sample_id", "images", "image_bytes", "question", "question_bare", "steps", "max_tiles"]
_ROWS_AT_ONCE = 64
_PROBED_SIZES = ((64, 64), (701, 333), (90, 1400))
Size = tuple[int, int]
Counted = tuple[list[int], list[str]]


class TokenCounter:
    """Counts the tokens of rows of process supervision as the encoder would make them.

    The text is rendered and tokenised; what a picture adds follows from its size. The processor's own count of it is
    used where it agrees with what the processor does to dummy images of some sizes; else every size is tried out on a
    blank picture, once.

    Args:
        encoder: Renders and tokenises.
        max_steps: Rows with more steps have neighbouring ones merged.
        look_at_images: Read the headers of pictures. If False, only texts are counted; for slow file systems.
    """

    def __init__(self, encoder: ConversationEncoder, max_steps: int, look_at_images: bool = True) -> None:
        self.encoder = encoder
        self.max_steps = max_steps
        self.look_at_images = look_at_images
        self._added = lru_cache(maxsize=100_000)(self._added_by_dummy_images)
        self._offset = self._find_offset()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_added"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._added = lru_cache(maxsize=100_000)(self._added_by_dummy_images)

    @property
    def identity(self) -> str:
        """A digest of what the counts depend on, beside the rows."""
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
        """Tokens of each row, and what is wrong with it, empty for a good one."""
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
                return self._added(tuple(sizes), max_tiles)
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
    """Tokens of every row of a table, counted where they are not known from an earlier start.

    Args:
        table: Rows as of :func:`datamodules.supervision.rows.read_rows`.
        counter: Counts.
        num_workers: Processes that count, beside this one.

    Returns:
        (n,) int64 tokens, 0 where they could not be counted, and row index to what is wrong with those rows.
    """
    files = [Path(file["filename"]) for file in table.cache_files]
    lengths = np.zeros(len(table), np.int64)
    problems: dict[int, str] = {}
    if not files:
        return _counted(table, np.arange(len(table)), counter, num_workers)
    names = table.with_format("arrow")["sample_id"][:]
    tiles = table.with_format("arrow")["max_tiles"][:].to_numpy()
    for file in files:
        in_file = open_table(file).with_format("arrow")["sample_id"][:].combine_chunks()
        place = pc.index_in(names, in_file)
        rows = np.flatnonzero(pc.is_valid(place).to_numpy(zero_copy_only=False))
        place = pc.drop_null(place).to_numpy()
        for cut in np.unique(tiles[rows]).tolist():
            chosen = tiles[rows] == cut
            note = file.with_suffix(f".{counter.identity}.{cut}.lengths.npy")
            known, wrong = _noted(note, len(in_file), table, rows[chosen], place[chosen], counter, num_workers)
            lengths[rows[chosen]] = known
            problems |= wrong
    return lengths, dict(sorted(problems.items()))


def _noted(
    note: Path,
    size: int,
    table: Dataset,
    rows: np.ndarray,
    places: np.ndarray,
    counter: TokenCounter,
    num_workers: int,
) -> tuple[np.ndarray, dict[int, str]]:
    """Tokens of rows that stand at places of a file's table, from its note; what is new is added to the note."""
    with FileLock(f"{note}.lock"):
        noted = np.load(note, allow_pickle=False) if note.is_file() else np.zeros(size, np.int32)
        todo = noted[places] == 0
        if not todo.any():
            return noted[places], {}
        counted, problems = _counted(table, rows[todo], counter, num_workers)
        noted[places[todo]] = counted
        with atomic_file(note) as file:
            np.save(file, noted)
    return noted[places], problems


def _counted(
    table: Dataset, rows: np.ndarray, counter: TokenCounter, num_workers: int
) -> tuple[np.ndarray, dict[int, str]]:
    chunks = np.split(rows, range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE))
    loader: DataLoader[Any] = DataLoader(
        _Chunks(table.select_columns([name for name in _COLUMNS if name in table.column_names]), chunks),
        batch_size=None,
        collate_fn=counter,
        num_workers=min(num_workers, len(chunks) // 4),
    )
    counts: list[int] = []
    problems: list[str] = []
    with tqdm(
        total=len(rows), unit=" rows", desc="counting tokens", delay=2.0, disable=rank_of_process() > 0
    ) as progress:
        for found, wrong in loader:
            counts += found
            problems += wrong
            progress.update(len(found))
    return np.array(counts, np.int64), {int(row): text for row, text in zip(rows, problems, strict=True) if text}


class _Chunks(TorchDataset[list[dict[str, Any]]]):
    """Lists of rows of a table."""

    def __init__(self, table: Dataset, chunks: Sequence[np.ndarray]) -> None:
        self.table, self.chunks = table, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        return self.table.__getitems__(self.chunks[index].tolist())


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
