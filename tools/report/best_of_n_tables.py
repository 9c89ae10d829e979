"""The paper's Tables 2, 4, 5, 6, 7 and 8 from reports on benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from datamodules.benchmarks import BENCHMARKS, VISUAL_BENCHMARKS
from lightning_modules.metrics.best_of_n import OVERALL
from lightning_modules.metrics.best_of_n_table import column_label
from lightning_modules.metrics.selection.methods import (
    PASS_AT_1,
    PASS_AT_N,
    RANDOM_CHOICE,
    SELF_CONSISTENCY,
    method_label,
)
from tools.report.numbers import Entry, Number, ReportTable, Row
from tools.report.quoted import quoted_beside

TEXT_BENCHMARKS = tuple(name for name in BENCHMARKS if name not in VISUAL_BENCHMARKS)
PAPER_N = 8
STEP_F1 = ("thresholds", "0", "pooled", "macro_f1")
"""Place of the macro F1 over all steps in reports on VisualProcessBench, with its interval."""


def common_n(entries: Sequence[Entry]) -> int:
    """The number of candidates that tables show: 8 if all reports have it, or the largest that they have in common.

    Raises:
        ValueError: If they have none in common.
    """
    sets = [set((result.best_of_n or {})["ns"]) for entry in entries for result in entry.results]
    common = set.intersection(*sets)
    if not common:
        folders = ", ".join(str(entry.first.folder) for entry in entries)
        raise ValueError(f"{folders}: the reports have no number of candidates (ns) in common")
    return PAPER_N if PAPER_N in common else max(common)


def primary_of(entry: Entry) -> str:
    """The method that stands for the reward model."""
    return str((entry.first.best_of_n or {})["primary"])


def label_of(entry: Entry) -> str:
    """What a reward model is called: the given name, or the folder's with its kind."""
    return entry.name if entry.first.is_named else f"{entry.name} ({entry.first.critic})"


