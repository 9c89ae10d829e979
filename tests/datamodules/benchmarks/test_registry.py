"""The registry, and what holds for every benchmark."""

import numpy as np
import pytest

from datamodules.benchmarks import BENCHMARKS, BenchmarkQuestion
from datamodules.benchmarks.base import accuracy_by, as_scores


def test_names_in_the_order_of_the_paper():
    assert list(BENCHMARKS) == ["MMMU", "MathVista", "MathVision", "MathVerse-VO", "DynaMath", "WeMath", "LogicVista"]
    assert len({benchmark.table for benchmark in BENCHMARKS.values()}) == 7
    assert all(BENCHMARKS[name]().name == name for name in BENCHMARKS)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_missing_table_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=BENCHMARKS[name].table):
        BENCHMARKS[name]().read(tmp_path)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_no_questions_give_no_units(name):
    benchmark = BENCHMARKS[name]()
    assert benchmark.unit_scores([], np.zeros(0, bool)).shape == (0,)
    assert benchmark.unit_scores([], np.zeros((0, 3))).shape == (0, 3)
    assert benchmark.secondary_metrics([], np.zeros(0, bool)) == {}
    assert benchmark.complete_units([]).shape == (0,)


def question(number: int, **metadata) -> BenchmarkQuestion:
    return BenchmarkQuestion("MMMU", str(number), "q", (), ("A",), metadata=metadata)


def test_units_are_questions_and_the_policy_is_asked_for_a_box():
    benchmark = BENCHMARKS["MMMU"]()
    questions = [question(n) for n in range(3)]
    correct = np.array([[True, False], [False, False], [True, True]])
    assert benchmark.unit_scores(questions, correct).tolist() == [[1, 0], [0, 0], [1, 1]]
    prompt = benchmark.policy_prompt(questions[0])
    assert prompt.startswith("q\n")
    assert "\\boxed{}" in prompt


@pytest.mark.parametrize("correct", [np.zeros(2), np.zeros((3, 1, 1)), np.array([0, 1, 1.5]), np.array([0, 1, np.nan])])
def test_bad_verdicts_are_refused(correct):
    with pytest.raises(ValueError, match=r"expected shape|must lie in"):
        as_scores([question(n) for n in range(3)], correct)


def test_accuracy_by_counts_every_item_of_a_list():
    questions = [question(0, s=["a", "b"]), question(1, s="b"), question(2, s=""), question(3)]
    assert accuracy_by(questions, np.array([1, 0, 1, 1]), "s", "skill") == {"skill/a": 1.0, "skill/b": 0.5}
