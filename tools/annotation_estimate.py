"""What an annotation will cost, from a measured one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.callbacks.prediction_record import Record
from lightning_modules.monte_carlo.statistics import Statistics, statistics_of

_NEEDED = ("requests", "prompt_tokens", "completion_tokens", "seconds")


@dataclass(frozen=True)
class Rates:
    """What was measured.

    Attributes:
        drawn: Continuations that were drawn, as a share of K for each continued step of each solution: less than 1
            where solutions share steps, and where drawing stops early.
        prompt_tokens: Of a request.
        completion_tokens: Of a sampled text.
        tokens_per_second: Sampled tokens a second on one device.
        texts_per_request: Sampled texts of a request.
    """

    drawn: float
    prompt_tokens: float
    completion_tokens: float
    tokens_per_second: float
    texts_per_request: float


@dataclass(frozen=True)
class Estimate:
    """What a job takes.

    Attributes:
        solutions: Sampled solutions.
        continuations: Sampled continuations.
        requests: Requests.
        prompt_tokens: Of all requests; engines that keep what prompts share compute fewer.
        completion_tokens: Sampled tokens.
        device_hours: Hours of one device.
    """

    solutions: int
    continuations: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    device_hours: float


def measured_rates(rows: Path) -> tuple[Rates, float]:
    """The rates of a finished annotation, and the mean number of continued steps of its solutions.

    Args:
        rows: Its JSONL file; the record beside it holds its costs.

    Raises:
        FileNotFoundError: If there is no record.
        ValueError: If the record holds no costs, since an earlier version has written it, or belongs to something else
            than an annotation; or there are no rows.
    """
    record = rows.with_name(f"{rows.name}.settings")
    if not record.is_file():
        raise FileNotFoundError(f"{record}: is not there; an annotation's costs are kept in it")
    found = Record.of(record, is_finished=True)
    costs, settings = found.costs, found.settings
    if not (isinstance(costs, Mapping) and all(_is_positive(costs.get(name)) for name in _NEEDED)):
        raise ValueError(f"{record}: holds no costs; measure with an annotation that this version of the package makes")
    if not _is_positive(settings.get("num_continuations")):
        raise ValueError(f"{record}: of something else than an annotation: it names no num_continuations")
    total = sum(statistics_of(rows).values(), Statistics())
    if not total.rows:
        raise ValueError(f"{rows}: holds no rows")
    if not (costs.get("solutions") or costs.get("continuations")):
        raise ValueError(f"{record}: nothing was sampled, so that there is nothing to measure")
    continued = total.steps - (0 if settings.get("continue_last_step") else total.rows)
    steps = continued / total.rows
    texts = costs.get("solutions", 0) + costs.get("continuations", 0)
    return (
        Rates(
            drawn=costs.get("continuations", 0) / max(1, continued * settings["num_continuations"]),
            prompt_tokens=costs["prompt_tokens"] / costs["requests"],
            completion_tokens=costs["completion_tokens"] / texts,
            tokens_per_second=costs["completion_tokens"] / costs["seconds"],
            texts_per_request=texts / costs["requests"],
        ),
        steps,
    )


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and value > 0


def estimate(prompts: int, solutions: int, steps: float, continuations: int, rates: Rates) -> Estimate:
    """What a job takes at measured rates.

    Args:
        prompts: Number of questions.
        solutions: Of each question.
        steps: Continued steps of a solution, on average.
        continuations: K.
        rates: What was measured.
    """
    sampled = prompts * solutions
    drawn = round(sampled * steps * continuations * rates.drawn)
    requests = round((sampled + drawn) / rates.texts_per_request)
    tokens = round((sampled + drawn) * rates.completion_tokens)
    return Estimate(
        sampled,
        drawn,
        requests,
        round(requests * rates.prompt_tokens),
        tokens,
        tokens / rates.tokens_per_second / 3600,
    )
