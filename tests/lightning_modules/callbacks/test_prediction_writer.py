import json
import resource
from contextlib import contextmanager

import pytest
from naming import NAMES, Killed, Predictor, expected, journals, predict, read, shard

from lightning_modules.callbacks.journal_files import Entry
from lightning_modules.callbacks.prediction_journal import PredictionJournal


def test_rows_in_the_order_of_the_prompts(tmp_path):
    output = tmp_path / "folder" / "rows.jsonl"
    predict(output, Predictor())
    assert read(output) == expected(lambda name: "first")
    assert journals(output) == []


@pytest.mark.parametrize("killed_at", [0, 1, 3])
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, killed_at):
    output = tmp_path / "rows.jsonl"
    first, second = Predictor("first", killed_at), Predictor("second")
    with pytest.raises(Killed):
        predict(output, first)
    assert not output.exists()
    predict(output, second)
    done = 2 * killed_at
    assert first.asked == NAMES[:done]
    assert second.asked == NAMES[done:]
    assert read(output) == expected(lambda name: "first" if name in NAMES[:done] else "second")
    assert journals(output) == []


def test_a_run_with_other_settings_does_not_go_on(tmp_path):
    output = tmp_path / "rows.jsonl"
    first, other, same = Predictor("first", killed_at=1), Predictor("other"), Predictor("same")
    first.prediction_settings = same.prediction_settings = {"seed": 0}
    other.prediction_settings = {"seed": 1}
    with pytest.raises(Killed):
        predict(output, first)
    with pytest.raises(
        ValueError, match=r"an unfinished run with other settings is there: seed was 0, is 1; give the same"
    ):
        predict(output, other)
    predict(output, same)
    assert read(output) == expected(lambda name: "first" if name in NAMES[:2] else "same")
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == ["rows.jsonl", "rows.jsonl.settings"]


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_torn_last_line_is_predicted_again(tmp_path, cut):
    """A kill while a line was written: its prompt alone is asked again, and no part of the line is left."""
    output = tmp_path / "rows.jsonl"
    with pytest.raises(Killed):
        predict(output, Predictor("first", 2))
    (journal,) = journals(output)
    content = journal.read_bytes()
    assert content.count(b"\n") == 4
    assert cut < len(content.splitlines()[-1])
    journal.write_bytes(content[:-cut])
    second = Predictor("second")
    predict(output, second)
    assert second.asked == NAMES[3:]
    assert read(output) == expected(lambda name: "first" if name in NAMES[:3] else "second")


def test_a_journal_of_one_torn_line(tmp_path):
    output = tmp_path / "rows.jsonl"
    output.with_name("rows.jsonl.journal-00000").write_text('["prompt 0", [{"na')
    predict(output, Predictor())
    assert read(output) == expected(lambda name: "first")


def test_killed_twice_and_with_other_ranks(tmp_path):
    """Journals of ranks that do not run any more count too."""
    output = tmp_path / "rows.jsonl"
    entry = ["prompt 5", [{"name": "prompt 5", "row": row, "run": "other rank"} for row in range(2)]]
    output.with_name("rows.jsonl.journal-00003").write_text(json.dumps(entry) + "\n")
    output.with_name("rows.jsonl.settings").write_text("{}")
    for run in ("first", "second"):
        with pytest.raises(Killed):
            predict(output, Predictor(run, 1))
    third = Predictor("third")
    predict(output, third)
    assert third.asked == ["prompt 4", "prompt 6"]
    runs = dict(zip(NAMES, ["first"] * 2 + ["second"] * 2 + ["third", "other rank", "third"], strict=True))
    assert read(output) == expected(runs.get)
    assert journals(output) == []


def test_killed_between_the_last_batch_and_the_join(tmp_path):
    output = tmp_path / "rows.jsonl"
    lines = [json.dumps([name, [{"name": name, "row": row, "run": "first"} for row in range(2)]]) for name in NAMES]
    output.with_name("rows.jsonl.journal-00000").write_text("".join(f"{line}\n" for line in lines))
    output.with_name("rows.jsonl.settings").write_text("{}")
    again = Predictor("second")
    predict(output, again)
    assert again.asked == []
    assert read(output) == expected(lambda name: "first")
    assert journals(output) == []


def test_a_prompt_without_prediction(tmp_path):
    output = tmp_path / "rows.jsonl"
    with pytest.raises(RuntimeError, match=r"rows.jsonl: no prediction for 2 prompts, the first is 'prompt 3'"):
        predict(output, Predictor(forgets=("prompt 3", "prompt 6")))
    assert not output.exists()
    # Nothing is lost: the journal is kept, and the prompts can be asked again.
    again = Predictor("second")
    predict(output, again)
    assert again.asked == ["prompt 3", "prompt 6"]


@pytest.mark.parametrize(("limit", "asked"), [(1, 2), (2, 4), (0.5, 4)])
def test_a_limited_run_is_no_error_and_can_be_completed(tmp_path, limit, asked):
    """The integer 1 is one batch, unlike the share 1.0."""
    output = tmp_path / "rows.jsonl"
    first = Predictor("first")
    predict(output, first, limit_predict_batches=limit)
    assert len(first.asked) == asked
    assert not output.exists()
    predict(output, Predictor("second"))
    assert read(output) == expected(lambda name: "first" if name in NAMES[:asked] else "second")


