"""The card of an annotation: how it was made, what is in it by source, and what it has cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_modules.monte_carlo.statistics import Statistics, statistics_of

_COLUMNS: dict[str, Callable[[Statistics], str]] = {
    "rows": lambda s: f"{s.rows:,}",
    "questions": lambda s: f"{s.questions:,}",
    "steps": lambda s: f"{s.steps:,}",
    "wrong steps %": lambda s: _percent(s.wrong, s.scored),
    "words a step": lambda s: f"{s.words / s.steps:.1f}" if s.steps else "-",
    "right solutions %": lambda s: _percent(s.right_solutions, s.known_solutions),
    "continuations a step": lambda s: _ratio(s.continuations, s.scored - s.inferred - s.finished),
    "right %": lambda s: _percent(s.right, s.continuations),
    "cut %": lambda s: _percent(s.cut, s.continuations),
    "unparsed %": lambda s: _percent(s.unparsed, s.continuations),
    "not monotone %": lambda s: _percent(s.not_monotone, s.rows),
}
_COSTS = {
    "requests": "requests",
    "solutions": "sampled solutions",
    "continuations": "sampled continuations",
    "surplus": "of them surplus, since a step had enough before",
    "prompt_tokens": "prompt tokens, once a request",
    "completion_tokens": "sampled tokens",
}


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def _ratio(total: float, count: float) -> str:
    return f"{total / count:.1f}" if count > 0 else "-"


def card_of(rows: Path, settings: Mapping[str, Any], costs: Mapping[str, float], when: str | None = None) -> str:
    """The card as Markdown.

    Args:
        rows: JSONL file of the annotation; read as a stream.
        settings: What it depends on beside the prompts.
        costs: Sums of :class:`lightning_modules.monte_carlo.costs.Costs`; empty where they are not known.
        when: When it was finished.

    Raises:
        ValueError: If the file holds other rows; names file and line.
    """
    found = statistics_of(rows)
    lines = [
        f"# {rows.stem}",
        "",
        "Solutions of a policy with Monte Carlo scores of their steps, in the layout of VisualPRM400K-v1.1-Raw, made "
        "with the reference implementation of VisualPRM (arXiv 2503.10291).",
        *([f"Finished at {when}."] if when else []),
        "",
        "## Statistics by source",
        "",
        _line("source", *_COLUMNS),
        _line("---", *("---:" for _ in _COLUMNS)),
        *(_line(source, *(cell(each) for cell in _COLUMNS.values())) for source, each in found.items()),
    ]
    if len(found) > 1:
        total = sum(found.values(), Statistics())
        lines.append(_line("all", *(cell(total) for cell in _COLUMNS.values())))
    lines += [
        "",
        "A step is wrong if no continuation of it reached the gold answer. Cut continuations reached the limit of new "
        "tokens; unparsed ones ended by themselves without an answer that could be read. Solutions that are not "
        "monotone have a right step behind a wrong one.",
    ]
    if costs:
        lines += ["", "## Costs", "", *ledger(costs)]
    lines += [
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True),
        "```",
    ]
    return "\n".join(lines) + "\n"


def ledger(costs: Mapping[str, float]) -> list[str]:
    """The costs as a table."""
    seconds, tokens = costs.get("seconds", 0.0), costs.get("completion_tokens", 0)
    lines = [_line("what", "how much"), _line("---", "---:")]
    lines += [_line(text, f"{int(costs.get(name, 0)):,}") for name, text in _COSTS.items()]
    lines.append(_line("hours, of all devices together", f"{seconds / 3600:.3f}"))
    if seconds:
        lines.append(_line("sampled tokens a second and device", f"{tokens / seconds:,.1f}"))
    return lines


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
