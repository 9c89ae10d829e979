import pytest
from report_runs import STEPS, candidates, whole, write

from tools.report.command import find_entries
from tools.report.results import find_results


def test_a_run_holds_several_tests_and_a_test_is_one(tmp_path):
    for name in ("prm_test", "orm_test"):
        whole(tmp_path / "run" / name)
    run, found = find_results(str(tmp_path / "run"))
    assert run == "run"
    assert {key: result.name for key, result in found.items()} == {"orm_test": "orm", "prm_test": "prm"}
    _, alone = find_results(str(tmp_path / "run" / "prm_test"))
    assert [(key, result.name, result.is_named) for key, result in alone.items()] == [(".", "prm", False)]
    _, named = find_results(f"early stop={tmp_path / 'run' / 'prm_test'}")
    assert [(result.name, result.is_named) for result in named.values()] == [("early stop", True)]


def test_rows_and_digests_of_candidates(tmp_path):
    rows = candidates("a")
    result = find_results(str(whole(tmp_path / "one", scores=rows)))[1]["."]
    assert {name: (each.lines, each.count) for name, each in result.candidates.items()} == {
        "MMMU": ((1, 8), 8),
        "MathVista": ((9, 16), 8),
    }
    mixed = find_results(str(whole(tmp_path / "two", scores=rows[::-1])))[1]["."]
    # The order of the lines does not matter, the text of a response does.
    assert mixed.candidates["MMMU"].digest == result.candidates["MMMU"].digest
    rows[0]["response_digest"] = "another"
    other = find_results(str(whole(tmp_path / "three", scores=rows)))[1]["."]
    assert other.candidates["MMMU"].digest != result.candidates["MMMU"].digest
    assert other.candidates["MathVista"].digest == result.candidates["MathVista"].digest
    assert len(result.step_scores) == len(STEPS)


def test_mistakes(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no best_of_n_test.json or process_bench_test.json in it"):
        find_results(str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        find_results(f"x={tmp_path / 'absent'}")
    for name in ("a_test", "b_test"):
        whole(tmp_path / "run" / name)
    with pytest.raises(ValueError, match="a name goes with the folder of one test; it holds a_test, b_test"):
        find_results(f"x={tmp_path / 'run'}")
    torn = write(tmp_path / "torn") / "best_of_n_test.json"
    torn.write_text('{"ns": [1')
    with pytest.raises(ValueError, match=r"torn/best_of_n_test.json: not JSON .* is it torn\?"):
        _ = find_results(str(tmp_path / "torn"))[1]["."].best_of_n
    torn.write_text('{"ns": [1]}')
    with pytest.raises(ValueError, match="it has no accuracies, differences"):
        _ = find_results(str(tmp_path / "torn"))[1]["."].best_of_n


def test_folders_that_are_no_seeds_of_one_recipe(tmp_path):
    whole(tmp_path / "seed0" / "a_test")
    whole(tmp_path / "seed1" / "b_test")
    runs = [str(tmp_path / name) for name in ("seed0", "seed1")]
    with pytest.raises(
        ValueError, match="seeds of one recipe hold the same tests; only one of them has a_test, b_test"
    ):
        find_entries(runs, are_seeds=True)
    with pytest.raises(ValueError, match="needs at least two runs"):
        find_entries(runs[:1], are_seeds=True)
    with pytest.raises(ValueError, match="seed0/a_test: given twice"):
        find_entries([runs[0], runs[0] + "/a_test"], are_seeds=False)
