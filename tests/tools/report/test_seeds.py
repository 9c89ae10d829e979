import json

import pytest

from tools.report.seeds import REPORT, seed_table


def write_run(folder, prm, low, high, *, ns=(1, 2), methods=("pass_at_1", "prm_mean")):
    accuracies = {name: {"1": {"value": 0.25}, "2": {"value": 0.25}} for name in methods}
    accuracies["prm_mean"]["2"]["value"] = prm
    pair = {"prm_mean - pass_at_1": {"2": {"value": prm - 0.25, "low": low, "high": high}}}
    report = {"ns": list(ns), "accuracies": {"all_questions": accuracies}, "differences": {"all_questions": pair}}
    (folder / REPORT).parent.mkdir(parents=True)
    (folder / REPORT).write_text(json.dumps(report))
    return folder


def test_a_row_a_seed_at_the_largest_number_of_solutions(tmp_path):
    runs = [
        write_run(tmp_path / "seed0", 0.5, 0.125, 0.375),
        write_run(tmp_path / "seed1", 0.1875, -0.25, 0.125),
    ]
    lines = seed_table(runs).to_markdown().splitlines()
    assert lines[0] == "### Best-of-2 by seed, all questions (%)"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["run", "pass_at_1", "prm_mean", "prm_mean - pass_at_1"]
    assert cells[2:4] == [
        ["seed0", "25.0", "50.0", "+25.0 [+12.5, +37.5]"],
        ["seed1", "25.0", "18.8", "-6.2 [-25.0, +12.5]"],
    ]


def test_runs_that_do_not_compare(tmp_path):
    one = write_run(tmp_path / "one", 0.5, 0.1, 0.4)
    with pytest.raises(ValueError, match=r"unfinished: no .*best_of_n_test.json; the run has not come to its end"):
        seed_table([one, tmp_path / "unfinished"])
    for name, options in (("fewer", {"ns": (1,)}), ("others", {"methods": ("pass_at_1", "outcome", "prm_mean")})):
        other = write_run(tmp_path / name, 0.5, 0.1, 0.4, **options)
        with pytest.raises(
            ValueError, match=rf"{name}/\w+ and .*one/\w+: one compares other methods or numbers of solutions"
        ):
            seed_table([one, other])
