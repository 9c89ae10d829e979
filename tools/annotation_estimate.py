"""What an annotation will cost, from a measured one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.monte_carlo.statistics import Statistics, statistics_of


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
        ValueError: If the record holds no costs, since an earlier version has written it.
    """
    record = rows.with_name(f"{rows.name}.settings")
    if not record.is_file():
        raise FileNotFoundError(f"{record}: is not there; an annotation's costs are kept in it")
    found: dict[str, Any] = json.loads(record.read_bytes())
    costs: Mapping[str, float] = found.get("costs") or {}
    if not costs.get("completion_tokens") or not costs.get("seconds"):
        raise ValueError(f"{record}: holds no costs; measure with an annotation that this version of the package makes")
    total = sum(statistics_of(rows).values(), Statistics())
    settings = found["settings"]
    continued = total.steps - (0 if settings.get("continue_last_step") else total.rows)
    steps = continued / total.rows
    texts = costs["solutions"] + costs["continuations"]
    return (
        Rates(
            drawn=costs["continuations"] / max(1, continued * settings["num_continuations"]),
            prompt_tokens=costs["prompt_tokens"] / costs["requests"],
            completion_tokens=costs["completion_tokens"] / texts,
            tokens_per_second=costs["completion_tokens"] / costs["seconds"],
            texts_per_request=texts / costs["requests"],
        ),
        steps,
    )


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
