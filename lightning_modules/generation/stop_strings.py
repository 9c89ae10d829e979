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
    places = [place for place in map(found.text.find, stop) if place >= 0]
    return found._replace(text=found.text[: min(places)], finish_reason="stop") if places else found
