"""The number of a benchmark's rules changes with its verdicts, so that those on disk are known by it."""

import json
from dataclasses import replace
from typing import get_args

import golden_verdicts
import pytest
from golden_verdicts import GOLDEN, moved, verdicts

from datamodules.benchmarks import BENCHMARKS, Rules
from datamodules.benchmarks.question import Grade

KINDS = [(name, rules) for name in BENCHMARKS for rules in get_args(Rules)]


@pytest.fixture(scope="module")
def kept():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def check(name, kept, found):
    """What the test below holds, apart so that it can be tried on verdicts that moved."""
    same = (kept["verdicts"], kept["answers"]) == (found["verdicts"], found["answers"])
    if kept["version"] == found["version"]:
        assert same, f"verdicts moved: {moved(name, kept, found)}. Raise rules_versions, then {golden_verdicts.__doc__}"
    else:
        pytest.fail(f"the number is {found['version']}, that of the golden verdicts {kept['version']}: write them anew")


@pytest.mark.parametrize(("name", "rules"), KINDS)
def test_verdicts_move_only_with_the_number_of_the_rules(kept, name, rules):
    check(name, kept[f"{name} {rules}"], verdicts(name, rules))


def test_every_kind_of_rules_is_kept(kept):
    assert set(kept) == {f"{name} {rules}" for name, rules in KINDS}
    for name, rules in KINDS:
        assert "+" in kept[f"{name} {rules}"]["verdicts"]
        assert "-" in kept[f"{name} {rules}"]["verdicts"]
    assert len({entry["answers"] for entry in kept.values()}) > len(BENCHMARKS)


def test_a_moved_verdict_is_noticed(kept, monkeypatch):
    """Rules that accept anything, under the old number, and under a new one."""
    kind = BENCHMARKS["MATH-500"]
    monkeypatch.setattr(kind, "grade_by_our_rules", lambda self, question, response: Grade(True, "x", "boxed"))
    with pytest.raises(AssertionError, match=r"verdicts moved: gold .*response .*: - -> \+"):
        check("MATH-500", kept["MATH-500 ours"], verdicts("MATH-500", "ours"))
    monkeypatch.setattr(kind, "rules_versions", {**kind.rules_versions, "ours": 99})
    with pytest.raises(pytest.fail.Exception, match="write them anew"):
        check("MATH-500", kept["MATH-500 ours"], verdicts("MATH-500", "ours"))


def test_another_answer_under_the_same_verdict_is_noticed(kept, monkeypatch):
    """It votes, so rollouts must be graded anew."""
    kind = BENCHMARKS["MATH-500"]
    grade = kind.grade_by_our_rules
    monkeypatch.setattr(kind, "grade_by_our_rules", lambda *question: replace(grade(*question), extracted_answer="y"))
    with pytest.raises(AssertionError, match="other answers are read"):
        check("MATH-500", kept["MATH-500 ours"], verdicts("MATH-500", "ours"))


def test_the_tool_does_not_write_verdicts_that_moved_under_an_old_number(kept, tmp_path, monkeypatch, capsys):
    path = tmp_path / "golden.json"
    monkeypatch.setattr(golden_verdicts, "GOLDEN", path)
    monkeypatch.setattr(golden_verdicts, "BENCHMARKS", {"GSM8K": BENCHMARKS["GSM8K"]})
    assert golden_verdicts.main() == 0
    before = path.read_text()
    assert json.loads(before) == {key: value for key, value in kept.items() if key.startswith("GSM8K ")}
    kind = BENCHMARKS["GSM8K"]
    monkeypatch.setattr(kind, "grade_by_our_rules", lambda self, question, response: Grade(True, "x", "boxed"))
    assert golden_verdicts.main() == 1
    assert "raise the rules_versions of these first" in capsys.readouterr().err
    assert path.read_text() == before
    monkeypatch.setattr(kind, "rules_versions", dict.fromkeys(kind.rules_versions, 100))
    assert golden_verdicts.main() == 0
    assert json.loads(path.read_text())["GSM8K ours"]["version"] == 100
