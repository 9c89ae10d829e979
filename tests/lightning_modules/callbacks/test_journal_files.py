import json
import tracemalloc

import pytest

from lightning_modules.callbacks.journal_files import (
    _MOST_OPEN,
    Entry,
    OpenedJournals,
    has_a_line,
    located_entries,
    without_torn_line,
)
from lightning_modules.callbacks.prediction_journal import PredictionJournal


def test_an_entry_is_read_again():
    entry = Entry("a", [{"n": 1}], "digest", None, {"seconds": 2.0})
    assert Entry.parsed(entry.line.encode(), "here") == entry
    assert json.loads(Entry("a", []).line) == {"prompt_id": "a", "rows": [], "digest": None}
    with pytest.raises(ValueError, match="Out of range float"):
        Entry("a", [float("nan")]).line  # noqa: B018


@pytest.mark.parametrize("size", [0, 1, 2**16 - 1, 2**16, 2**17 + 3])
@pytest.mark.parametrize("whole", ["", "first\n", "x" * 2**16 + "\n"])
def test_a_torn_line_is_removed(tmp_path, size, whole):
    path = tmp_path / "journal"
    path.write_text(whole + "y" * size)
    without_torn_line(path)
    assert path.read_text() == whole
    assert has_a_line(path) == bool(whole)


def test_entries_are_found_in_more_files_than_are_open(tmp_path):
    paths = [tmp_path / f"{number:03d}" for number in range(_MOST_OPEN + 5)]
    for path in paths:
        path.write_text("".join(Entry(f"{path.name}-{n}", ["é" * n]).line for n in range(3)))
    places = {entry.prompt_id: (path, offset) for path, offset, entry in located_entries(paths)}
    with OpenedJournals() as opened:
        for number in (2, 0, 1):
            for path in paths:
                name = f"{path.name}-{number}"
                assert opened.entry(*places[name]) == Entry(name, ["é" * number])
        assert len(opened._files) == _MOST_OPEN


def test_a_join_holds_no_rows_in_memory(tmp_path):
    """20 MB of rows in the reverse order of the prompts, joined in a tenth of that."""
    files = PredictionJournal(tmp_path / "rows.jsonl")
    names = [f"prompt {number}" for number in range(80)]
    files.begin({}, dict.fromkeys(names, ""), overwrite=False)
    text = "x" * 2**16
    with files.journal_of(0).open("a") as journal:
        for name in reversed(names):
            journal.write(Entry(name, [{"name": name, "row": row, "text": text} for row in range(4)], "").line)
    tracemalloc.start()
    files.join(names, is_whole=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    files.release()
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").open()]
    assert [(row["name"], row["row"]) for row in lines] == [(name, row) for name in names for row in range(4)]
    assert (tmp_path / "rows.jsonl").stat().st_size > 20e6 > 10 * peak


def test_costs_are_summed_up(tmp_path):
    files = PredictionJournal(tmp_path / "rows.jsonl")
    files.begin({}, {"a": "", "b": ""}, overwrite=False)
    with files.journal_of(0).open("a") as journal:
        journal.write(Entry("a", [1, 2], "", None, {"tokens": 3, "seconds": 0.5}).line)
        journal.write(Entry("b", [3], "", None, {"tokens": 4}).line)
    files.join(["a", "b"], is_whole=True)
    files.release()
    record = json.loads((tmp_path / "rows.jsonl.settings").read_text())
    assert record["costs"] == {"tokens": 7, "seconds": 0.5}
    assert record["rows"] == 3
    assert record["when"].endswith("+00:00")
