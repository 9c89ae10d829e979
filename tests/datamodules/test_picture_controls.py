import pytest

from datamodules.benchmarks import BenchmarkQuestion
from datamodules.best_of_n import BestOfNDataset
from datamodules.picture_controls import with_pictures
from datamodules.process_bench.solutions import JudgedSolution, VisualProcessBenchDataset
from datamodules.rollouts.records import Rollout


def bench(*solutions):
    """Judged solutions of (source, images)."""
    dataset = object.__new__(VisualProcessBenchDataset)
    dataset.solutions = [
        JudgedSolution(f"t:{number}", "Is <image> it?" if images else "Why?", images, ("a",), (1,), source, "p")
        for number, (source, images) in enumerate(solutions)
    ]
    return dataset


def test_other_pictures_are_those_of_half_the_list_away():
    given = bench(*(("A", (f"{number}.png",)) for number in range(4)), ("B", ("b.png",)), ("A", ()), ("A", ("x", "y")))
    changed, kept = with_pictures(given, "other")
    assert [each.images for each in changed.solutions] == [
        ("2.png",), ("3.png",), ("0.png",), ("1.png",), ("b.png",), (), ("x", "y")
    ]  # fmt: skip
    assert kept == 2  # b.png and the pair have no others of their source and number
    assert [each.sample_id for each in changed.solutions] == [each.sample_id for each in given.solutions]
    assert given.solutions[0].images == ("0.png",)


def test_solutions_of_one_question_are_passed_over():
    given = bench(("A", ("1",)), ("A", ("2",)), ("A", ("1",)), ("A", ("1",)))
    changed, kept = with_pictures(given, "other")
    assert [each.images for each in changed.solutions] == [("2",), ("1",), ("2",), ("2",)]
    assert kept == 0


def test_no_pictures_and_no_placeholders():
    changed, kept = with_pictures(bench(("A", ("1",)), ("A", ())), "none")
    assert [(each.images, each.question) for each in changed.solutions] == [((), "Is  it?"), ((), "Why?")]
    assert kept == 0


def rollout(question_id, prompt):
    return Rollout("MMMU", question_id, 0, "r", "A", True, "p", 1.0, 1.0, 8, 0, prompt=prompt)


@pytest.mark.parametrize("control", ["other", "none"])
def test_benchmark_questions(control):
    dataset = object.__new__(BestOfNDataset)
    dataset.questions = [
        BenchmarkQuestion("MMMU", str(number), "Which <image>?", (f"picture {number}",), ("A",)) for number in range(2)
    ]
    dataset.rollouts = [(rollout(str(number), "<image> Which <image>?"),) for number in range(2)]
    changed, kept = with_pictures(dataset, control)
    if control == "other":
        assert [each.images for each in changed.questions] == [("picture 1",), ("picture 0",)]
        assert changed.rollouts == dataset.rollouts
    else:
        assert [each.images for each in changed.questions] == [(), ()]
        assert {each.question for each in changed.questions} == {"Which ?"}
        assert [group[0].prompt for group in changed.rollouts] == ["Which ?"] * 2
    assert kept == 0
    assert dataset.questions[0].images == ("picture 0",)
