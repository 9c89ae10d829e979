"""A finished output that gets more samples of each prompt: the rows that are there, and the new ones behind them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_modules.callbacks.prediction_record import Base, Record, differences


def growing(before: Record, now: Record, setting: str | None, output: Path) -> Record | None:
    """The record of a run that adds samples to a finished output; None where it is of something else.

    Args:
        before: Of what is there.
        now: Of the run.
        setting: Name of the number of samples of a prompt; None where a module cannot add any.
        output: What is there.

    Raises:
        ValueError: If the output holds other rows than the record says.
    """
    if setting is None or not before.is_finished or before.prompts != now.prompts:
        return None
    samples, wanted = before.settings.get(setting), now.settings.get(setting)
    if not (isinstance(samples, int) and isinstance(wanted, int) and samples < wanted):
        return None
    if differences({**before.settings, setting: wanted}, now.settings):
        return None
    lines = number_of_lines(output)
    if lines % samples or before.rows not in (None, lines):
        raise ValueError(
            f"{output}: holds {lines} rows, which are not {samples} of each of its prompts, so it cannot grow; move it "
            f"away, or begin anew with --overwrite"
        )
    return replace(now, base=Base(samples, lines, before.left_out, before.costs))


def number_of_lines(path: Path) -> int:
    """Lines of a file."""
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


@contextmanager
def rows_before(output: Path, base: Base | None, prompt_ids: Sequence[str]) -> Iterator[Iterator[list[bytes]]]:
    """For each prompt, in order, the lines of the output that are there before it grows; none without a base.

    Raises:
        RuntimeError: If the output does not hold what the record says.
    """
    if base is None:
        yield iter([[]] * len(prompt_ids))
        return
    with output.open("rb") as lines:

        def of_prompts() -> Iterator[list[bytes]]:
            for name in prompt_ids:
                yield [] if name in base.left_out else [next(lines) for _ in range(base.samples)]

        expected = base.samples * sum(name not in base.left_out for name in prompt_ids)
        if not expected == base.rows == number_of_lines(output):
            raise RuntimeError(
                f"{output}: {base.samples} rows of each of {len(prompt_ids)} prompts should be kept, but there are "
                f"{number_of_lines(output)} rows; move the output away, or begin anew with --overwrite"
            )
        yield of_prompts()


def has_grown(output: Path, base: Base | None, added: int) -> bool:
    """Whether the new rows are in the output already: a run was killed before it could say so in the record."""
    return base is not None and added > 0 and output.exists() and number_of_lines(output) == base.rows + added


def as_lines(rows: Sequence[Any]) -> list[bytes]:
    """Rows as lines of JSON."""
    return [f"{json.dumps(row)}\n".encode() for row in rows]


def summed(*costs: Mapping[str, float]) -> dict[str, float]:
    """Sums by name."""
    names = dict.fromkeys(name for each in costs for name in each)
    return {name: sum(each.get(name, 0) for each in costs) for name in names}
