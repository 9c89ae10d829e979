import pytest

from datamodules.benchmarks import BENCHMARKS
from datamodules.benchmarks.table import write_table
from datamodules.rollouts.check import check_rollouts
from datamodules.rollouts.grading import question_digest, verdict_digest
from datamodules.rollouts.records import Rollout, read_rollouts, write_rollouts


def rollout(question_id, sample_index, response="\\boxed{4}", **fields):
    values = {"extracted_answer": "4", "is_correct": True, "policy": "p", "benchmark": "MathVision"}
    unknown = dict.fromkeys(("temperature", "top_p", "max_new_tokens", "seed"))
    return Rollout(question_id=question_id, sample_index=sample_index, response=response, **values | unknown | fields)


@pytest.fixture
def benchmark():
    return BENCHMARKS["MathVision"]()


@pytest.fixture
def questions(benchmark, tmp_path):
    rows = [
        {"index": str(i), "question": f"2 + {i}?", "choices": "[]", "answer": str(2 + i), "image": ""}
        for i in range(15)
    ]
    write_table(tmp_path / "MathVision.tsv", rows)
    return benchmark.read(tmp_path)


def complete(questions, count=2):
    return [
        rollout(question.question_id, index, f"\\boxed{{{question.gold[0]}}}")
        for question in questions
        for index in range(count)
    ]


def test_a_whole_set(benchmark, questions):
    rollouts = complete(questions)
    found = check_rollouts(benchmark, questions, reversed(rollouts), 2)
    assert found.problems == []
    assert list(found.groups) == [str(i) for i in range(15)]
    assert [(r.question_id, r.sample_index) for group in found.groups.values() for r in group] == [
        (r.question_id, r.sample_index) for r in rollouts
    ]
    assert (found.num_questions, found.num_rollouts, found.num_candidates, found.num_graded) == (15, 30, 2, 30)


def test_all_candidates_are_kept_above_n(benchmark, questions):
    found = check_rollouts(benchmark, questions, complete(questions, 4), 2)
    assert found.problems == []
    assert {len(group) for group in found.groups.values()} == {4}


def test_missing_questions_are_named_ten_and_counted(benchmark, questions):
    found = check_rollouts(benchmark, questions, [r for r in complete(questions) if r.question_id in ("3", "14")], 2)
    assert found.missing == [str(i) for i in range(15) if i not in (3, 14)]
    assert found.problems == [
        "13 of 15 questions have no rollouts: '0', '1', '2', '4', '5', '6', '7', '8', '9', '10', and 3 more"
    ]


def test_missing_candidates_are_named(benchmark, questions):
    rollouts = [r for r in complete(questions, 3) if (r.question_id, r.sample_index) not in {("2", 1), ("7", 0)}]
    by_default = check_rollouts(benchmark, questions, rollouts)
    assert by_default.incomplete == {"2": [1], "7": [0]}
    assert by_default.problems == ["2 questions do not have the samples 0 to 2: '2' lacks 1; '7' lacks 0"]
    assert check_rollouts(benchmark, questions, rollouts, 1).incomplete == {"7": [0]}
    assert len(check_rollouts(benchmark, questions, rollouts, 4).incomplete) == 15


def test_duplicates_and_unknown_questions_are_named_with_their_places(benchmark, questions, tmp_path):
    path = tmp_path / "r.jsonl"
    write_rollouts(path, [*complete(questions, 1), rollout("5", 0, "\\boxed{9}"), rollout("15", 0), rollout("xy", 0)])
    found = check_rollouts(benchmark, questions, read_rollouts(path), 1)
    assert found.repeated == [f"{path}:16 repeats sample 0 of '5' at {path}:6"]
    assert found.groups["5"][0].response == "\\boxed{7}"
    assert found.unknown == [f"{path}:17 '15'", f"{path}:18 'xy'"]
    assert "2 rollouts are of questions that MathVision does not have" in found.problems[0]


def test_other_benchmarks_are_not_looked_at(benchmark, questions):
    found = check_rollouts(benchmark, questions, [*complete(questions), rollout("zz", 0, benchmark="MMMU")], 2)
    assert found.problems == []


def test_verdicts_of_other_rules_are_graded_anew_and_reported(benchmark, questions, tmp_path):
    path = tmp_path / "r.jsonl"
    stale = [
        rollout("0", 0, "\\boxed{2}", is_correct=False, extracted_answer=None),  # right by the present rules
        rollout("0", 1, "\\boxed{3}", is_correct=True, extracted_answer="2"),  # wrong by them
        rollout("0", 2, "\\boxed{2}", is_correct=True, extracted_answer="2"),
    ]
    write_rollouts(path, stale)
    found = check_rollouts(benchmark, questions[:1], read_rollouts(path), 3)
    assert [r.is_correct for r in found.graded["0"]] == [True, False, True]
    assert [r.extracted_answer for r in found.graded["0"]] == ["2", "3", "2"]
    assert [r.is_correct for r in found.groups["0"]] == [False, True, True]
    assert found.problems == [
        "2 of 3 verdicts differ from those of the present rules: "
        f"{path}:1 (question '0', sample 0): was wrong, is right, answer '2'; "
        f"{path}:2 (question '0', sample 1): was right, is wrong, answer '3'"
    ]
    again = check_rollouts(benchmark, questions[:1], found.graded["0"], 3)
    assert (again.problems, again.num_graded) == ([], 0)


def test_what_makes_a_verdict_stale(benchmark, questions):
    """The digest changes with the gold answer and with the response, not with anything else of the rollout."""
    (fresh,) = check_rollouts(benchmark, questions[:1], [rollout("0", 0, "\\boxed{2}")]).graded["0"]
    digest = verdict_digest(question_digest(benchmark, questions[0]), "\\boxed{2}")
    assert fresh.verdict_digest == digest
    others = {
        question_digest(benchmark, question)
        for question in (questions[0], questions[1], type(questions[0])(**{**vars(questions[0]), "gold": ("9",)}))
    }
    assert len(others) == 3
    assert digest != verdict_digest(question_digest(benchmark, questions[0]), "\\boxed{2} ")
    # A verdict that was tampered with but carries the digest is taken at its word: the digest vouches for it.
    known = rollout("0", 0, "\\boxed{2}", is_correct=True, verdict_digest=digest)
    assert check_rollouts(benchmark, questions[:1], [known]).num_graded == 0


def test_a_change_of_the_rules_is_noticed(benchmark, questions, monkeypatch):
    graded = check_rollouts(benchmark, questions, complete(questions)).graded
    monkeypatch.setattr(type(benchmark), "rules_versions", {**benchmark.rules_versions, "ours": 99})
    again = [rollout for group in graded.values() for rollout in group]
    found = check_rollouts(benchmark, questions, again)
    assert {rollout.rules for rollout in again} == {"ours"}
    assert (found.num_graded, found.problems) == (30, [])
