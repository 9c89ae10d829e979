"""Stop strings: where a sampled text ends although the model did not end it."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_modules.generation.engine import GeneratedText


def cut_at_stop(found: GeneratedText, stop: Sequence[str]) -> GeneratedText:
    """Cut a text before the first stop string in it; its finish reason is then ``stop``.

    The partial response that a text continues is not looked at. The number of tokens stays that of all that were
    sampled.

    Args:
        found: What was sampled.
        stop: Strings; the one that begins first counts.
    """
    places = [(place, string) for string in stop if (place := found.text.find(string)) >= 0]
    if not places:
        return found
    place, string = min(places)
    return found._replace(text=found.text[:place], finish_reason="stop", stopped_at=string)