def test_a_trial_run_leaves_nothing(tmp_path):
    predict(tmp_path / "rows.jsonl", Predictor(), fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_line_inside_of_a_journal(tmp_path):
    output = tmp_path / "rows.jsonl"
    journal = output.with_name("rows.jsonl.journal-00000")
    journal.write_text('["prompt 0", []]\n["prompt 1"\n["prompt 2", []]\n')
    output.with_name("rows.jsonl.settings").write_text("{}")
    with pytest.raises(ValueError, match=r"rows.jsonl.journal-00000:2: not a journal entry .*; delete the line"):
        predict(output, Predictor())


def test_nan_is_refused(tmp_path):
    class WithNan(Predictor):
        def predict_step(self, batch, batch_idx):
            return [(name, [{"score": float("nan")}]) for name in batch]

    with pytest.raises(ValueError, match="Out of range float values"):
        predict(tmp_path / "rows.jsonl", WithNan())


# ---------------------------------------------------------------- shards


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_last_shard_writes_the_output(tmp_path, order):
    output = tmp_path / "folder" / "rows.jsonl"
    for index in order:
        assert not output.exists()
        predictor = Predictor(f"shard {index}")
        predict(output, predictor, shard(index))
        assert predictor.asked == NAMES[index::3]
    assert read(output) == expected(lambda name: f"shard {NAMES.index(name) % 3}")
    assert journals(output) == []


def test_a_killed_shard_goes_on_beside_the_others(tmp_path):
    output = tmp_path / "rows.jsonl"
    with pytest.raises(Killed):
        predict(output, Predictor("killed", 1), shard(0, 2))
    predict(output, Predictor("other"), shard(1, 2))
    assert not output.exists()
    again = Predictor("again")
    predict(output, again, shard(0, 2))
    assert again.asked == [NAMES[4], NAMES[6]]
    runs = dict(zip(NAMES, ["killed", "other", "killed", "other", "again", "other", "again"], strict=True))
    assert read(output) == expected(runs.get)


def test_another_number_of_shards_takes_over(tmp_path):
    output = tmp_path / "rows.jsonl"
    predict(output, Predictor("first"), shard(0))  # prompts 0, 3, 6
    rest = Predictor("rest")
    predict(output, rest)
    assert rest.asked == [NAMES[1], NAMES[2], NAMES[4], NAMES[5]]
    assert read(output) == expected(lambda name: "first" if name in NAMES[0::3] else "rest")
    assert journals(output) == []


def test_a_shard_that_starts_after_the_end_has_nothing_to_do(tmp_path, caplog):
    output = tmp_path / "rows.jsonl"
    for index in range(3):
        predict(output, Predictor("first"), shard(index))
    content = output.read_bytes()
    # The one that joined was killed before it had removed all journals.
    output.with_name("rows.jsonl.journal-left").write_text("")
    late = Predictor("late")
    predict(output, late, shard(1))
    assert late.asked == []
    assert "rows.jsonl is there, and complete" in caplog.text
    assert output.read_bytes() == content
    assert journals(output) == []
    other = Predictor("other")
    other.prediction_settings = {"seed": 1}
    with pytest.raises(
        ValueError, match=r"a finished run with other settings is there: seed was None, is 1; .*--overwrite"
    ):
        predict(output, other, shard(1))


def test_a_shard_answers_for_its_own_prompts_only(tmp_path):
    output = tmp_path / "rows.jsonl"
    predict(output, Predictor(forgets=(NAMES[0],)), shard(1))
    with pytest.raises(RuntimeError, match="no prediction for 1 prompts, the first is 'prompt 0'"):
        predict(output, Predictor(forgets=(NAMES[0],)), shard(0))


@contextmanager
def files_of_at_most(size):
    """As on a full disk: a write beyond so many bytes of a file fails, and what fitted is written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [300, 1000])
def test_a_disk_that_fills_up(tmp_path, size, monkeypatch):
    """The error names the file; after a restart there is no half row, and what was written is not predicted again."""
    monkeypatch.setattr("datamodules.storage.files._TRIAL", 1)  # the disk is not full yet when the run starts
    output = tmp_path / "rows.jsonl"
    with files_of_at_most(size), pytest.raises(OSError, match=r"File too large: .*rows\.jsonl\.journal-00000"):
        predict(output, Predictor("first"))
    (journal,) = journals(output)
    text = journal.read_bytes()
    assert len(text) == size
    assert not text.endswith(b"\n")
    done = text.count(b"\n")
    second = Predictor("second")
    predict(output, second)
    assert second.asked == NAMES[done:]
    assert read(output) == expected(lambda name: "first" if name in NAMES[:done] else "second")


def test_a_disk_that_is_full_at_the_join(tmp_path):
    """The journal stays, and no part of the output is there."""
    files = PredictionJournal(tmp_path / "rows.jsonl")
    files.begin({}, dict.fromkeys(NAMES, ""), overwrite=False)
    with files.journal_of(0).open("a") as journal:
        for name in NAMES:
            journal.write(Entry(name, [{"name": name, "text": "x" * 100}], "").line)
    with files_of_at_most(500), pytest.raises(OSError, match=r"File too large: .*rows\.jsonl'"):
        files.join(NAMES, is_whole=True)
    assert not files.output.exists()
    assert len(journals(files.output)) == 1
    files.join(NAMES, is_whole=True)
    files.release()
    assert [row["name"] for row in read(files.output)] == NAMES
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == [
        "rows.jsonl",
        "rows.jsonl.settings",
    ]
