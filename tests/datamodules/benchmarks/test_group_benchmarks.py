"""DynaMath and We-Math: verdicts, units against hand-worked tables and against enumeration."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from datamodules.benchmarks import BENCHMARKS, BenchmarkQuestion
from datamodules.benchmarks.table import encode_image, write_table

IMAGE = encode_image(Image.new("RGB", (4, 4)))


def dynamath_rows(**row):
    return [
        {
            "index": str(n),
            "image": IMAGE,
            "question": "q",
            "answer": "2.0944",
            "answer_type": "float",
            "qid": "7",
            "varid": str(n),
        }
        | row
        for n in range(1, 11)
    ]


def read(name, tmp_path, rows):
    benchmark = BENCHMARKS[name]()
    write_table(tmp_path / benchmark.table, rows)
    return benchmark, benchmark.read(tmp_path)


@pytest.mark.parametrize(
    ("response", "is_correct", "answer", "status"),
    [
        (r"\boxed{2.094}", True, "2.094", "boxed"),
        (r"\boxed{2.09}", False, "2.09", "boxed"),
        (r"\boxed{\frac{2\pi}{3}}", True, r"\frac{2\pi}{3}", "boxed"),
        (r"\boxed{2.0944 \text{ rad}}", True, "2.0944  rad", "boxed"),
        (json.dumps({"solution": r"so \boxed{3}", "short answer": "2.094"}), True, "2.094", "json"),
        ('{"solution": "..", "short answer": 2.094}', True, "2.094", "json"),
        (r'{"short answer": "\frac{2\pi}{3}"}', True, r"\frac{2\pi}{3}", "json"),
        (r"\boxed{unknown}", False, None, "boxed"),
        ("", False, None, "none"),
    ],
)
def test_dynamath_floats(tmp_path, response, is_correct, answer, status):
    benchmark, questions = read("DynaMath", tmp_path, dynamath_rows())
    grade = benchmark.grade(questions[0], response)
    assert (grade.is_correct, grade.status) == (is_correct, status)
    assert (grade.extracted_answer or "").split() == (answer or "").split()


def test_dynamath_letters_and_text(tmp_path):
    row = {"question": "Sum? choices: (A) 1 (B) 2", "answer": "B", "answer_type": "multiple choice"}
    benchmark, questions = read("DynaMath", tmp_path, dynamath_rows(**row))
    assert questions[0].options == {"A": "1", "B": "2"}
    for response, is_correct in (
        (r"\boxed{B}", True),
        (r"\boxed{2}", True),
        (r"\boxed{A}", False),
        (r"\boxed{3}", False),
    ):
        assert benchmark.grade(questions[0], response).is_correct is is_correct
    benchmark, questions = read("DynaMath", tmp_path, dynamath_rows(answer="Sep", answer_type="text"))
    for response, is_correct in ((r"\boxed{sep}", True), (r"\boxed{s}", False), ("", False), (r"\boxed{}", False)):
        assert benchmark.grade(questions[0], response).is_correct is is_correct


def test_dynamath_needs_all_variants(tmp_path):
    with pytest.raises(ValueError, match=r"DynaMath\.tsv: 1 seeds \(qid 7\) do not have each of the variants"):
        read("DynaMath", tmp_path, dynamath_rows()[:9])
    with pytest.raises(ValueError, match=r"1 seeds \(qid 7\)"):
        read("DynaMath", tmp_path, dynamath_rows(varid="1"))
    with pytest.raises(ValueError, match=r"\(index 1\): column 'varid' is 'one'"):
        read("DynaMath", tmp_path, dynamath_rows(varid="one"))
    with pytest.raises(ValueError, match=r"\(index 1\): column 'answer' is 'many'; answer_type float needs a number"):
        read("DynaMath", tmp_path, dynamath_rows(answer="many"))


def variants(seeds: int) -> list[BenchmarkQuestion]:
    """Variants of several seeds, interleaved."""
    return [
        BenchmarkQuestion(
            "DynaMath", f"{qid}-{v}", "q", (), ("1",), metadata={"qid": str(qid), "varid": v, "subject": f"s{qid % 2}"}
        )
        for v in range(1, 11)
        for qid in range(seeds)
    ]


def test_dynamath_worst_case_over_seeds():
    benchmark, questions = BENCHMARKS["DynaMath"](), variants(3)
    correct = np.array([not (q.metadata["qid"] == "1" and q.metadata["varid"] == 4) for q in questions])
    correct &= np.array([q.metadata["qid"] != "2" for q in questions])
    assert benchmark.unit_scores(questions, correct).tolist() == [1, 0, 0]
    metrics = benchmark.secondary_metrics(questions, correct)
    assert metrics["average_accuracy"] == pytest.approx(19 / 30)
    assert metrics["robustness"] == pytest.approx((1 / 3) / (19 / 30))
    assert metrics["subject/s1"] == pytest.approx(9 / 10)


def test_dynamath_columns_are_independent_and_probabilities_multiply():
    benchmark, questions = BENCHMARKS["DynaMath"](), variants(2)
    generator = np.random.default_rng(0)
    columns = generator.random((20, 3))
    units = benchmark.unit_scores(questions, columns)
    for m in range(3):
        assert np.allclose(units[:, m], benchmark.unit_scores(questions, columns[:, m]))
    expected = np.prod([p for q, p in zip(questions, columns[:, 0], strict=True) if q.metadata["qid"] == "1"])
    assert units[1, 0] == pytest.approx(expected)


def test_dynamath_partial_runs_are_refused_and_can_be_filtered():
    benchmark, questions = BENCHMARKS["DynaMath"](), variants(2)[:-1]
    with pytest.raises(
        ValueError, match=r"1 seeds \(qid 1\) do not have each of the variants .*; filter by complete_units first"
    ):
        benchmark.unit_scores(questions, np.ones(19))
    complete = benchmark.complete_units(questions)
    assert complete.tolist() == [q.metadata["qid"] == "0" for q in questions]
    kept = [q for q, whole in zip(questions, complete, strict=True) if whole]
    assert benchmark.unit_scores(kept, np.ones(10)).tolist() == [1]
    assert "robustness" in benchmark.secondary_metrics(questions, np.ones(19))


# ---- We-Math

WEMATH_OPTIONS = {"A": "12", "B": "24", "C": "36", "D": "No correct answer"}


def wemath_rows(keys=("2steps_1", "2steps_2", "2steps_multi")):
    return [
        {"index": str(n), "image": IMAGE, "question": "q", "answer": "B", "ID": "1", "key": key, "hint": "h"}
        | WEMATH_OPTIONS
        for n, key in enumerate(keys)
    ]


def test_wemath_rows_and_letters(tmp_path):
    benchmark, questions = read("WeMath", tmp_path, wemath_rows())
    assert questions[0].question == "h\nq\nA. 12\nB. 24\nC. 36\nD. No correct answer"
    cases = [
        (r"Answer: \boxed{B}", True, "B"),
        ("<Thought process>: <<..>> <Answer>: <<B>>", True, "B"),
        ("**Answer: B**", True, "B"),
        ("The correct option is B", True, "B"),
        ("Answer: Because..", False, None),
        (r"\boxed{24}", True, "B"),
        (r"\boxed{no correct answer}", False, "D"),
    ]
    for response, is_correct, answer in cases:
        grade = benchmark.grade(questions[0], response)
        assert (grade.is_correct, grade.extracted_answer) == (is_correct, answer)


def test_wemath_bad_key_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"WeMath\.tsv:2 \(index 0\): column 'key' is '2steps_3'"):
        read("WeMath", tmp_path, wemath_rows(["2steps_3"]))


def group(prefix: str, group_id: str) -> list[BenchmarkQuestion]:
    parts = [*map(str, range(1, int(prefix[0]) + 1)), "multi"]
    return [
        BenchmarkQuestion(
            "WeMath", f"{prefix}{group_id}{part}", "q", (), ("B",), metadata={"ID": group_id, "key": f"{prefix}_{part}"}
        )
        for part in parts
    ]


@pytest.mark.parametrize(
    ("verdicts", "score"),
    [((1, 1, 1), 1.0), ((1, 1, 0), 0.5), ((1, 0, 1), 0.0), ((0, 0, 1), 0.0), ((0, 1, 0), 0.0), ((0, 0, 0), 0.0)],
)
def test_wemath_strict_score_of_a_two_step_group(verdicts, score):
    benchmark = BENCHMARKS["WeMath"]()
    assert benchmark.unit_scores(group("2steps", "1"), np.array(verdicts, bool)).tolist() == [score]


def test_wemath_metrics_of_every_pattern_against_the_definitions():
    """All 8 patterns of a two-step and all 16 of a three-step group, by the definitions with plain booleans."""
    questions, correct, cases = [], [], []
    for prefix, length in (("2steps", 3), ("3steps", 4)):
        for number, pattern in enumerate(itertools.product([False, True], repeat=length)):
            questions += group(prefix, str(number))  # both kinds use the same IDs
            correct += pattern
            cases.append((all(pattern[:-1]), any(pattern[:-1]), pattern[-1]))
    benchmark = BENCHMARKS["WeMath"]()
    order = np.random.default_rng(0).permutation(len(questions))
    shuffled, verdicts = [questions[i] for i in order], np.array(correct)[order]
    total = len(cases)
    metrics = benchmark.secondary_metrics(shuffled, verdicts)
    count = {
        "IG": sum(every and not m for every, _, m in cases),
        "IK": sum(not every and not m for every, _, m in cases),
        "CM_strict": sum(every and m for every, _, m in cases),
        "RM_strict": sum(not every and m for every, _, m in cases),
        "CM_loose": sum(some and m for _, some, m in cases),
        "RM_loose": sum(not some and m for _, some, m in cases),
    }
    for name, value in count.items():
        assert metrics[name] == pytest.approx(value / total)
    for kind in ("strict", "loose"):
        assert metrics[f"score_{kind}"] == pytest.approx((count[f"CM_{kind}"] + count["IG"] / 2) / total)
    assert metrics["RM_rate_strict"] == pytest.approx(count["RM_strict"] / (count["RM_strict"] + count["CM_strict"]))
    assert benchmark.unit_scores(shuffled, verdicts).mean() == pytest.approx(metrics["score_strict"])
    assert metrics["S1"] == metrics["S2"] == metrics["S3"] == metrics["row_accuracy"] == 0.5


def test_wemath_probabilities_are_expectations_over_independent_draws():
    benchmark, questions = BENCHMARKS["WeMath"](), group("3steps", "1")
    chances = np.array([0.9, 0.5, 0.8, 0.3])
    expected = 0.0
    for pattern in itertools.product([0, 1], repeat=4):
        weight = np.prod([c if hit else 1 - c for c, hit in zip(chances, pattern, strict=True)])
        expected += weight * benchmark.unit_scores(questions, np.array(pattern))[0]
    assert benchmark.unit_scores(questions, chances)[0] == pytest.approx(expected)
    two = benchmark.unit_scores(questions, np.stack([chances, np.ones(4)], axis=1))
    assert two.shape == (1, 2)
    assert two[0].tolist() == pytest.approx([expected, 1.0])


def test_wemath_incomplete_groups_are_refused_and_undefined_rates_left_out():
    benchmark = BENCHMARKS["WeMath"]()
    questions = [*group("2steps", "1"), *group("3steps", "1")[:-1]]
    with pytest.raises(ValueError, match=r"1 groups \(ID 1\) do not have each of their one-step"):
        benchmark.unit_scores(questions, np.zeros(6))
    assert benchmark.complete_units(questions).tolist() == [True] * 3 + [False] * 3
    metrics = benchmark.secondary_metrics(questions, np.zeros(6))
    assert "RM_rate_strict" not in metrics
    assert "S3" not in metrics
    assert metrics["IK"] == 1.0
