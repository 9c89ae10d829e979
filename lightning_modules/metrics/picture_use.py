"""How much of a score is the picture's: results with the right pictures, with others, and with none.

Q questions with N candidates each; S judged solutions. All three results are of the same items, so that their
differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from lightning_modules.metrics.bootstrap import Array, percentile_interval, resampled_means
from lightning_modules.metrics.table import Cell, Table

RIGHT, OTHER, NONE = SHOWN = ("right", "other", "none")
"""What is shown: the question's own pictures, those of another question, no pictures."""


@dataclass(frozen=True)
class PictureUse:
    """One metric under the three conditions.

    Attributes:
        name: Of the metric, with the data that it is of.
        values: By condition, in [0, 1].
        chance: What a critic that knows nothing reaches; None where that is not known.
        difference: Right minus other pictures.
        interval: 95 % of the difference, from a bootstrap over questions or solutions.
        items: Number of questions or solutions.
    """

    name: str
    values: Mapping[str, float]
    chance: float | None
    difference: float
    interval: tuple[float, float]
    items: int

    @property
    def share(self) -> float | None:
        """The part of what is above chance that needs the right pictures; None if nothing is, or chance is unknown."""
        above = None if self.chance is None else self.values[RIGHT] - self.chance
        return None if above is None or above <= 0 else self.difference / above


def best_of_n_use(
    name: str, scores: Mapping[str, Sequence[Sequence[float]]], correct: Sequence[Sequence[bool]], seed: int, draws: int
) -> PictureUse:
    """The share of questions whose best-scored candidate is right; chance is a candidate drawn at random.

    Args:
        name: Of the data.
        scores: By condition: for each of Q questions N response scores.
        correct: For each question N verdicts.
        seed: Of the bootstrap.
        draws: Of the bootstrap.
    """
    columns = [
        [
            float(verdicts[int(np.argmax(of_question))])
            for of_question, verdicts in zip(scores[kind], correct, strict=True)
        ]
        for kind in SHOWN
    ]
    units = np.array([*columns, [float(np.mean(verdicts)) for verdicts in correct]]).T
    means = units.mean(axis=0)
    resampled = resampled_means(units, draws, np.random.default_rng(seed))
    return _use(f"{name}: Best-of-N", means[:3], resampled[:, 0] - resampled[:, 1], float(means[3]), len(units))


def step_judgement_uses(
    name: str,
    scores: Mapping[str, Sequence[Sequence[float]]],
    correct: Sequence[Sequence[bool]],
    threshold: float,
    seed: int,
    draws: int,
) -> list[PictureUse]:
    """AUROC, and macro F1 at a threshold, of the steps of S solutions.

    Args:
        name: Of the data.
        scores: By condition: for each solution the scores of its decided steps.
        correct: For each solution the labels of these steps.
        threshold: From which score on a step is judged right.
        seed: Of the bootstrap.
        draws: Of the bootstrap.
    """
    labels = np.concatenate([np.array(each, bool) for each in correct])
    lengths = np.array([len(each) for each in correct])
    flat = np.array([[score for solution in scores[kind] for score in solution] for kind in SHOWN])
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    judged = flat >= threshold
    kinds = np.stack([judged & labels, judged & ~labels, ~judged & labels, ~judged & ~labels])  # (4, 3, steps)
    rows = kinds.reshape(12, -1).astype(np.float64)
    counts = np.stack([np.bincount(owner, row, len(lengths)) for row in rows], axis=1).astype(np.float64)
    resampled = resampled_means(counts, draws, generator)
    f1, f1_draws = _macro_f1(counts.mean(axis=0)), _macro_f1(resampled)
    found = np.array([_auroc(values, labels) for values in flat])
    starts = lengths.cumsum() - lengths
    auroc_draws = []
    for _ in range(draws):
        drawn = generator.integers(0, len(lengths), len(lengths))
        steps = np.concatenate([np.arange(starts[each], starts[each] + lengths[each]) for each in drawn])
        if labels[steps].all() or not labels[steps].any():
            continue  # a resample with one label has no AUROC
        auroc_draws.append(_auroc(flat[0, steps], labels[steps]) - _auroc(flat[1, steps], labels[steps]))
    return [
        _use(f"{name}: AUROC", found, np.array(auroc_draws), 0.5, len(lengths)),
        _use(f"{name}: macro F1", f1, f1_draws[..., 0] - f1_draws[..., 1], None, len(lengths)),
    ]


def _use(name: str, values: Array, differences: Array, chance: float | None, items: int) -> PictureUse:
    low, high = percentile_interval(differences[:, None])
    by_kind = dict(zip(SHOWN, map(float, values), strict=True))
    return PictureUse(name, by_kind, chance, by_kind[RIGHT] - by_kind[OTHER], (float(low[0]), float(high[0])), items)


def _macro_f1(counts: Array) -> Array:
    """Macro F1 of (..., 12) counts: true right, false right, false wrong, true wrong, of three conditions each."""
    found, passed, missed, caught = np.split(counts, 4, axis=-1)
    errors = passed + missed
    parts = [2 * right / np.maximum(2 * right + errors, 1e-12) for right in (found, caught)]
    return np.mean(parts, axis=0)


def _auroc(scores: Array, labels: Array) -> float:
    """Chance that a right step has a higher score than a wrong one, ties counting half (Mann-Whitney)."""
    right = int(labels.sum())
    ranks = rankdata(scores)[labels].sum()
    return float((ranks - right * (right + 1) / 2) / (right * (len(labels) - right)))


def picture_use_table(uses: Sequence[PictureUse]) -> Table:
    """The table in percent."""
    header = ["Metric", "Chance", "Right", "Other", "None", "Right - other", "Share", "Items"]
    rows = []
    for use in uses:
        low, high = use.interval
        rows.append(
            [
                Cell(use.name),
                Cell("-" if use.chance is None else f"{100 * use.chance:.1f}"),
                *(Cell(f"{100 * use.values[kind]:.1f}") for kind in SHOWN),
                Cell(f"{100 * use.difference:.1f} [{100 * low:.1f}, {100 * high:.1f}]"),
                Cell("-" if use.share is None else f"{100 * use.share:.0f}"),
                Cell(str(use.items)),
            ]
        )
    note = (
        "Right, other, none: the question's own pictures, those of another question of the same source, no pictures. "
        "Share: what the right pictures add to others, of all that is above chance. Chance of Best-of-N: a candidate "
        "drawn at random. Questions without pictures are left out. Intervals of 95 %, paired, from a bootstrap "
        "over questions or solutions. Best-of-N counts every question once, not as the benchmarks' headlines do."
    )
    return Table("Does it look? (%)", header, rows, note)
