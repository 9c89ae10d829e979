"""Verdicts of every benchmark's rules on fixed responses, kept in ``golden_verdicts.json`` with the rules' numbers.

A change of the rules that moves a verdict must raise the benchmark's number (``Benchmark.rules_versions``), by which
verdicts on disk are known. After that, write the file anew::

    python tests/golden_verdicts.py

which refuses while a verdict has moved under an old number.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import get_args

from verdict_cases import CASES, OPTIONS, ROADS

from datamodules.benchmarks import BENCHMARKS, BenchmarkQuestion, Rules

GOLDEN = Path(__file__).with_suffix(".json")

RESPONSES = [
    r"\boxed{B}",
    r"We add. Answer: \boxed{(B) 60 cm}",
    "B",
    "(B)",
    "b",
    "B.",
    "A or B",
    "The answer is B.",
    "The correct option is (B), since A is too small.",
    "So it must be 60 cm.",
    "I think that the answer is a dog.",
    "<Answer>: <<B>>",
    "Answer: B, D",
    "BD",
    "ASSISTANT: B, D",
    r"\boxed{12}",
    r"\boxed{12.0}",
    "12",
    "x = 12",
    "The result is 12.",
    "the total is 12 cm",
    "11.996",
    r"\boxed{\frac{24}{2}}",
    "[1, 12]",
    '{"solution": "we add", "short answer": "12"}',
    '{"short answer": "B"}',
    '{"short answer": "12.0004"}',
    "y = 12 in May",
    "I can't process this file.",
    "",
]

# answer type, gold answers, options, decimals
QUESTIONS = [
    ("letter", ("B",), OPTIONS, None),
    ("letter", ("B",), {}, None),
    ("letters", ("B, D",), OPTIONS, None),
    ("expression", ("12",), {}, None),
    ("integer", ("12",), {}, None),
    ("float", ("12.0",), {}, 1),
    ("list", ("[1, 12]",), {}, None),
    ("text", ("May",), {}, None),
]


def questions(name):
    """Questions of a benchmark with the responses to each: those above, and the hand-written cases of its kind."""
    for number, (answer_type, gold, options, precision) in enumerate(QUESTIONS):
        if options or answer_type != "letter" or name != "MathVista":  # whose options are always known
            yield _question(name, number, answer_type, gold, options, precision), RESPONSES
    for number, (_, kind, gold, response, *_) in enumerate(CASES, start=len(QUESTIONS)):
        benchmark, answer_type, precision = ROADS.get(kind, ("", "", None))
        if benchmark == name:
            golds = tuple(gold) if isinstance(gold, list) else (gold,)
            options = OPTIONS if kind == "choice" else {}
            answer_type = "text" if kind == "letters" and gold == "3" else answer_type
            yield _question(name, number, answer_type, golds, options, precision), [response]


def _question(name, number, answer_type, gold, options, precision):
    metadata = {"has_precision": precision is not None}
    return BenchmarkQuestion(name, str(number), "?", (), gold, options, answer_type, precision, metadata)


def verdicts(name, rules):
    """The verdicts on all responses, + or - each, and a digest of the answers that were read."""
    benchmark = BENCHMARKS[name](rules=rules)
    grades = [benchmark.grade(question, text) for question, texts in questions(name) for text in texts]
    answers = json.dumps([grade.extracted_answer for grade in grades])
    return {
        "version": benchmark.rules_versions[rules],
        "verdicts": "".join("+" if grade.is_correct else "-" for grade in grades),
        "answers": hashlib.sha256(answers.encode()).hexdigest()[:16],
    }


def moved(name, kept, found):
    """Which responses have another verdict than those kept, the first five."""
    cases = [(question, text) for question, texts in questions(name) for text in texts]
    pairs = zip(cases, kept["verdicts"].ljust(len(cases)), found["verdicts"], strict=False)
    changes = [f"gold {case[0].gold}, response {case[1][:60]!r}: {a} -> {b}" for case, a, b in pairs if a != b]
    return "; ".join(changes[:5]) or "other answers are read"


def main():
    """Write the file anew, unless a verdict moved under an old number."""
    kept = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    found = {f"{name} {rules}": verdicts(name, rules) for name in BENCHMARKS for rules in get_args(Rules)}
    stale = [
        f"{key}: {moved(key.rpartition(' ')[0], kept[key], value)}"
        for key, value in found.items()
        if key in kept and kept[key]["version"] == value["version"] and kept[key] != value
    ]
    if stale:
        sys.stderr.write("\n  ".join(["raise the rules_versions of these first:", *stale]) + "\n")
        return 1
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    count = sum(len(value["verdicts"]) for value in found.values())
    sys.stdout.write(f"{GOLDEN}: {count} verdicts of {len(found)} kinds of rules\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
