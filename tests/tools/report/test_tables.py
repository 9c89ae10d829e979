"""Tables from results with numbers made up by hand."""

import csv
import io
import json

import pytest
from report_runs import candidates, whole

from tools.report.best_of_n_tables import aggregation_table, curve_table, policy_table, setting_table
from tools.report.command import find_entries, make_tables
from tools.report.process_bench_tables import measure_table, source_table
from tools.report.writers import csv_of, json_of, latex_of


def own(table):
    """The texts of the rows that are not quoted, by group and label."""
    return {
        (row.group, row.label): [table.shown(place, number) for place, number in enumerate(row.numbers)]
        for row in table.rows
        if not row.group.startswith("quoted")
    }


def entries_of(*folders, are_seeds=False):
    return find_entries([str(folder) for folder in folders], are_seeds)


@pytest.fixture
def two_critics(tmp_path):
    orm = whole(tmp_path / "orm_test", 0.375, critic="ORM")
    return entries_of(whole(tmp_path / "prm_test", 0.5), orm)


def test_policies(two_critics):
    table = policy_table(two_critics)
    assert table.columns == ["MMMU", "MathVista", "Overall"]
    assert own(table) == {
        ("P-8B", "Pass@1"): ["25.0", "25.0", "25.0 [15.0, 35.0]"],
        ("P-8B", "+ self-consistency"): ["37.5", "37.5", "37.5 [27.5, 47.5]"],
        ("P-8B", "+ prm (PRM)"): ["50.0", "50.0", "50.0 [40.0, 60.0]"],
        ("P-8B", "gain over Pass@1"): ["+12.5", "+12.5", "+12.5 [+2.5, +22.5]"],
        ("P-8B", "+ orm (ORM)"): ["37.5", "37.5", "37.5 [27.5, 47.5]"],
        ("P-8B", "Pass@8"): ["100.0", "100.0", "100.0 [90.0, 110.0]"],
    }
    quoted = [row for row in table.rows if row.label == "+ VisualPRM"]
    # Of the paper's columns those that the run has.
    assert [number.text for number in quoted[0].numbers] == ["56.8", "65.7", "37.5"]
    assert [column for column, _ in zip(table.columns, quoted[0].numbers, strict=True)] == table.columns


def test_every_policy_has_a_group(tmp_path):
    folders = [
        whole(tmp_path / "a_test"),
        whole(tmp_path / "b_test", of_each={"policies": ["Q-7B"]}, scores=candidates("b")),
        whole(tmp_path / "c_test", of_each={"temperatures": [1.0]}, scores=candidates("c")),
    ]
    table = policy_table(entries_of(*folders))
    groups = list(dict.fromkeys(group for group, _ in own(table)))
    assert groups == ["P-8B, temperature 0.7", "Q-7B", "P-8B, temperature 1"]


def test_text_benchmarks_are_another_table(tmp_path):
    (entry,) = entries_of(whole(tmp_path / "a_test", benchmarks=("GSM8K", "MATH-500"), scores=[]))
    assert policy_table([entry]) is None
    table = policy_table([entry], is_text=True)
    assert (table.name, table.columns) == ("table5", ["GSM8K", "MATH-500"])
    assert own(table)["P-8B", "+ a (PRM)"] == ["50.0", "50.0"]
    assert [number.text for number in table.rows[-1].numbers] == ["94.5", "77.8"]


def test_sources_of_visual_process_bench(two_critics):
    table = source_table(two_critics)
    # 1/2 and a sixteenth for each place in the alphabet: DynaMath, MMMU, MathVerse, MathVision, WeMath.
    assert own(table)["this report", "prm (PRM), threshold 0.5"] == [
        "56.2",
        "68.8",
        "62.5",
        "50.0",
        "75.0",
        "62.5 [57.5, 67.5]",
    ]
    assert "5 solutions are not the released set." in table.note
    assert own(measure_table(two_critics))["", "prm (PRM)"][3:6] == ["50.0", "87.5", "6.2"]


def test_aggregations(tmp_path):
    methods = {"prm_min": 0.4375, "weighted_vote": 0.75}
    (entry,) = entries_of(f"early stop={whole(tmp_path / 'a_test', methods=methods)}")
    rows = own(aggregation_table([entry]))
    step_f1 = "62.5 [57.5, 67.5]"
    assert rows["early stop", "PRM (mean)"] == ["50.0 [40.0, 60.0]", step_f1]
    assert rows["early stop", "PRM (min)"] == ["43.8 [33.8, 53.8]", step_f1]
    assert rows["early stop", "PRM vote"] == ["75.0 [65.0, 85.0]", step_f1]
    assert rows["without a critic", "Self-consistency"] == ["37.5 [27.5, 47.5]", "-"]


def test_numbers_of_candidates(two_critics):
    rows = own(curve_table(two_critics))
    assert {group for group, _ in rows} == {"P-8B · Self-consistency", "P-8B · prm (PRM)", "P-8B · orm (ORM)"}
    assert [rows["P-8B · prm (PRM)", n][-1][:4] for n in ("1", "8")] == ["25.0", "50.0"]


