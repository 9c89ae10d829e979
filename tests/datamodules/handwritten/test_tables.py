"""The world's tables are read back by the benchmarks as the same questions."""

import numpy as np
import pytest
from PIL import Image

from datamodules.benchmarks import BENCHMARKS, VISUAL_BENCHMARKS
from datamodules.handwritten.digits import split_digit_pools
from datamodules.handwritten.families import FAMILY_OF_BENCHMARK
from datamodules.handwritten.question import WorldQuestion
from datamodules.handwritten.tables import write_benchmark_tables
from datamodules.handwritten.world import benchmark_questions


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pool = split_digit_pools({"test": 0.2})["test"]
    questions = {name: benchmark_questions(name, 30, pool, seed=1) for name in FAMILY_OF_BENCHMARK}
    folder = tmp_path_factory.mktemp("benchmarks")
    write_benchmark_tables(questions, folder)
    return questions, folder


@pytest.mark.parametrize("name", list(VISUAL_BENCHMARKS))
def test_round_trip(world, name):
    questions, folder = world
    benchmark = BENCHMARKS[name]()
    read = benchmark.read(folder)
    assert len(read) == len(questions[name]) == 30
    for written, found in zip(questions[name], read, strict=True):
        assert found.question_id == written.question_id
        assert found.gold == (written.answer,)
        assert found.question == written.question_with_options
        assert len(found.images) == len(written.images)
        for before, after in zip(written.images, found.images, strict=True):
            assert np.array_equal(np.asarray(before.convert("RGB")), np.asarray(after))
        assert benchmark.grade(found, written.solution).is_correct
        assert not benchmark.grade(found, "\\boxed{77}").is_correct
    assert benchmark.unit_scores(read, np.ones(30, bool)).mean() == 1.0


def test_multiple_choice_survives_in_every_format(tmp_path):
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    group = [("2steps_1", 1), ("2steps_2", 2), ("2steps_multi", 3)]
    for name in VISUAL_BENCHMARKS:
        metadata = [{"group": 1, "key": key, "number": number, "seed": 1, "variant": number} for key, number in group]
        metadata += [{"seed": 1, "variant": variant} for variant in range(4, 11)] if name == "DynaMath" else []
        questions = [
            WorldQuestion(f"q{n}", "f", (image,), "Which?", ("one", "two"), "B", ("\\boxed{B}",), metadata=data)
            for n, data in enumerate(metadata)
        ]
        write_benchmark_tables({name: questions}, tmp_path)
        read = BENCHMARKS[name]().read(tmp_path)
        assert all(BENCHMARKS[name]().grade(question, "\\boxed{B}").is_correct for question in read)
        assert all(BENCHMARKS[name]().grade(question, "\\boxed{two}").is_correct for question in read)
        assert read[0].options == {"A": "one", "B": "two"}


def test_text_only_question_and_unknown_benchmark(tmp_path):
    question = WorldQuestion("1", "text_only", (), "Start with 2.", (), "2", ("\\boxed{2}",))
    write_benchmark_tables({"MathVista": [question]}, tmp_path)
    assert len(BENCHMARKS["MathVista"]().read(tmp_path)[0].images) == 0
    with pytest.raises(ValueError, match="benchmark 'Mine' has no table format"):
        write_benchmark_tables({"Mine": [question]}, tmp_path)
