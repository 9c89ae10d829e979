"""What a reward model does not read as it stands in the rows: said once, before training."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from datamodules.conversation.encoder import ConversationEncoder
from datamodules.storage.fields import first_of

logger = logging.getLogger(__name__)

_SHOWN = 80


def report_reading(table: Dataset, what: str, encoder: ConversationEncoder) -> None:
    """Say where the rules of the model and the rows disagree: instructions, system turns, blank steps.

    Args:
        table: Rows as of :func:`datamodules.supervision.rows.read_rows`.
        what: Begins each message.
        encoder: Of the model.
    """
    _report_questions(table, what, encoder)
    _report_system_prompts(table, what, encoder.system_prompt)
    if encoder.rules.white_space == "ours":
        _report_blank_steps(table, what)


def system_prompt_of(table: Dataset) -> str:
    """The system turn that all rows have.

    Raises:
        ValueError: If a row has none, or rows have different ones; names rows.
    """
    column = table.with_format("arrow")["system_prompt"][:]
    without = np.flatnonzero(column.is_null().to_numpy())
    if len(without):
        raise ValueError(
            f"system_prompt 'from_data': {len(without)} of {len(table)} rows have no system turn "
            f"({_places(table, without)}); only conversation rows have one. Give the text of the system prompt instead"
        )
    prompts = column.unique().to_pylist()
    if len(prompts) > 1:
        others = np.flatnonzero(pc.not_equal(column, prompts[0]).to_numpy())
        raise ValueError(
            f"system_prompt 'from_data': the rows have {len(prompts)} different system turns, and a model has one; "
            f"other than in the first row: {_places(table, others)}. Leave these rows out, or give the text instead"
        )
    return str(prompts[0])


def _report_questions(table: Dataset, what: str, encoder: ConversationEncoder) -> None:
    columns = table.with_format("arrow")
    differs = pc.not_equal(columns["question"][:], columns["question_bare"][:]).to_numpy()
    rule = encoder.rules.question_text
    if rule == "bare" and differs.any():
        logger.warning(
            "%s: %d of %d questions come with the instruction that the policy was given, which the model does not read "
            "(question_text: bare). To read it, as the released VisualPRM does, set question_text to as_asked: %s",
            what,
            differs.sum(),
            len(table),
            _places(table, np.flatnonzero(differs)),
        )
    if rule == "as_asked" and not differs.all():
        logger.warning(
            "%s: %d of %d questions come without an instruction that is known here, though the model is to read what "
            "the policy was asked (question_text: as_asked). If the policy was given one, its scores will differ: %s",
            what,
            (~differs).sum(),
            len(table),
            _places(table, np.flatnonzero(~differs)),
        )


def _report_system_prompts(table: Dataset, what: str, system_prompt: str) -> None:
    column = table.with_format("arrow")["system_prompt"][:]
    replaced = np.flatnonzero(pc.fill_null(pc.not_equal(column, system_prompt), False).to_numpy())
    if len(replaced):
        logger.warning(
            "%s: %d of %d rows have a system turn of their own, which the model's system prompt %r replaces. To train "
            "with theirs, set system_prompt to from_data: %s",
            what,
            len(replaced),
            len(table),
            system_prompt if len(system_prompt) <= _SHOWN else f"{system_prompt[:_SHOWN]}...",
            _places(table, replaced),
        )


def _report_blank_steps(table: Dataset, what: str) -> None:
    counts = table.with_format("arrow")["blank_steps"][:].to_numpy()
    rows = np.flatnonzero(counts)
    if len(rows):
        logger.warning(
            "%s: %d blank steps in %d of %d rows joined their neighbours, and their scores were dropped: %s",
            what,
            counts.sum(),
            len(rows),
            len(table),
            _places(table, rows),
        )


def _places(table: Dataset, rows: np.ndarray) -> str:
    return first_of(table.select(rows)["sample_id"][:])
