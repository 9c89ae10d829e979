"""The quoted figures against what they must fulfil among themselves: a slip of the pen breaks a mean or a gain."""

import pytest

from tools.report.quoted import quoted_beside, quoted_tables

GAINS = {
    "MiniCPM-V2.6-8B": "+7.0 +4.9 +1.3 +16.9 +1.4 +14.6 +9.8 +8.0",
    "Qwen2.5-VL-7B": "+3.6 +2.5 +5.9 +3.2 +2.0 +4.6 +4.2 +3.7",
    "InternVL2.5-8B": "+4.0 +4.0 +8.7 +13.0 +8.6 +13.0 +7.8 +8.4",
    "InternVL2.5-26B": "+3.2 +4.9 +6.2 +15.1 +11.8 +9.9 +11.4 +8.9",
    "InternVL2.5-38B": "+5.1 +2.0 +3.0 +9.8 +10.5 +7.9 +5.8 +6.3",
    "InternVL2.5-78B": "+0.7 +2.8 +3.7 +7.9 +12.1 +9.3 +4.9 +5.9",
}
"""The gains that the paper prints in Table 2."""


def table_of(paper, name):
    (found,) = (table for table in quoted_tables() if (table.paper, table.table) == (paper, name))
    return found


def test_the_tables_of_the_paper_are_there():
    names = [table.table for table in quoted_tables() if table.paper == "VisualPRM"]
    assert names == [f"Table {number}" for number in range(2, 9)]
    assert all(len(row["values"]) == len(table.columns) for table in quoted_tables() for row in table.rows)


def test_overall_is_the_mean_of_seven_benchmarks():
    checked = 0
    for table in quoted_tables():
        if list(table.columns[:7]) != list(table_of("VisualPRM", "Table 2").columns[:7]):
            continue
        for row in table.rows:
            *single, overall = row["values"][:8]
            if overall is not None:
                assert sum(single) / 7 == pytest.approx(overall, abs=0.1), (table.cited, row)
                checked += 1
    assert checked == 15 + 14 + 2 * 18 + 8


def test_gains_are_those_that_the_paper_prints():
    rows = table_of("VisualPRM", "Table 2").rows
    for policy, printed in GAINS.items():
        alone, chosen = (row["values"] for row in rows if row["group"] == policy)
        for before, after, gain in zip(alone, chosen, map(float, printed.split()), strict=True):
            # The paper rounds the difference of unrounded numbers.
            assert after - before == pytest.approx(gain, abs=0.1001), policy


def test_tables_that_repeat_each_other_agree():
    """Table 2 is the row of N = 8 of Tables 6 and 7, and that of N = 1 is the policy alone."""
    rows = table_of("VisualPRM", "Table 2").rows
    for name, policy in (("Table 6", "InternVL2.5-8B"), ("Table 7", "MiniCPM-V2.6-8B")):
        alone, chosen = (row["values"] for row in rows if row["group"] == policy)
        curves = {(row["group"], row["label"]): row["values"] for row in table_of("VisualPRM", name).rows}
        assert curves["VisualPRM", "8"] == chosen
        assert {tuple(values) for (_, n), values in curves.items() if n == "1"} == {tuple(alone)}
    judges = {row["label"]: row["values"][1] for row in table_of("VisualPRM", "Table 4").rows}
    single = {row["label"]: row["values"][-1] for row in table_of("VisualPRM", "Table 3").rows}
    assert judges["InternVL2.5-78B as judge"] == single["InternVL2.5-78B"]


def test_rows_say_that_they_are_quoted_and_from_where():
    rows, note = quoted_beside("table4", ["process_bench"])
    assert [number.is_quoted for row in rows for number in row.numbers if number] == [True] * 12
    assert str(rows[1].numbers[0].origins[0]) == "arXiv 2503.10291# Table 4"
    assert rows[0].numbers == [None]
    assert rows[4].group == "quoted: VisualPRM, Table 4 (arXiv 2503.10291) · Advantage-based PRM"
    assert "41.2 in Tables 2 and 6" in note


def test_a_printed_number_keeps_its_digits():
    rows, _ = quoted_beside("table3", ["overall"])
    shown = {row.label: row.numbers[0].text for row in rows}
    assert (shown["VisualPRM"], shown["25 % of the data by BIS"], shown["all of the data"]) == ("62.0", "65.46", "65.8")
