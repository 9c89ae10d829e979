"""A process of its own that compares LaTeX with math-verify: one JSON line in, one line ``1`` or ``0`` out.

A process, because math-verify's time limit works in main threads only and cannot interrupt the computation of a huge
power: :mod:`datamodules.answers.symbolic` kills this process instead. It runs as a file and imports nothing of ours.
"""

from __future__ import annotations

import json
import logging
import os
import sys

SECONDS_PER_STAGE = 3
MEMORY_LIMIT = 4 * 2**30


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr  # libraries print warnings there
    logging.disable(logging.CRITICAL)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))

    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    def expressions(text: str) -> list[object]:
        configurations = [LatexExtractionConfig(), ExprExtractionConfig()]
        return list(parse(f"${text}$", configurations, fallback_mode="no_fallback", parsing_timeout=SECONDS_PER_STAGE))

    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        gold, prediction = expressions(request["gold"]), expressions(request["prediction"])
        is_equal = bool(gold and prediction) and verify(gold, prediction, timeout_seconds=SECONDS_PER_STAGE)
        answers.write("1\n" if is_equal else "0\n")
        answers.flush()


if __name__ == "__main__":
    main()
