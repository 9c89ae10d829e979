"""No answer is lost or mixed with others: of a complete output, of other prompts, of earlier versions, of two runs."""

import json
import os

import pytest
from naming import (
    CONTENTS,
    NAMES,
    Contents,
    Killed,
    Names,
    Predictor,
    everything,
    expected,
    predict,
    read,
    shard,
    with_settings,
)

from datamodules.batching.shards import Shard
from datamodules.policy.prompt_batches import PromptBatch
from lightning_modules.callbacks.prediction_journal import PredictionJournal
from lightning_modules.checkpointing import run_lock

# ---------------------------------------------------- what is finished stays


def test_a_complete_output_is_left_as_it_is(tmp_path, caplog):
    output = tmp_path / "rows.jsonl"
    predict(output, with_settings("first", temperature=1.0))
    before = everything(tmp_path)
    again = with_settings("again", temperature=1.0)
    predict(output, again)
    assert again.asked == []
    assert "rows.jsonl is there, and complete: nothing is left to do" in caplog.text
    with pytest.raises(
        ValueError, match=r"a finished run with other settings is there: temperature was 1\.0, is 0\.5; "
    ):
        predict(output, with_settings("other", temperature=0.5))
    with pytest.raises(
        ValueError, match=r"a finished run of other prompts is there: 7 with the digest \w+, now 6 with"
    ):
        predict(output, with_settings("other", temperature=1.0), Names(NAMES[:6]))
    assert everything(tmp_path) == before


def test_an_output_of_unknown_origin_is_left_as_it_is(tmp_path):
    """Of an earlier version, or no output at all."""
    output = tmp_path / "rows.jsonl"
    output.write_text("somebody's\n")
    with pytest.raises(FileExistsError, match=r"rows\.jsonl is there, and nothing beside it says .* with --overwrite"):
        predict(output, Predictor())
    assert everything(tmp_path) == {"rows.jsonl": b"somebody's\n"}


def test_a_journal_of_unknown_origin(tmp_path):
    """Its answers might be of any settings."""
    output = tmp_path / "rows.jsonl"
    with pytest.raises(Killed):
        predict(output, Predictor("first", 1))
    (tmp_path / "rows.jsonl.settings").unlink()
    with pytest.raises(FileExistsError, match=r"rows\.jsonl\.journal-00000 is there, and nothing beside it says"):
        predict(output, Predictor())
    predict(output, Predictor("second"), overwrite=True)
    assert read(output) == expected(lambda name: "second")


@pytest.mark.parametrize("moved", [False, True])
def test_killed_after_the_output_and_before_the_journals_are_removed(tmp_path, moved):
    """Also if somebody then moves the output away: answers of other settings are not taken."""
    output = tmp_path / "rows.jsonl"
    first = with_settings("first", temperature=1.0)
    first.killed_at = 3
    with pytest.raises(Killed):
        predict(output, first)
    (journal,) = tmp_path.glob("rows.jsonl.journal-*")
    content = journal.read_bytes()
    predict(output, with_settings("second", temperature=1.0))
    journal.write_bytes(content)
    if moved:
        output.rename(tmp_path / "moved.jsonl")
    with pytest.raises(ValueError, match=r"run with other settings is there: temperature was 1\.0, is 0\.5"):
        predict(output, with_settings("other", temperature=0.5))
    third = with_settings("third", temperature=1.0)
    predict(output, third)
    assert third.asked == (NAMES[6:] if moved else [])
    assert not journal.exists()


def test_no_prompts(tmp_path):
    output = tmp_path / "rows.jsonl"
    predict(output, Predictor())
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"rows\.jsonl: there are no prompts to answer"):
        predict(output, Predictor("second"), Names([]))
    assert everything(tmp_path) == before


def test_begin_anew(tmp_path):
    """The old output stays until the new one is complete; a kill loses nothing of either."""
    output = tmp_path / "rows.jsonl"
    predict(output, with_settings("first", temperature=1.0))
    second = with_settings("second", temperature=0.5)
    second.killed_at = 2
    with pytest.raises(Killed):
        predict(output, second, overwrite=True)
    assert read(output) == expected(lambda name: "first")
    third = with_settings("third", temperature=0.5)
    predict(output, third)
    assert third.asked == NAMES[4:]
    assert read(output) == expected(lambda name: "second" if name in NAMES[:4] else "third")
    fourth = with_settings("fourth", temperature=0.5)
    predict(output, fourth, overwrite=True)
    assert read(output) == expected(lambda name: "fourth")


