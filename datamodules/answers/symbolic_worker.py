"""A process of its own that compares LaTeX with math-verify: one JSON line in, one line ``1``, ``0`` or ``?`` out.

A process, because math-verify's time limit works in main threads only and cannot interrupt the computation of a huge
power. Limits count seconds of this process's own computation, so that a busy machine changes no verdict. After
``SECONDS`` Python code is interrupted and the verdict is ``?``; where that does not help, the kernel ends the process a
few seconds later, also when the parent process is gone. It runs as a file and imports nothing of ours.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time
from typing import Any

SECONDS = 3.0
SECONDS_UNTIL_KILLED = 3
MEMORY_LIMIT = 2 * 2**30


_INNER_SPACE = re.compile(r"(?<=[{(])\s+|\s+(?=[})])")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*°")


def _with_radians(text: str) -> str:
    """Degrees in radians, in a formula with trigonometric functions."""
    if "°" not in text or not _TRIGONOMETRIC.search(text):
        return text
    return _DEGREES.sub(r"\\frac{\1\\pi}{180}", text)


class _OutOfTimeError(BaseException):
    """No Exception: libraries would catch it and go on."""


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr  # libraries print warnings there
    logging.disable(logging.CRITICAL)
    _limit_memory()

    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Eq, Expr, Rational, Set, simplify

    def expressions(text: str, search: bool) -> list[Any]:
        if search:
            return list(parse(text, parsing_timeout=None))
        # No ExprExtractionConfig: it would take the first number out of a text that is not understood as a whole.
        text = _INNER_SPACE.sub("", _with_radians(text))
        return list(parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None))

    def are_same_equation(first: Any, second: Any) -> bool:
        """Whether the differences of both sides are multiples of each other by a number that is not 0."""
        left, right = first.lhs - first.rhs, second.lhs - second.rhs
        symbols = sorted(left.free_symbols | right.free_symbols, key=str)
        if not symbols or left.free_symbols != right.free_symbols:
            return False
        point = {symbol: Rational(3 + 2 * place, 7 + place) for place, symbol in enumerate(symbols)}
        values = left.subs(point), right.subs(point)
        if not all(value.is_number and value.is_finite for value in values) or 0 in values:
            return False
        return bool(simplify(left * values[1] - right * values[0]) == 0)

    def verdict(prediction: str, gold: str, search: bool) -> str:
        expected, given = expressions(gold, search), expressions(prediction, search)
        if not expected or not given:
            return "0"
        equations = [
            isinstance(item, Eq) and not isinstance(item.rhs, Set) and isinstance(item.lhs, Expr)
            for item in (expected[0], given[0])
        ]
        if all(equations) and are_same_equation(expected[0], given[0]):
            return "1"
        if equations[0] != equations[1]:
            return "0"  # verify() would compare an equation's right side with the other answer
        # verify() is not symmetric: the right answer comes first, and only with this switch may a set stand for the
        # inequality that describes it in both directions.
        return "1" if verify(expected, given, allow_set_relation_comp=True, timeout_seconds=None) else "0"

    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            _start_clock()
            answer = verdict(request["prediction"], request["gold"], request["search"])
        except (_OutOfTimeError, RecursionError, MemoryError):
            answer = "?"
        finally:
            _stop_clock()
        answers.write(f"{answer}\n")
        answers.flush()


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def _raise_out_of_time(*_: object) -> None:
    raise _OutOfTimeError


def _start_clock() -> None:
    if sys.platform != "win32":
        import resource

        end = int(time.process_time() + SECONDS) + 1 + SECONDS_UNTIL_KILLED
        resource.setrlimit(resource.RLIMIT_CPU, (end, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        signal.signal(signal.SIGPROF, _raise_out_of_time)
        signal.setitimer(signal.ITIMER_PROF, SECONDS, 0.5)


def _stop_clock() -> None:
    if sys.platform != "win32":
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
