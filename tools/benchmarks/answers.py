"""Comparisons of answers per second, by this package and by math-verify alone.

Runs both on the same pairs and takes the median of several rounds::

    python -m tools.benchmarks.answers --comparisons 10000 --rounds 3

"cold" empties all caches before each round, as in the first epoch. "warm" compares the same pairs again, as when
candidates are graded again. math-verify is called in this process and parses both answers of each pair, as in its
README. With `--reference-stride n` it gets only every n-th pair, and its rate counts only these.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from math_verify import parse, verify

from datamodules.answers import compare, normalize, numbers, units
from datamodules.answers.compare import answers_equal

Pair = tuple[str, str]

# Shares of kinds of right answers: roughly the seven benchmarks together with MATH-500 and GSM8K.
SHARES = {"letters": 0.45, "integers": 0.25, "decimals": 0.15, "LaTeX numbers": 0.10, "LaTeX expressions": 0.05}


@dataclass(frozen=True)
class Rate:
    """Comparisons per second and the number of verdicts that the two are equal."""

    per_second: float
    equal: int


def make_pair(kind: str, random_numbers: random.Random) -> Pair:
    """A prediction and a right answer of one kind; about half of the pairs are equal, many spelled differently."""
    draw = random_numbers.randint
    is_right = random_numbers.random() < 0.5
    if kind == "letters":
        gold = random_numbers.choice("ABCDE")
        letter = gold if is_right else random_numbers.choice("ABCDE")
        return random_numbers.choice(["%s", "(%s)", r"\text{%s}", "%s."]) % letter, gold
    if kind == "integers":
        value = draw(-20, 5000)
        given = value if is_right else value + draw(1, 9)
        return random_numbers.choice(["%d", "%d.0", "$%d$", "x = %d", "%d cm", r"%d^\circ"]) % given, str(value)
    if kind == "decimals":
        hundredths = draw(1, 99999)
        shown = (hundredths if is_right else hundredths + draw(1, 99)) / 100
        written = random_numbers.choice(["%.2f", "%.3f", r"%.2f \text{ m}", r"\approx %.2f"]) % shown
        return written, f"{hundredths / 100:.2f}"
    if kind == "LaTeX numbers":
        a, b = draw(1, 40), draw(2, 40)
        c = b if is_right else b + 1
        prediction, gold = random_numbers.choice(
            [
                (rf"\dfrac{{{a}}}{{{c}}}", f"{a}/{b}"),
                (rf"{a}\sqrt{{{c}}}", rf"{a} \sqrt {{{b}}}"),
                (rf"\frac{{{a}\pi}}{{{c}}}", rf"\frac{{{a}}}{{{b}}}\pi"),
                (f"({a}, {c})", rf"\left({a}, {b}\right)"),
            ]
        )
        return prediction, gold
    a, b = draw(2, 30), draw(2, 30)
    c = b if is_right else b + 1
    return random_numbers.choice(
        [
            (f"{c} + {a}x", f"{a}x + {b}"),
            (f"(x+{a})(x+{c})", f"x^2 + {a + b}x + {a * b}"),
            (rf"x \le {c}", rf"x \leq {b}"),
            (rf"(-\infty, {a}) \cup ({a + c}, \infty)", rf"(-\infty,{a})\cup({a + b},\infty)"),
            (rf"\frac{{{a}x}}{{{c}}}", rf"\frac{{{a}}}{{{b}}} x"),
        ]
    )


def make_pairs(count: int, seed: int) -> list[tuple[str, Pair]]:
    """(kind, pair) in the proportions of :data:`SHARES`, shuffled; pairs may repeat, as they do in practice."""
    random_numbers = random.Random(seed)  # noqa: S311 - no secret
    kinds = random_numbers.choices(list(SHARES), weights=list(SHARES.values()), k=count)
    return [(kind, make_pair(kind, random_numbers)) for kind in kinds]


def forget_verdicts() -> None:
    """Empty all caches of the comparison."""
    for cached in (
        compare._equal,
        normalize.normalize,
        normalize.text_key,
        numbers.number_value,
        units.parse_quantity,
        units._unit_size,
    ):
        cached.cache_clear()


def with_math_verify(prediction: str, gold: str) -> bool:
    """Compare as the README of math-verify does."""
    return bool(verify(parse(f"${gold}$"), parse(f"${prediction}$")))


def measure(compare_pair: Callable[[str, str], bool], pairs: Sequence[Pair]) -> Rate:
    """Compare all pairs once."""
    began = time.perf_counter()
    equal = sum(compare_pair(prediction, gold) for prediction, gold in pairs)
    return Rate(len(pairs) / (time.perf_counter() - began), equal)


def median(rates: Sequence[Rate]) -> Rate:
    """The median rate; verdicts must not differ between rounds."""
    counts = {rate.equal for rate in rates}
    if len(counts) > 1:
        raise RuntimeError(f"the same pairs gave {sorted(counts)} equal answers in different rounds")
    return Rate(statistics.median(rate.per_second for rate in rates), counts.pop())


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reference-stride", type=int, default=1, help="math-verify gets every n-th pair")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    labelled = make_pairs(arguments.comparisons, arguments.seed)
    answers_equal("2x", "x + x")  # starts the worker process
    with_math_verify("2x", "x + x")

    print(f"{'pairs':<20}{'number':>8}{'cold /s':>12}{'warm /s':>12}{'math-verify /s':>16}{'equal':>8}{'theirs':>8}")
    for name in ("all", *SHARES):
        pairs = [pair for kind, pair in labelled if name in ("all", kind)]
        some = pairs[:: arguments.reference_stride]
        cold, warm, reference = [], [], []
        for _ in range(arguments.rounds):
            forget_verdicts()
            cold.append(measure(answers_equal, pairs))
            warm.append(measure(answers_equal, pairs))
            reference.append(measure(with_math_verify, some))
        ours, again, theirs = median(cold), median(warm), median(reference)
        share = len(some) / len(pairs)
        print(
            f"{name:<20}{len(pairs):>8}{ours.per_second:>12,.0f}{again.per_second:>12,.0f}{theirs.per_second:>16,.0f}"
            f"{ours.equal:>8}{theirs.equal / share:>8,.0f}"
        )


if __name__ == "__main__":
    main()
