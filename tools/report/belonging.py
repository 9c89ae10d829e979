"""Which results may stand in one report: those of the same rules, questions, candidates and way of reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal, get_args

from datamodules.batching.ranks import digest_of
from tools.report.numbers import Entry
from tools.report.results import NOT_RECORDED, RunResult

Difference = Literal["rules", "questions", "rollouts", "protocol"]
DIFFERENCES: tuple[str, ...] = get_args(Difference)

READING = ("max_steps", "question_text", "pictures", "white_space", "image_layout")
"""Settings of the protocol that say how a response is read, whatever the model has learnt."""

_MOST = 3


def differences(one: RunResult, other: RunResult, are_seeds: bool = False) -> Iterator[tuple[Difference, str]]:
    """What keeps two results out of one report, with the kind of each difference.

    What one of the two does not record is not compared.

    Args:
        one: A result.
        other: Another one.
        are_seeds: Whether they are seeds of one recipe, whose worlds, policies and candidates differ by design.
    """
    for name in one.benchmarks:
        if name in other.benchmarks:
            yield from _of_benchmark(name, one, other, are_seeds)
    if one.best_of_n and other.best_of_n and _differ(one.best_of_n, other.best_of_n, "subsets"):
        subsets = [report.get("subsets") for report in (one.best_of_n, other.best_of_n)]
        yield "rules", f"N candidates are taken from subsets {subsets[0]} and {subsets[1]}"
    for key in READING:
        # An outcome model reads the response as one step, whatever their largest number.
        is_about_steps = key == "max_steps" and "ORM" in (one.critic, other.critic)
        if _differ(one.protocol, other.protocol, key) and not is_about_steps:
            yield "protocol", f"{key} is {one.protocol[key]!r} and {other.protocol[key]!r}"
    if one.process_bench and other.process_bench and not are_seeds:
        yield from _of_process_bench(one, other)


def _of_benchmark(name: str, one: RunResult, other: RunResult, are_seeds: bool) -> Iterator[tuple[Difference, str]]:
    mine, theirs = one.facts(name), other.facts(name)
    for key in ("rules", "rules_versions"):
        if _differ(mine, theirs, key):
            yield "rules", f"{name}: {key.replace('_', ' ')} are {_short(mine[key])} and {_short(theirs[key])}"
    if _differ(mine, theirs, "split"):
        yield "questions", f"{name}: the splits are {mine['split']} and {theirs['split']}"
    elif not are_seeds and _differ(mine, theirs, "questions_digest"):
        yield (
            "questions",
            f"{name}: the questions are others ({mine['questions_digest']}, {theirs['questions_digest']})",
        )
    if are_seeds or one.policy != other.policy or one.temperatures != other.temperatures:
        return
    rows, others = one.candidates.get(name), other.candidates.get(name)
    if rows and others and rows.digest != others.digest:
        kept = f"{rows.count} of digest {rows.digest} and {others.count} of digest {others.digest}"
        yield "rollouts", f"{name}: the candidates of {one.policy} are others: {kept}"
    elif verdicts := _other_verdicts(name, one, other):
        yield "rules", f"{name}: the same candidates have other verdicts: Pass@1 is {verdicts}"


def _other_verdicts(name: str, one: RunResult, other: RunResult) -> str:
    """Pass@1 of both where it differs: it depends on the candidates and their verdicts alone."""
    if not (one.best_of_n and other.best_of_n):
        return ""
    n = max(one.best_of_n["ns"])
    if n != max(other.best_of_n["ns"]):
        return ""
    values = [report["accuracies"][name]["pass_at_1"][str(n)]["value"] for report in (one.best_of_n, other.best_of_n)]
    return "" if abs(values[0] - values[1]) < 1e-9 else f"{100 * values[0]:.1f} and {100 * values[1]:.1f} %"


def _of_process_bench(one: RunResult, other: RunResult) -> Iterator[tuple[Difference, str]]:
    sizes = [_sizes(result) for result in (one, other)]
    if sizes[0] != sizes[1]:
        yield "questions", f"VisualProcessBench: {sizes[0]} and {sizes[1]}"
    elif one.step_scores and other.step_scores:
        digests = [digest_of(f"{row.line} {row.correctness}" for row in result.step_scores) for result in (one, other)]
        if digests[0] != digests[1]:
            yield "questions", f"VisualProcessBench: the labels are others ({digests[0]}, {digests[1]})"


def _sizes(result: RunResult) -> str:
    overall = (result.process_bench or {})["overall"]
    steps = [overall[f"{kind}_steps"] for kind in ("correct", "wrong", "neutral")]
    return f"{overall['solutions']} solutions with {'/'.join(map(str, steps))} correct/wrong/neutral steps"


def _differ(one: Any, other: Any, key: str) -> bool:
    """Whether both record a value and the values differ; an empty one is not recorded."""
    values = [each.get(key) for each in (one, other)]
    return all(value not in (None, "", [], {}) for value in values) and values[0] != values[1]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def check_belonging(entries: Sequence[Entry], allowed: Sequence[str] = ()) -> list[str]:
    """Refuse results that do not belong together.

    Args:
        entries: Each is compared with every other, and its seeds with each other.
        allowed: Kinds of differences that are wanted, see :data:`DIFFERENCES`.

    Returns:
        Sentences about allowed differences, and about what is not recorded.

    Raises:
        ValueError: If there are differences that are not allowed; names the folders and what differs.
    """
    refused: list[str] = []
    notes: list[str] = []

    def compare(one: RunResult, other: RunResult, names: str, are_seeds: bool) -> None:
        found = list(differences(one, other, are_seeds))
        refusals = [(kind, text) for kind, text in found if kind not in allowed]
        if refusals:
            more = f"; and {len(refusals) - _MOST} more differences" if len(refusals) > _MOST else ""
            lines = "; ".join(text for _, text in refusals[:_MOST]) + more
            kinds = " ".join(dict.fromkeys(kind for kind, _ in refusals))
            refused.append(f"{one.folder} and {other.folder} do not belong together: {lines} (--allow {kinds})")
        notes.extend(f"{names}: {text}." for kind, text in found if kind in allowed)

    for entry in entries:
        for seed in entry.results[1:]:
            compare(entry.first, seed, f"{entry.first.folder} and {seed.folder}", are_seeds=True)
    for first, second in combinations(entries, 2):
        for one, other in zip(first.results, second.results, strict=True):
            compare(one, other, f"{first.name} and {second.name}", are_seeds=False)
    if refused:
        hint = (
            ". If the runs are seeds of one recipe, give --seeds" if any("rollouts" in line for line in refused) else ""
        )
        more = f". {len(refused) - 1} other pairs do not belong together either" if len(refused) > 1 else ""
        raise ValueError(refused[0] + hint + more)
    return [*dict.fromkeys(notes), *_unrecorded(entries)]


def _unrecorded(entries: Sequence[Entry]) -> list[str]:
    """What the reports of older versions do not say, so that it was not compared."""
    results = [result for entry in entries for result in entry.results if result.best_of_n]
    lacking = {
        "The way of reading": [result for result in results if not result.protocol],
        "The versions of the rules": [
            r for r in results if not all(r.facts(n).get("rules_versions") for n in r.benchmarks)
        ],
        "The candidates": [result for result in results if not result.candidates],
    }
    return [
        f"{what}: {NOT_RECORDED}, and so not compared, by {', '.join(str(result.folder) for result in those)}."
        for what, those in lacking.items()
        if those
    ]