def test_a_job_that_begins_anew_goes_on_when_it_is_requeued(tmp_path, monkeypatch):
    output = tmp_path / "rows.jsonl"
    predict(output, Predictor("old"))
    with pytest.raises(Killed):
        predict(output, Predictor("first", 2), overwrite=True)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = Predictor("again")
    predict(output, again, overwrite=True)
    assert again.asked == NAMES[4:]


def test_an_output_that_was_moved_away(tmp_path):
    output = tmp_path / "rows.jsonl"
    predict(output, with_settings("first", temperature=1.0))
    output.rename(tmp_path / "old.jsonl")
    predict(output, with_settings("second", temperature=0.5))
    assert read(output) == expected(lambda name: "second")


# ----------------------------------------------------------- other prompts


def killed_after(output, batches, contents=CONTENTS):
    with pytest.raises(Killed):
        predict(output, Predictor("first", batches), Contents(contents))


def test_a_prompt_that_is_gone_or_has_changed(tmp_path):
    """Their answers would belong to nothing, or to another prompt."""
    output = tmp_path / "rows.jsonl"
    killed_after(output, 2)
    before = everything(tmp_path)
    gone = {name: text for name, text in CONTENTS.items() if name != NAMES[1]}
    with pytest.raises(ValueError, match=r"run of other prompts is there: 1 answered ones are gone \(prompt 1\); give"):
        predict(output, Predictor(), Contents(gone))
    changed = CONTENTS | {NAMES[0]: "other", NAMES[3]: "other", NAMES[6]: "other"}
    with pytest.raises(ValueError, match=r"2 answered ones have another content \(prompt 0, prompt 3\); give"):
        predict(output, Predictor(), Contents(changed))
    assert everything(tmp_path) == before


def test_prompts_without_an_answer_may_change(tmp_path, caplog):
    output = tmp_path / "rows.jsonl"
    killed_after(output, 2)
    changed = {name: text for name, text in CONTENTS.items() if name != NAMES[5]} | {NAMES[6]: "other", "new": "new"}
    second = Predictor("second")
    predict(output, second, Contents(changed))
    assert second.asked == [NAMES[4], NAMES[6], "new"]
    assert "the prompts have changed, 7 before and 7 now; all 4 answered ones are among them" in caplog.text
    assert [row["name"] for row in read(output)] == [name for name in changed for _ in range(2)]
    # It is an output of these prompts now.
    predict(output, Predictor("third"), Contents(changed))
    assert {row["run"] for row in read(output)} == {"first", "second"}
    with pytest.raises(ValueError, match="a finished run of other prompts is there"):
        predict(output, Predictor("third"), Contents(CONTENTS))


# ------------------------------------------------------- earlier versions


def old_journal(output, names, settings):
    entries = [[name, [{"name": name, "row": row, "run": "old"} for row in range(2)]] for name in names]
    output.with_name("rows.jsonl.journal-00000").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    output.with_name("rows.jsonl.settings").write_text(json.dumps(settings, sort_keys=True))


def test_a_journal_of_an_earlier_version_goes_on(tmp_path, caplog):
    output = tmp_path / "rows.jsonl"
    old_journal(output, NAMES[:3], {"seed": 1})
    with pytest.raises(ValueError, match="an unfinished run with other settings is there: seed was 1, is 2"):
        predict(output, with_settings("new", seed=2), Contents(CONTENTS))
    new = with_settings("new", seed=1)
    predict(output, new, Contents(CONTENTS))
    assert new.asked == NAMES[3:]
    assert "3 answers are from an earlier version of this package" in caplog.text
    assert read(output) == expected(lambda name: "old" if name in NAMES[:3] else "new")


def test_a_journal_of_an_earlier_version_that_numbered_prompts(tmp_path):
    output = tmp_path / "rows.jsonl"
    old_journal(output, ["annotations-1", NAMES[0]], {})
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"gone \(annotations-1\); an earlier version .* numbered rows without 'id'"):
        predict(output, Predictor(), Contents(CONTENTS))
    assert everything(tmp_path) == before


def test_an_output_of_an_earlier_version_with_journals(tmp_path):
    """It began anew beside any output, and would have replaced it at the end."""
    output = tmp_path / "rows.jsonl"
    old_journal(output, NAMES, {})
    output.write_text("older\n")
    with pytest.raises(FileExistsError, match="nothing beside it says which settings"):
        predict(output, Predictor())
    assert output.read_text() == "older\n"


# ----------------------------------------------------------------- left out


class NamedBatch(PromptBatch):
    """A batch of names."""

    def __init__(self, names, left_out):
        super().__init__([], [], [], left_out)
        self.names = names

    def __iter__(self):
        return iter(self.names)


