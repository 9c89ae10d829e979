"""Split a response into steps and merge them, as the released VisualPRM does."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.conversation.reading_rules import WhiteSpace

STEP_SEPARATOR = "\n\n"
DEFAULT_MAX_STEPS = 12
"""Most steps of a response, as the released VisualPRM reads it."""


def split_into_steps(response: str, white_space: WhiteSpace = "ours") -> list[str]:
    r"""Split a response at blank lines.

    Blank pieces, and white space around a step, are dropped. With ``released`` white space nothing is.

    >>> split_into_steps("First.\n\n\nSecond,\nstill second.\n\n")
    ['First.', 'Second,\nstill second.']
    >>> split_into_steps("First.\n\n\nSecond.\n\n", "released")
    ['First.', '\nSecond.', '']
    """
    if white_space == "released":
        return response.split(STEP_SEPARATOR)
    return [step.strip() for step in response.split(STEP_SEPARATOR) if step.strip()]


def written_steps(steps: Sequence[str]) -> list[int]:
    """Indices of the steps that are not blank; of a solution that came out empty, the last one.

    >>> written_steps(["First.", "", "Second."]), written_steps(["", ""])
    ([0, 2], [1])
    """
    return [number for number, step in enumerate(steps) if step.strip()] or [len(steps) - 1]


def steps_to_read(steps: Sequence[str], white_space: WhiteSpace = "ours") -> list[int]:
    """Indices of the steps of a solution that a model reads: those of :func:`written_steps`, or all as released."""
    return written_steps(steps) if white_space == "ours" else list(range(len(steps)))


def merged_sizes(num_steps: int, max_steps: int) -> list[int]:
    """Number of consecutive steps in each merged step: ``ceil(n / max)``, in the last one the remainder.

    >>> merged_sizes(14, 12), merged_sizes(5, 12)
    ([2, 2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1])

    Raises:
        ValueError: If ``max_steps`` is not positive.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    size = max(1, -(-num_steps // max_steps))
    return [min(size, num_steps - start) for start in range(0, num_steps, size)]


def merge_steps(steps: Sequence[str], max_steps: int = DEFAULT_MAX_STEPS) -> list[str]:
    """Merge neighbouring steps into at most ``max_steps``; blank lines stay between the merged ones."""
    merged, start = [], 0
    for size in merged_sizes(len(steps), max_steps):
        merged.append(STEP_SEPARATOR.join(steps[start : start + size]))
        start += size
    return merged


def response_steps(
    response: str,
    max_steps: int = DEFAULT_MAX_STEPS,
    *,
    as_one_step: bool = False,
    white_space: WhiteSpace = "ours",
) -> list[str]:
    """Steps of a response as a reward model judges them; always at least one.

    Args:
        response: A solution; a blank one gives one empty step.
        max_steps: Longer responses have neighbouring steps merged.
        as_one_step: Judge the response as a whole (an outcome reward model).
        white_space: See :class:`datamodules.conversation.reading_rules.ReadingRules`.
    """
    return merge_steps(split_into_steps(response, white_space), 1 if as_one_step else max_steps) or [""]
