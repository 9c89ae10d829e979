"""The registry, and what holds for every benchmark."""

import numpy as np
import pytest

from datamodules.benchmarks import BENCHMARKS, VISUAL_BENCHMARKS, BenchmarkQuestion, benchmarks_in, make_benchmark
from datamodules.benchmarks.base import POLICY_INSTRUCTION, BenchmarkOptions
from datamodules.benchmarks.grading import accuracy_by, as_scores
from datamodules.evaluation import EvaluationDataModule
from datamodules.prompts_datamodule import PromptDataModule
from datamodules.visual_prm_400k import VisualPRM400KDataModule


def test_names_in_the_order_of_the_paper():
    seven = ["MMMU", "MathVista", "MathVision", "MathVerse-VO", "DynaMath", "WeMath", "LogicVista"]
    assert list(VISUAL_BENCHMARKS) == seven
    assert list(BENCHMARKS) == [*seven, "GSM8K", "MATH-500", "GPQA-Diamond"]
    assert len({BENCHMARKS[name].table for name in seven}) == 7
    assert all(BENCHMARKS[name]().name == name for name in BENCHMARKS)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_missing_table_is_named(name, tmp_path):
    kind = BENCHMARKS[name]
    with pytest.raises(FileNotFoundError) as caught:
        kind().read(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name} is not in {tmp_path}; looked for")
    assert all(looked_for in message for looked_for in (kind.table, *kind.hub.repositories))
    assert not kind().is_in(tmp_path)


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
    assert benchmark.policy_prompt(questions[0]) == f"q\n{POLICY_INSTRUCTION}"
    assert "\\boxed{}" in POLICY_INSTRUCTION
    assert benchmark.policy_prompt(questions[0], "Be quick.") == "q\nBe quick."
    assert benchmark.policy_prompt(questions[0], "") == "q"


@pytest.mark.parametrize("correct", [np.zeros(2), np.zeros((3, 1, 1)), np.array([0, 1, 1.5]), np.array([0, 1, np.nan])])
def test_bad_verdicts_are_refused(correct):
    with pytest.raises(ValueError, match=r"expected shape|must lie in"):
        as_scores([question(n) for n in range(3)], correct)


def test_accuracy_by_counts_every_item_of_a_list():
    questions = [question(0, s=["a", "b"]), question(1, s="b"), question(2, s=""), question(3)]
    assert accuracy_by(questions, np.array([1, 0, 1, 1]), "s", "skill") == {"skill/a": 1.0, "skill/b": 0.5}


def test_options_of_a_data_module():
    benchmark = make_benchmark("MathVision", "official", {"MathVision": BenchmarkOptions(split="testmini")})
    assert (benchmark.split, benchmark.rules, benchmark.tables) == ("testmini", "official", ("MathVision_MINI.tsv",))
    assert BENCHMARKS["MathVision"](table="MathVision_MINI.tsv").split == "testmini"
    with pytest.raises(ValueError, match="MathVision has no split 'mini'; known are test, testmini"):
        make_benchmark("MathVision", options={"MathVision": BenchmarkOptions(split="mini")})
    with pytest.raises(ValueError, match="unknown benchmark 'MathVison'; known are MMMU, "):
        make_benchmark("MathVision", options={"MathVison": BenchmarkOptions()})
    with pytest.raises(ValueError, match="rules must be one of ours, official, vlmevalkit, got 'theirs'"):
        make_benchmark("MathVision", "theirs")


@pytest.mark.parametrize("data", [EvaluationDataModule, VisualPRM400KDataModule, PromptDataModule])
def test_names_are_checked_where_no_benchmark_is_read(data):
    with pytest.raises(ValueError, match=r"^benchmark_names: unknown benchmark 'Nope'; known are MMMU, "):
        data(benchmark_names=["MMMU", "Nope"])
    with pytest.raises(ValueError, match=r"^benchmark_options: unknown benchmark 'Nope'; known are MMMU, "):
        data(benchmark_options={"Nope": BenchmarkOptions()})


def test_an_empty_folder_holds_no_benchmark(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none of the benchmarks MMMU, MathVista, "):
        benchmarks_in(tmp_path)


def test_official_differences_are_named_where_there_are_official_rules():
    assert all(BENCHMARKS[name].official_differences for name in VISUAL_BENCHMARKS)
    for kind in BENCHMARKS.values():
        has_official_rules = "grade_officially" in vars(kind)
        assert bool(kind.official_differences) == has_official_rules
