"""The rows of process supervision that a run trains on and that it validates on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from datamodules.batching.ranks import same_on_all_ranks
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.special_text import rows_with_text
from datamodules.storage.bad_rows import MAX_BAD_ROWS, OnBadRow
from datamodules.supervision.consensus import Consensus
from datamodules.supervision.reading_notices import report_reading, system_prompt_of
from datamodules.supervision.rows import drop_bad_rows, read_rows
from datamodules.supervision.selection import RowSelection, select_rows
from datamodules.supervision.sources import ProcessSource
from datamodules.supervision.split import fingerprint, limit_per_source, rows_of_known_questions, split_by_question

logger = logging.getLogger(__name__)

TRAIN, PROCESS = "train", "process"
"""Names of the splits; that of the validation split is also the name of its dataloader."""


@dataclass
class ProcessSupervision:
    """Reads the splits and keeps them; every rank must come to the same rows.

    Attributes:
        sources: Gives the sources of a split, none for a split that does not exist. Asked only about splits that are
            read: an evaluation may have no training rows at hand.
        validation_fraction: Fraction of the training questions that are the validation split instead, in [0, 1).
        max_samples_per_source: At most so many rows of each source in each split.
        seed: Of the split and of the choice of rows.
        on_bad_row: Skip rows that cannot be used and say how many and which, or raise an error at the first one.
        check_images: Look at the header of every image when a table is built.
        max_bad_rows: Largest share of these, of all rows and of those of each source.
        cache_dir: Where tables are kept; the cache of `datasets` by default.
        consensus: Whose verdicts on steps count, see :mod:`datamodules.supervision.consensus`.
        selection: Which of the training rows are trained on, after the validation split was taken; all by default.
        tables: The splits that are read, with the columns of :func:`datamodules.supervision.rows.read_rows`.
    """

    sources: Callable[[str], list[ProcessSource]]
    validation_fraction: float = 0.0
    max_samples_per_source: int | None = None
    seed: int = 0
    on_bad_row: OnBadRow = "skip"
    check_images: bool = True
    cache_dir: str | None = None
    consensus: Consensus = "monte_carlo"
    selection: RowSelection | None = None
    max_bad_rows: float = MAX_BAD_ROWS
    tables: dict[str, Dataset] = field(default_factory=dict)
    _fingerprints: dict[str, str] = field(default_factory=dict)
    _unchecked: set[str] = field(default_factory=set)

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split to read."""
        return bool(self.sources(PROCESS) or self.validation_fraction)

    def build(self, with_training: bool, with_validation: bool) -> None:
        """Build the tables of the files that :meth:`read` needs, as far as they are not there; nothing is kept here."""
        self._read_needed(with_training, with_validation)

    def read(self, with_training: bool, with_validation: bool) -> None:
        """Read the splits that are asked for, that exist and that are not read yet; errors name file and line.

        The annotation files of training are opened for the training split, and for a validation split that
        ``validation_fraction`` takes from them.
        """
        with_training = with_training and bool(self.sources(TRAIN))
        with_validation = with_validation and self.has_validation
        needed = {name for name, is_needed in ((TRAIN, with_training), (PROCESS, with_validation)) if is_needed}
        if needed <= set(self.tables):
            return
        train, validation = self._read_needed(with_training, with_validation)
        if train is not None and self.validation_fraction:
            train, validation = split_by_question(train, self.validation_fraction, self.seed)
        elif train is not None and validation is not None:
            _warn_of_known_questions(train, validation)
        if train is not None and self.selection is not None and with_training:
            train = self._selected(train, self.selection)
        for name, table in ((TRAIN, train), (PROCESS, validation)):
            if table is not None:
                self.keep(name, limit_per_source(table, self.max_samples_per_source, self.seed))
                self._unchecked.add(name)

    def _selected(self, table: Dataset, selection: RowSelection) -> Dataset:
        chosen = select_rows(table, selection, self.seed)
        logger.info("train rows: %d of %d are selected by %s", len(chosen), len(table), selection.by)
        return chosen

    def _read_needed(self, with_training: bool, with_validation: bool) -> tuple[Dataset | None, Dataset | None]:
        """Rows of the training files and of the validation files, before any is put aside; None for what is not needed.

        Raises:
            FileNotFoundError: If files are not there.
        """
        train = None
        if with_training:
            train = self._read_files(TRAIN)
        elif with_validation and self.validation_fraction:
            try:
                train = self._read_files(TRAIN)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{error}; validation_fraction={self.validation_fraction:g} takes the process validation split "
                    f"from the training annotations: give them, or set validation_fraction to 0 to evaluate without it"
                ) from error
        return train, self._read_files(PROCESS) if with_validation else None

    def _read_files(self, name: str) -> Dataset | None:
        sources = self.sources(name)
        if not sources:
            return None
        return read_rows(
            sources,
            on_bad_row=self.on_bad_row,
            check_images=self.check_images,
            cache_dir=self.cache_dir,
            consensus=self.consensus,
            max_bad_rows=self.max_bad_rows,
        )

    def keep(self, name: str, table: Dataset) -> None:
        """Keep a table as a split.

        Raises:
            RuntimeError: If it differs between ranks.
        """
        self.tables[name] = table
        self._fingerprints[name] = fingerprint(table)
        same_on_all_ranks(self._fingerprints[name], f"{name} rows")

    def check_texts(self, name: str, encoder: ConversationEncoder) -> None:
        """Find, once, texts that hold special tokens of the tokenizer, before a run has spent hours.

        Raises:
            ValueError: If there are such rows and ``on_bad_row`` is "error", or the processor cannot cut images as a
                source asks for.
        """
        if name not in self._unchecked:
            return
        table = self.tables[name]
        for max_tiles in np.unique(table.with_format("arrow")["max_tiles"][:].to_numpy()).tolist():
            encoder.tiling(max_tiles or None)
        column = "question" if encoder.rules.question_text == "as_asked" else "question_bare"
        bad = rows_with_text(table, encoder.special_tokens, column)
        report_reading(table, f"{name} rows", encoder)
        self.keep(name, drop_bad_rows(table, bad, self.on_bad_row, f"{name} rows", self.max_bad_rows))
        self._unchecked.discard(name)

    def check_counts(self, name: str, reasons: Mapping[str, str | None]) -> None:
        """Refuse rows whose scores are biased or inferred, where a model learns more than their labels.

        Args:
            name: Of the split.
            reasons: For values of the column ``num_mc_stopping`` why the model cannot use such rows; None if it can.

        Raises:
            ValueError: If there are such rows; names the first.
        """
        if not any(reasons.values()):
            return
        stopping = self.tables[name].with_format("arrow")["num_mc_stopping"][:]
        for rule, reason in reasons.items():
            rows = np.flatnonzero(pc.equal(stopping, rule).to_numpy())
            if reason and len(rows):
                first = self.tables[name][int(rows[0])]["sample_id"]
                option = f"search: {rule}" if rule == "binary" else f"stopping: {rule}"
                raise ValueError(
                    f"{first}: {len(rows)} {name} rows were annotated with {option}, whose scores say only whether a "
                    f"step is above 0: {reason}"
                )

    def system_prompt(self) -> str:
        """The system turn that all training rows have.

        Raises:
            ValueError: If they are not read, a row has none, or two rows have different ones.
        """
        if TRAIN not in self.tables:
            raise ValueError("system_prompt 'from_data' needs training rows to take it from; give the text instead")
        return system_prompt_of(self.tables[TRAIN])

    def fingerprint(self, name: str) -> str:
        """What a split's rows are known by; empty if it is not read."""
        return self._fingerprints.get(name, "")

    @property
    def rows_of_sources(self) -> dict[str, int]:
        """Training rows of each source, as far as they are read."""
        if TRAIN not in self.tables:
            return {}
        counts = pc.value_counts(self.tables[TRAIN].with_format("arrow")["source"][:])
        return {str(count["values"]): int(count["counts"]) for count in counts.to_pylist()}

    @property
    def validation_data(self) -> str:
        """Names the data of the validation split, for reports that must name the data behind a choice."""
        given = self.sources(PROCESS)
        names = ", ".join(path for source in given or self.sources(TRAIN) for path in source.paths)
        if given:
            return names
        return f"{self.validation_fraction:g} of the questions of {names} (split with seed {self.seed})"


def _warn_of_known_questions(train: Dataset, validation: Dataset) -> None:
    known = rows_of_known_questions(validation, train)
    if len(known):
        logger.warning(
            "%d of %d validation rows ask questions that the training rows ask, too, about the same images, the first "
            "%s: the validation does not show how the model does on new questions",
            len(known),
            len(validation),
            validation[int(known[0])]["sample_id"],
        )