def test_the_scores_of_another_critic_are_drawn_once(tmp_path):
    orm = whole(tmp_path / "orm_test", 0.375, critic="ORM")
    prm = whole(tmp_path / "prm_test", 0.5, methods={"outcome": 0.375, "critic_Judge": 0.3125})
    groups = {group for group, _ in own(curve_table(entries_of(prm, orm)))}
    assert groups == {f"P-8B · {name}" for name in ("Self-consistency", "prm (PRM)", "orm (ORM)", "Judge")}


def test_thresholds_and_temperatures(tmp_path):
    low = whole(tmp_path / "low_test", 0.5)
    high = whole(tmp_path / "high_test", 0.4375, protocol={"threshold": 0.5})
    assert setting_table(entries_of(low)) is None
    rows = own(setting_table(entries_of(high, low)))
    assert list(rows) == [("Threshold of the Monte Carlo score", f"{label} (PRM)") for label in ("0: low", "0.5: high")]
    warm = whole(tmp_path / "warm_test", 0.375, of_each={"temperatures": [1.0]}, scores=candidates("w"))
    rows = own(setting_table(entries_of(low, warm)))
    assert {label: cells[0] for (_, label), cells in rows.items()} == {
        "0.7: low (PRM)": "50.0",
        "1: warm (PRM)": "37.5",
    }


def test_only_numbers_of_candidates_that_all_have_are_compared(tmp_path):
    few, many = whole(tmp_path / "a_test", ns=(1, 4)), whole(tmp_path / "b_test", ns=(1, 4, 8))
    assert policy_table(entries_of(few, many)).title.startswith("Best-of-4 ")
    with pytest.raises(ValueError, match=r"no number of candidates \(ns\) in common"):
        policy_table(entries_of(few, whole(tmp_path / "c_test", ns=(16,))))


def test_seeds_are_averaged(tmp_path):
    runs = [
        whole(tmp_path / f"seed{n}" / "prm_test", prm, scores=candidates(str(n))).parent
        for n, prm in enumerate((0.5, 0.625))
    ]
    (entry,) = entries_of(*runs, are_seeds=True)
    # The mean of 50 and 62.5; deviation with n - 1: 12.5 / sqrt(2).
    assert own(policy_table([entry]))["P-8B", "+ prm (PRM)"][0] == "56.2 ± 8.8"
    tables = {table.name: table for table in make_tables([entry])}
    rows = own(tables["seeds"])
    place = tables["seeds"].columns.index("prm_mean")
    assert [rows["", label][place] for label in ("seed0", "seed1", "mean")] == ["50.0", "62.5", "56.2 ± 8.8"]
    assert rows["", "seed1"][-1] == "+37.5 [+27.5, +47.5]"


def test_csv_holds_every_number_and_where_it_comes_from(two_critics):
    rows = list(csv.DictReader(io.StringIO(csv_of(policy_table(two_critics)))))
    (found,) = (row for row in rows if (row["row"], row["column"]) == ("+ prm (PRM)", "MathVista"))
    folder = two_critics[0].first.folder
    assert found == {
        **{"table": "table2", "group": "P-8B", "row": "+ prm (PRM)", "kind": "measured", "column": "MathVista"},
        **{"value": "50", "low": "40", "high": "60", "deviation": "", "runs": "1"},
        **{"file": str(folder / "best_of_n_test.json"), "place": "/accuracies/MathVista/prm_mean/8"},
        "rows": "candidate_scores.jsonl:9-16",
    }
    report = json.loads((folder / "best_of_n_test.json").read_text())
    assert report["accuracies"]["MathVista"]["prm_mean"]["8"]["value"] == float(found["value"]) / 100
    assert {row["kind"] for row in rows} == {"measured", "difference", "quoted"}


def test_every_number_of_the_file_of_origins_is_in_its_report(two_critics):
    """The places are followed as RFC 6901 says, by this test's own hand."""
    tables = json.loads(json_of(make_tables(two_critics), []))["tables"]
    checked = 0
    for cell in (cell for table in tables.values() for cell in table if not cell["is_quoted"]):
        (origin,) = cell["origins"]
        with open(origin["file"]) as file:
            value = json.load(file)
        for key in origin["pointer"].split("/")[1:]:
            value = value[int(key)] if isinstance(value, list) else value[key]
        value = value["value"] if isinstance(value, dict) else value
        assert cell["value"] == pytest.approx(100 * value)
        checked += 1
    assert checked > 60


def test_latex(tmp_path):
    (entry,) = entries_of(f"50%_{{x}} & y={whole(tmp_path / 'a_test')}")
    text = latex_of(policy_table([entry]))
    assert r"+ 50\%\_\{x\} \& y & 50.0 & 50.0 & 50.0 [40.0, 60.0] \\" in text
    assert r"\textit{GPT-4o} & \textit{70.7} & \textit{60.0} & \textit{47.9} \\" in text
    lines = text.splitlines()
    assert all(line.count(" & ") == 3 for line in lines if line.startswith(("+", "Pass", r"\textit")))
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
