"""Runs that do not belong together are refused by name; the wanted differences are shown with a note."""

import pytest
from report_runs import candidates, process_bench, whole, write

from tools.report.belonging import check_belonging
from tools.report.command import find_entries

OTHER_SPLIT = {"split": "testmini"}


def pair(tmp_path, *, one=None, other=None, are_seeds=False):
    folders = [whole(tmp_path / name / "prm_test", **(options or {})) for name, options in (("a", one), ("b", other))]
    return find_entries([str(folder) for folder in folders], are_seeds)


def test_critics_of_the_same_candidates_belong_together(tmp_path):
    assert check_belonging(pair(tmp_path, other={"prm": 0.75})) == []


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"of_each": {"rules": ["official"]}}, "rules", "MMMU: rules are ours and official"),
        ({"of_each": {"rules_versions": {"ours": 2}}}, "rules", "MMMU: rules versions are ours 3 and ours 2"),
        ({"of_each": OTHER_SPLIT}, "questions", "MMMU: the splits are test and testmini"),
        ({"of_each": {"questions_digest": "q2"}}, "questions", r"MMMU: the questions are others \(q1, q2\)"),
        ({"scores": candidates("b")}, "rollouts", "MMMU: the candidates of P-8B are others: 8 of digest .* and 8 of"),
        ({"protocol": {"question_text": "as_asked"}}, "protocol", "question_text is 'bare' and 'as_asked'"),
        (
            {"methods": {"pass_at_1": 0.5}},
            "rules",
            "MMMU: the same candidates have other verdicts: Pass@1 is 25.0 and 50",
        ),
    ],
)
def test_what_differs_is_named(options, kind, words, tmp_path):
    entries = pair(tmp_path, other=options)
    with pytest.raises(ValueError, match=words) as refused:
        check_belonging(entries)
    message = str(refused.value)
    assert f"{tmp_path / 'a' / 'prm_test'} and {tmp_path / 'b' / 'prm_test'} do not belong together" in message
    assert f"(--allow {kind})" in message
    assert ("give --seeds" in message) == (kind == "rollouts")
    notes = check_belonging(entries, [kind])
    assert any(text.startswith("a/prm and b/prm: ") for text in notes)
    others = {"rules", "questions", "rollouts", "protocol"} - {kind}
    with pytest.raises(ValueError, match="do not belong together"):
        check_belonging(entries, sorted(others))


def test_another_policy_or_temperature_has_candidates_of_its_own(tmp_path):
    for name, change in (("policy", {"policies": ["Q-7B"]}), ("temperature", {"temperatures": [1.0]})):
        entries = pair(tmp_path / name, other={"of_each": change, "scores": candidates("b")})
        assert check_belonging(entries) == []


def test_an_outcome_model_may_read_the_response_as_one_step(tmp_path):
    entries = pair(tmp_path, other={"critic": "ORM", "protocol": {"max_steps": 1}})
    assert check_belonging(entries) == []
    entries = pair(tmp_path, other={"protocol": {"max_steps": 16}})
    with pytest.raises(ValueError, match="max_steps is 12 and 16"):
        check_belonging(entries)


def test_seeds_have_other_candidates_and_questions_but_the_same_rules(tmp_path):
    other = {"of_each": {"questions_digest": "q2"}, "scores": candidates("b")}
    assert check_belonging(pair(tmp_path / "1", other=other, are_seeds=True)) == []
    for name, changes in (("2", {"rules_versions": {"ours": 2}}), ("3", OTHER_SPLIT)):
        entries = pair(tmp_path / name, other=other | {"of_each": changes}, are_seeds=True)
        with pytest.raises(ValueError, match=r"MMMU: (rules|the splits)"):
            check_belonging(entries)


def test_another_visual_process_bench(tmp_path):
    folders = [whole(tmp_path / "a"), whole(tmp_path / "b")]
    write(folders[1], steps=process_bench(0.5, wrong_steps=3))
    with pytest.raises(ValueError, match=r"5 solutions with 3/2/1 .* and 5 solutions with 3/3/1 correct/wrong/neutral"):
        check_belonging(find_entries([str(folder) for folder in folders], are_seeds=False))


def test_what_older_reports_do_not_record_is_said(tmp_path):
    folder = whole(tmp_path / "a", of_each={"rules_versions": {}}, protocol={"max_steps": 12})
    entries = find_entries([str(folder), str(whole(tmp_path / "b"))], are_seeds=False)
    assert check_belonging(entries) == [f"The versions of the rules: not recorded, and so not compared, by {folder}."]