def by_policy(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries by policy and temperature, in order."""
    groups: dict[tuple[str, tuple[float | None, ...]], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.first.policy, entry.first.temperatures), []).append(entry)
    policies = [policy for policy, _ in groups]
    return {
        policy if policies.count(policy) == 1 else f"{policy}, temperature {_temperatures(temperatures)}": members
        for (policy, temperatures), members in groups.items()
    }


def _temperatures(values: Sequence[float | None]) -> str:
    return ", ".join("unknown" if value is None else f"{value:g}" for value in values)


def _columns(entries: Sequence[Entry], names: Sequence[str]) -> list[str]:
    present = {name for entry in entries for name in entry.first.benchmarks}
    return [name for name in names if name in present]


def _accuracies(entry: Entry, columns: Sequence[str], method: str, n: int) -> list[Number | None]:
    return [entry.best_of_n("accuracies", column, method, str(n)) for column in columns]


def policy_table(entries: Sequence[Entry], is_text: bool = False) -> ReportTable | None:
    """Table 2, or Table 5 of questions without pictures: each policy alone, with votes and with every reward model.

    Returns:
        None if there is no such benchmark.
    """
    names = TEXT_BENCHMARKS if is_text else VISUAL_BENCHMARKS
    entries = [entry for entry in entries if set(entry.first.benchmarks) & set(names)]
    if not entries:
        return None
    name, n = "table5" if is_text else "table2", common_n(entries)
    columns = [*_columns(entries, names), *([] if is_text else [OVERALL])]
    rows = []
    for policy, members in by_policy(entries).items():
        first = members[0]
        rows.append(Row("Pass@1", _accuracies(first, columns, PASS_AT_1, n), policy))
        rows.append(Row("+ self-consistency", _accuracies(first, columns, SELF_CONSISTENCY, n), policy))
        for entry in members:
            primary = primary_of(entry)
            rows.append(Row(f"+ {label_of(entry)}", _accuracies(entry, columns, primary, n), policy))
            gains = [
                entry.best_of_n("differences", each, f"{primary} - {PASS_AT_1}", str(n), is_difference=True)
                for each in columns
            ]
            rows.append(Row("gain over Pass@1", gains, policy))
        rows.append(Row(method_label(PASS_AT_N, n), _accuracies(first, columns, PASS_AT_N, n), policy))
    what = "text benchmarks (Table 5)" if is_text else "multimodal benchmarks by policy (Table 2)"
    return _table(
        name, f"Best-of-{n} on {what}, accuracy (%)", "Policy and critic", columns, rows, _overall_note(entries)
    )


def aggregation_table(entries: Sequence[Entry]) -> ReportTable | None:
    """Table 4: critics and ways to aggregate their step scores, on benchmarks and on VisualProcessBench."""
    scored = [entry for entry in entries if set(entry.first.benchmarks) & set(VISUAL_BENCHMARKS)]
    if not scored:
        return None
    n = common_n(scored)
    rows = []
    for policy, members in by_policy(scored).items():
        prefix = f"{policy} · " if len(by_policy(scored)) > 1 else ""
        for method in (PASS_AT_1, RANDOM_CHOICE, SELF_CONSISTENCY):
            numbers = [members[0].best_of_n("accuracies", OVERALL, method, str(n)), None]
            rows.append(Row(method_label(method, n), numbers, f"{prefix}without a critic"))
        for entry in members:
            report = entry.first.best_of_n or {}
            for method in report["methods"]:
                if method.startswith("prm_") or method in ("weighted_vote", "best_answered"):
                    numbers = [entry.best_of_n("accuracies", OVERALL, method, str(n)), entry.process_bench(*STEP_F1)]
                    label = method_label(method, n, entry.first.critic)
                    rows.append(Row(label, numbers, f"{prefix}{label_of(entry)}"))
    title = f"Critics and aggregations (Table 4): Best-of-{n} overall, and macro F1 on VisualProcessBench (%)"
    quoted, note = quoted_beside("table4", ["best_of_n", "process_bench"])
    note = " ".join(part for part in (_overall_note(scored), note) if part)
    columns = [f"Best-of-{n}", "VisualProcessBench"]
    return ReportTable("table4", title, "Critic", columns, [*rows, *quoted], note, frozenset({0, 1}))


def curve_table(entries: Sequence[Entry]) -> ReportTable | None:
    """Tables 6 and 7: every number of candidates, for self-consistency and each critic."""
    scored = [entry for entry in entries if set(entry.first.benchmarks) & set(VISUAL_BENCHMARKS)]
    if not scored:
        return None
    columns = [*_columns(scored, VISUAL_BENCHMARKS), OVERALL]
    rows = []
    for policy, members in by_policy(scored).items():
        for label, entry, method in curves(members):
            report = entry.first.best_of_n or {}
            rows += [Row(str(n), _accuracies(entry, columns, method, n), f"{policy} · {label}") for n in report["ns"]]
    title = "Accuracy against the number of candidates (Tables 6 and 7, Figure 4) (%)"
    own = _table("table6", title, "N", columns, rows, _overall_note(scored))
    quoted, note = quoted_beside("table7", columns)
    joined = " ".join(part for part in (own.note, note) if part)
    return ReportTable(own.name, own.title, own.first, own.columns, [*own.rows, *quoted], joined, own.with_intervals)


def curves(members: Sequence[Entry]) -> list[tuple[str, Entry, str]]:
    """Label, entry and method of each curve of a policy: self-consistency, critics of reports, and the entries."""
    found = [("Self-consistency", members[0], SELF_CONSISTENCY)]
    seen: list[Mapping[str, object]] = []
    for entry in members:
        report = entry.first.best_of_n or {}
        seen.append(report["accuracies"][OVERALL][report["primary"]])
        found.append((label_of(entry), entry, report["primary"]))
    for entry in members:
        report = entry.first.best_of_n or {}
        for method in report["methods"]:
            values = report["accuracies"][OVERALL][method]
            # The scores of another critic within a report are most often those of an entry; one curve is enough.
            if (method == "outcome" or method.startswith("critic_")) and values not in seen:
                seen.append(values)
                found.append((method_label(method), entry, method))
    return found


def setting_table(entries: Sequence[Entry]) -> ReportTable | None:
    """Table 8: reward models of several thresholds of the Monte Carlo score, and candidates of several temperatures.

    Returns:
        None if neither differs between the entries.
    """
    scored = [entry for entry in entries if set(entry.first.benchmarks) & set(VISUAL_BENCHMARKS)]
    valued = [entry for entry in scored if entry.first.protocol.get("objective") == "value"]
    if not valued:
        return None
    n, columns = common_n(scored), [*_columns(scored, VISUAL_BENCHMARKS), OVERALL]
    rows = []
    kinds = {
        "Threshold of the Monte Carlo score": lambda entry: f"{entry.first.protocol['threshold']:g}",
        "Temperature of the policy": lambda entry: _temperatures(entry.first.temperatures),
    }

    def others_of(entry: Entry, group: str) -> tuple[str, ...]:
        """What must be the same beside what a group of rows varies."""
        name, (threshold, temperature) = group.split()[0], (of(entry) for of in kinds.values())
        return (entry.first.policy, temperature if name == "Threshold" else threshold)

    for group, value_of in kinds.items():
        (commonest, _), *_ = Counter(others_of(entry, group) for entry in valued).most_common()
        alike = [entry for entry in valued if others_of(entry, group) == commonest]
        if len({value_of(entry) for entry in alike}) > 1:
            rows += [
                Row(
                    f"{value_of(entry)}: {label_of(entry)}",
                    [*_accuracies(entry, columns, primary_of(entry), n), entry.process_bench(*STEP_F1)],
                    group,
                )
                for entry in sorted(alike, key=value_of)
            ]
    if not rows:
        return None
    title = f"Threshold and temperature (Table 8): Best-of-{n}, and macro F1 on VisualProcessBench (%)"
    return _table("table8", title, "Setting", [*columns, "process_bench"], rows, _overall_note(scored))


def _table(name: str, title: str, first: str, columns: Sequence[str], rows: Sequence[Row], note: str) -> ReportTable:
    quoted, about = quoted_beside(name, columns)
    labels = [{"process_bench": "VisualProcessBench"}.get(column, column_label(column)) for column in columns]
    summaries = frozenset(place for place, column in enumerate(columns) if column in (OVERALL, "process_bench"))
    return ReportTable(name, title, first, labels, [*rows, *quoted], " ".join(filter(None, (note, about))), summaries)


def _overall_note(entries: Sequence[Entry]) -> str:
    """What the overall number averages, and which questions are no release."""
    report = entries[0].first.best_of_n or {}
    names = report.get("overall_of", report["benchmarks"])
    note = f"Overall: mean of {len(names)} benchmarks ({', '.join(names)})."
    partial = [name for name in report["benchmarks"] if entries[0].first.facts(name).get("mismatches")]
    if partial:
        note += f" Not the released questions, so not to be compared with published numbers: {', '.join(partial)}."
    if len(entries[0].results) > 1:
        note += f" Mean and standard deviation over {len(entries[0].results)} seeds."
    return note