class Broken(Predictor):
    """Some of its prompts have a picture that cannot be opened."""

    def __init__(self, run, broken):
        super().__init__(run)
        self.broken = broken

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return NamedBatch(batch, {name: f"{name}: cut short" for name in batch if name in self.broken})


def test_prompts_that_are_left_out(tmp_path, caplog):
    """They have no rows, are named at the end and whenever the output is used again, and are tried again until then."""
    output = tmp_path / "rows.jsonl"
    broken = Broken("first", NAMES[1:3])
    broken.killed_at = 2
    with pytest.raises(Killed):
        predict(output, broken)
    second = Broken("second", [NAMES[2], NAMES[6]])
    predict(output, second)
    assert second.asked == [NAMES[1], NAMES[2], *NAMES[4:]]
    left = "2 prompts are left out: prompt 2: cut short; prompt 6: cut short"
    assert caplog.messages[-1] == f"{output}: {left}"
    rows = read(output)
    assert [row["name"] for row in rows[::2]] == [NAMES[0], NAMES[1], *NAMES[3:6]]
    assert [row["run"] for row in rows[::2]] == ["first", "second", "first", "second", "second"]
    caplog.clear()
    predict(output, Predictor("third"))
    assert f"nothing is left to do; {left}" in caplog.text


def test_no_prompt_can_be_answered(tmp_path):
    output = tmp_path / "rows.jsonl"
    with pytest.raises(RuntimeError, match=r"no prompt could be answered: 7 prompts are left out: prompt 0: cut short"):
        predict(output, Broken("first", NAMES))
    assert not output.exists()


# -------------------------------------------------------------- at the same time


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.2)


@pytest.mark.parametrize(
    ("running", "started"), [(None, None), ((0, 3), (0, 3)), (None, (0, 3)), ((1, 3), None), ((1, 3), (1, 2))]
)
def test_two_runs_at_once(running, started, tmp_path, impatient):
    """The second one says which process has the output, and neither samples nor touches a thing."""
    output = tmp_path / "rows.jsonl"
    first = PredictionJournal(output, Shard(*running) if running else Shard())
    first.begin({}, CONTENTS, overwrite=False)
    before = everything(tmp_path)
    second = Predictor("second")
    for overwrite in (False, True):
        with pytest.raises(
            RuntimeError, match=rf"rows\.jsonl: another run writes here now: .* process {os.getpid()}, since"
        ):
            predict(
                output, second, Contents(CONTENTS, shard=Shard(*started) if started else Shard()), overwrite=overwrite
            )
    assert second.asked == []
    assert everything(tmp_path) == before
    first.release()
    predict(output, Predictor(), Contents(CONTENTS))


def test_shards_at_once(tmp_path, impatient):
    """They do not keep each other out, until one wants to begin anew with other settings."""
    output = tmp_path / "rows.jsonl"
    first = PredictionJournal(output, Shard(0, 2))
    first.begin({}, CONTENTS, overwrite=False)
    first.journal_of(0).touch()
    predict(output, Predictor("second"), Contents(CONTENTS, shard=Shard(1, 2)))
    other = with_settings("other", temperature=1.0)
    with pytest.raises(RuntimeError, match="another run writes here now"):
        predict(output, other, Contents(CONTENTS, shard=Shard(1, 2)), overwrite=True)
    first.release()
    predict(output, Predictor("first"), Contents(CONTENTS, shard=Shard(0, 2)))
    assert {row["run"] for row in read(output)} == {"first", "second"}


def test_another_run_has_begun_with_other_prompts(tmp_path):
    """Two shards of different prompts: nothing is joined, and nothing is lost."""
    output = tmp_path / "rows.jsonl"
    late = PredictionJournal(output, Shard(0, 2))
    late.begin({}, CONTENTS, overwrite=False)
    late.journal_of(0).touch()
    predict(output, Predictor("other"), Contents(CONTENTS | {"new": ""}, shard=Shard(1, 2)))
    before = everything(tmp_path)
    with pytest.raises(RuntimeError, match="another run has begun with other settings or prompts since"):
        late.join(NAMES, is_whole=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("same_settings", [False, True])
def test_shards_that_begin_anew(tmp_path, same_settings):
    """One after the other, each with `--overwrite`: what the first one has done since is not forgotten."""
    output = tmp_path / "rows.jsonl"
    for index in range(3):
        predict(output, with_settings("old", temperature=1.0), shard(index))
    temperature = 1.0 if same_settings else 0.5
    for index in range(3):
        predict(output, with_settings(f"shard {index}", temperature=temperature), shard(index), overwrite=True)
    assert read(output) == expected(lambda name: f"shard {NAMES.index(name) % 3}")
